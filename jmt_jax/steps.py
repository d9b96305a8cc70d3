"""One train step and one eval step; the same bodies under jit over a mesh and under pmap.

The loss is a function of sums (moments) over the global batch. A step therefore computes its own moments,
sums them over the devices where it runs as one copy a device, takes the loss's gradient with respect to
the summed moments, and pulls that back through its own rows. CCC is no sum, so no other order is right.

A batch too large for the memory is taken in micro-batches, in two passes: first the moments of all of them,
then each one's share of the gradient, pulled back from the summed moments. That costs one forward pass more
and gives the gradient of the undivided batch, but for two things that a micro-batch does by itself: batch
normalisation in training uses its statistics (and moves the running ones once for each), and dropout draws
for it alone (the same in both passes).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jmt_jax.losses import Loss
from jmt_jax.train_state import TrainState, moved_averages, partition

Metrics = dict[str, jax.Array]


def make_train_step(
    model: nn.Module,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    trainable: Sequence[str],
    seed: int,
    axis_name: str | None = None,
    accumulation_steps: int = 1,
    ema_decay: float = 0.0,
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """The body of a training step.

    Args:
      model: Called as ``model.apply(variables, inputs, masks, train=True)``.
      loss: Moments and value.
      optimizer: Applied to the trainable parameters.
      trainable: Top-level names of the parameters that are changed.
      seed: Random draws are folded from (seed, use, step): a resumed run draws what the whole one would.
      axis_name: Axis to reduce over under pmap; None under jit.
      accumulation_steps: Micro-batches that a batch is taken in; each device's rows divide by it.
      ema_decay: Of the state's moving averages; 0 where it keeps none.

    Returns:
      (state, batch) -> (state, {"loss", "gradient_norm", "skipped"}). Where the loss or the gradient is not
      finite, ``skipped`` is True and nothing but the state's ``step`` moves: the next batch draws anew.
    """

    def total(tree: Any) -> Any:
        return tree if axis_name is None else jax.lax.psum(tree, axis_name)

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        learned, fixed = partition(state.params, trainable)

        def local_moments(learned, batch_stats, batch, rngs):
            logits, updates = model.apply(
                {"params": {**fixed, **learned}, "batch_stats": batch_stats},
                batch["inputs"],
                batch["masks"],
                train=True,
                rngs=rngs,
                mutable=["batch_stats"],
            )
            batch_stats = {**batch_stats, **updates.get("batch_stats", {})}
            return loss.moments(logits, batch["labels"], batch["label_mask"]), batch_stats

        rngs = _draws(seed, state.step)
        find = _gradient if accumulation_steps == 1 else functools.partial(_accumulate, accumulation_steps)
        value, gradient, batch_stats = find(
            local_moments, loss.value, total, learned, state.batch_stats, batch, rngs
        )
        change, opt_state = optimizer.update(gradient, state.opt_state, learned)
        learned = optax.apply_updates(learned, change)
        averages = state.averages
        if averages is not None:
            now = {"params": learned, "batch_stats": batch_stats}
            averages = moved_averages(averages, now, ema_decay, state.step)
        norm = optax.global_norm(gradient)
        good = jnp.isfinite(value) & jnp.isfinite(norm)
        after = (learned, batch_stats, opt_state, averages)
        before = (partition(state.params, trainable)[0], state.batch_stats, state.opt_state, state.averages)
        learned, batch_stats, opt_state, averages = jax.tree.map(
            functools.partial(jnp.where, good), after, before
        )
        state = TrainState(
            step=state.step + 1,
            params={**fixed, **learned},
            batch_stats=batch_stats,
            opt_state=opt_state,
            averages=averages,
        )
        return state, {"loss": value, "gradient_norm": norm, "skipped": ~good}

    return train_step


def _draws(seed: int, step: jax.Array) -> dict[str, jax.Array]:
    """The keys of a step's random draws, by use."""
    key = jax.random.key(seed)
    return {
        use: jax.random.fold_in(jax.random.fold_in(key, number), step)
        for number, use in enumerate(("dropout", "modality"))
    }


# (learned, batch_stats, batch, rngs) -> (moments of this device's rows, batch_stats after them).
LocalMoments = Callable[[Any, Any, Any, Any], tuple[Any, Any]]


def _gradient(
    local_moments: LocalMoments,
    value_of: Callable[[Any], jax.Array],
    total: Callable[[Any], Any],
    learned: Any,
    batch_stats: Any,
    batch: Any,
    rngs: dict[str, jax.Array],
) -> tuple[jax.Array, Any, Any]:
    """Loss, gradient and running statistics of a batch; ``total`` sums over devices."""
    moments, pull_back, batch_stats = jax.vjp(
        lambda learned: local_moments(learned, batch_stats, batch, rngs), learned, has_aux=True
    )
    value, cotangent = jax.value_and_grad(value_of)(total(moments))
    return value, total(pull_back(cotangent)[0]), batch_stats


def _accumulate(
    parts: int,
    local_moments: LocalMoments,
    value_of: Callable[[Any], jax.Array],
    total: Callable[[Any], Any],
    learned: Any,
    batch_stats: Any,
    batch: Any,
    rngs: dict[str, jax.Array],
) -> tuple[jax.Array, Any, Any]:
    """`_gradient` in ``parts`` micro-batches: all moments first, then all gradients."""

    def part(number: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        """Every ``parts``-th row: a device keeps its rows, and all devices have work in each micro-batch."""

        def rows(x: jax.Array) -> jax.Array:
            grouped = x.reshape(len(x) // parts, parts, *x.shape[1:])
            return jax.lax.dynamic_index_in_dim(grouped, number, axis=1, keepdims=False)

        one_rngs = {use: jax.random.fold_in(key, number) for use, key in rngs.items()}
        return jax.tree.map(rows, batch), one_rngs

    def add_moments(carry: Any, number: jax.Array) -> tuple[Any, None]:
        sums, stats = carry
        moments, stats = local_moments(learned, stats, *part(number))
        return (jax.tree.map(jnp.add, sums, moments), stats), None

    shapes, _ = jax.eval_shape(lambda: local_moments(learned, batch_stats, *part(0)))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    numbers = jnp.arange(parts)
    (sums, _), _ = jax.lax.scan(add_moments, (zeros, batch_stats), numbers)
    value, cotangent = jax.value_and_grad(value_of)(total(sums))

    def add_gradient(carry: Any, number: jax.Array) -> tuple[Any, None]:
        # The statistics go the same way again, so that both passes compute the same numbers.
        gradient, stats = carry
        one_batch, one_rngs = part(number)
        _, pull_back, stats = jax.vjp(
            lambda learned: local_moments(learned, stats, one_batch, one_rngs), learned, has_aux=True
        )
        return (jax.tree.map(jnp.add, gradient, pull_back(cotangent)[0]), stats), None

    nothing = jax.tree.map(jnp.zeros_like, learned)
    (gradient, batch_stats), _ = jax.lax.scan(add_gradient, (nothing, batch_stats), numbers)
    return value, total(gradient), batch_stats


def make_eval_step(model: nn.Module) -> Callable[[Any, Any], jax.Array]:
    """The body of an evaluation step: (variables, batch) -> logits float32, one row a row of the batch."""

    def eval_step(variables: Any, batch: Any) -> jax.Array:
        return model.apply(variables, batch["inputs"], batch["masks"], train=False).astype(jnp.float32)

    return eval_step
