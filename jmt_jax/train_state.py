"""What training changes, as one pytree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

Params = dict[str, Any]


@flax.struct.dataclass
class TrainState:
    """Everything that a step reads and writes.

    Attributes:
      step: int32 [], updates done in this stage.
      params: All parameters, by the model's top-level names (``backbone_<stream>``, ``fusion``, ``head``).
      batch_stats: Running statistics of batch normalisation; {} without any.
      opt_state: The optimizer's state, of the trainable parameters only.
      averages: Exponential moving averages over the updates, ``{"params": the trainable ones,
        "batch_stats": ..}``; None where none are kept.
    """

    step: jax.Array
    params: Params
    batch_stats: Params
    opt_state: optax.OptState
    averages: Params | None = None

    @classmethod
    def create(
        cls,
        variables: Params,
        optimizer: optax.GradientTransformation,
        trainable: Sequence[str],
        *,
        averaged: bool = False,
    ) -> TrainState:
        """A state at step 0.

        Args:
          variables: ``params`` and, where the model has any, ``batch_stats``.
          optimizer: Its state is made for the trainable parameters.
          trainable: Top-level names of the parameters that training changes.
          averaged: Whether moving averages are kept; they begin at these values.
        """
        learned, _ = partition(variables["params"], trainable)
        batch_stats = dict(variables.get("batch_stats", {}))
        averages = None
        if averaged:
            # Copies: a step may reuse the memory of everything in the state, so nothing is in it twice.
            averages = jax.tree.map(jnp.copy, {"params": learned, "batch_stats": batch_stats})
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=dict(variables["params"]),
            batch_stats=batch_stats,
            opt_state=optimizer.init(learned),
            averages=averages,
        )

    @property
    def variables(self) -> Params:
        """What ``model.apply`` takes in a training step."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def evaluated_variables(self) -> Params:
        """What is evaluated and kept: the averages where there are any, else `variables`."""
        if self.averages is None:
            return self.variables
        return {
            "params": {**self.params, **self.averages["params"]},
            "batch_stats": self.averages["batch_stats"],
        }


def partition(params: Params, trainable: Sequence[str]) -> tuple[Params, Params]:
    """Parameters that training changes, and the others, by top-level name."""
    learned = {name: value for name, value in params.items() if name in trainable}
    fixed = {name: value for name, value in params.items() if name not in trainable}
    return learned, fixed


def moved_averages(averages: Params, values: Params, decay: float, step: jax.Array) -> Params:
    """Exponential moving averages after one more update.

    Args:
      averages: Before it.
      values: The same tree, after the update.
      decay: Share of the old average that is kept, in (0, 1). Early on less is kept,
        (1 + step) / (10 + step): a short training would otherwise average over its own beginning.
      step: int32 [], updates done before this one.

    Returns:
      The new averages. What did not change keeps every bit.
    """
    done = step.astype(jnp.float32)
    share = 1.0 - jnp.minimum(decay, (1.0 + done) / (10.0 + done))
    return jax.tree.map(lambda old, new: old + share * (new - old), averages, values)
