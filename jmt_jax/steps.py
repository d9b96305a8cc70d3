"""One train step and one eval step; the same bodies under jit over a mesh and under pmap.

The loss is a function of sums (moments) over the global batch. A step therefore computes its own moments,
sums them over the devices where it runs as one copy a device, takes the loss's gradient with respect to
the summed moments, and pulls that back through its own rows. CCC is no sum, so no other order is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jmt_jax.losses import Loss
from jmt_jax.train_state import TrainState, partition

Metrics = dict[str, jax.Array]


def make_train_step(
    model: nn.Module,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    trainable: Sequence[str],
    seed: int,
    axis_name: str | None = None,
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """The body of a training step.

    Args:
      model: Called as ``model.apply(variables, inputs, masks, train=True)``.
      loss: Moments and value.
      optimizer: Applied to the trainable parameters.
      trainable: Top-level names of the parameters that are changed.
      seed: Random draws are folded from (seed, use, step): a resumed run draws what the whole one would.
      axis_name: Axis to reduce over under pmap; None under jit.

    Returns:
      (state, batch) -> (state, {"loss", "gradient_norm"}).
    """

    def total(tree: Any) -> Any:
        return tree if axis_name is None else jax.lax.psum(tree, axis_name)

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        learned, fixed = partition(state.params, trainable)
        rngs = {
            use: jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), state.step)
            for number, use in enumerate(("dropout", "modality"))
        }

        def local_moments(learned):
            logits, updates = model.apply(
                {"params": {**fixed, **learned}, "batch_stats": state.batch_stats},
                batch["inputs"],
                batch["masks"],
                train=True,
                rngs=rngs,
                mutable=["batch_stats"],
            )
            return loss.moments(logits, batch["labels"], batch["label_mask"]), updates

        moments, pull_back, updates = jax.vjp(local_moments, learned, has_aux=True)
        value, cotangent = jax.value_and_grad(loss.value)(total(moments))
        gradient = total(pull_back(cotangent)[0])
        change, opt_state = optimizer.update(gradient, state.opt_state, learned)
        state = TrainState(
            step=state.step + 1,
            params={**fixed, **optax.apply_updates(learned, change)},
            batch_stats={**state.batch_stats, **updates.get("batch_stats", {})},
            opt_state=opt_state,
        )
        return state, {"loss": value, "gradient_norm": optax.global_norm(gradient)}

    return train_step


def make_eval_step(model: nn.Module) -> Callable[[Any, Any], jax.Array]:
    """The body of an evaluation step: (variables, batch) -> logits float32, one row a row of the batch."""

    def eval_step(variables: Any, batch: Any) -> jax.Array:
        return model.apply(variables, batch["inputs"], batch["masks"], train=False).astype(jnp.float32)

    return eval_step
