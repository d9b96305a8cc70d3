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
    """

    step: jax.Array
    params: Params
    batch_stats: Params
    opt_state: optax.OptState

    @classmethod
    def create(
        cls, variables: Params, optimizer: optax.GradientTransformation, trainable: Sequence[str]
    ) -> TrainState:
        """A state at step 0.

        Args:
          variables: ``params`` and, where the model has any, ``batch_stats``.
          optimizer: Its state is made for the trainable parameters.
          trainable: Top-level names of the parameters that training changes.
        """
        learned, _ = partition(variables["params"], trainable)
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=dict(variables["params"]),
            batch_stats=dict(variables.get("batch_stats", {})),
            opt_state=optimizer.init(learned),
        )

    @property
    def variables(self) -> Params:
        """What ``model.apply`` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def partition(params: Params, trainable: Sequence[str]) -> tuple[Params, Params]:
    """Parameters that training changes, and the others, by top-level name."""
    learned = {name: value for name, value in params.items() if name in trainable}
    fixed = {name: value for name, value in params.items() if name not in trainable}
    return learned, fixed
