"""Optimizers and learning-rate schedules from a stage's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import optax

from data_pipelines.errors import UsageError

OPTIMIZERS = ("sgd", "adam", "adamw")
# Endings of the names of the parameters that weight decay is about: what is multiplied with inputs.
_DECAYED = ("kernel", "direction")
SCHEDULES = ("constant", "cosine", "step")


def make_schedule(options: Mapping[str, Any], total_steps: int, steps_per_epoch: int) -> optax.Schedule:
    """Learning rate as a function of the update's number.

    Args:
      options: ``learning_rate``; ``schedule`` (constant, cosine to ``learning_rate_floor``, or step: times
        ``decay_factor`` every ``decay_every_epochs``, not below the floor: facts B6); ``warmup_epochs`` of
        linear rise before it, from which the schedule's epochs count. The first update has the first step
        of that rise, not 0: of W updates number n has (n + 1) / W of the learning rate.
      total_steps: Updates of the whole stage.
      steps_per_epoch: Updates of one epoch.
    """
    peak, floor = options["learning_rate"], options.get("learning_rate_floor", 0.0)
    warmup_steps = round(options.get("warmup_epochs", 0) * steps_per_epoch)
    kind = options.get("schedule", "constant")
    if kind not in SCHEDULES:
        raise UsageError(f"schedule={kind!r} is unknown; it is one of {', '.join(SCHEDULES)}")
    if kind == "cosine":
        main = optax.cosine_decay_schedule(peak, max(1, total_steps - warmup_steps), alpha=floor / peak)
    elif kind == "step":
        main = optax.exponential_decay(
            peak,
            transition_steps=max(1, round(options["decay_every_epochs"] * steps_per_epoch)),
            decay_rate=options["decay_factor"],
            staircase=True,
            end_value=floor,
        )
    else:
        main = optax.constant_schedule(peak)
    if not warmup_steps:
        return main
    rise = optax.linear_schedule(peak / warmup_steps, peak, max(1, warmup_steps - 1))
    return optax.join_schedules([rise, main], [warmup_steps])


def make_optimizer(options: Mapping[str, Any], schedule: optax.Schedule) -> optax.GradientTransformation:
    """The optimizer of one stage.

    Args:
      options: ``optimizer`` (sgd with ``momentum`` and ``nesterov``, adam, or adamw), ``weight_decay``
        (added to the gradient for sgd and adam as torch does; decoupled for adamw), ``clip_gradient_norm``
        (0: no clipping).
      schedule: The learning rate.

    Deviation: torch's optimizers decay every parameter that they are given; here it is kernels alone. Biases,
    scales of norms, and tokens that stand for something absent or shared (``bottleneck``, ``absent``) have no
    weight to decay. The reference's stages have no decay.
    """
    kind = options["optimizer"]
    decay = options.get("weight_decay", 0.0)
    parts = []
    if options.get("clip_gradient_norm", 0.0):
        parts.append(optax.clip_by_global_norm(options["clip_gradient_norm"]))
    if decay and kind != "adamw":
        parts.append(optax.add_decayed_weights(decay, mask=decayed))
    if kind == "sgd":
        parts.append(
            optax.sgd(
                schedule,
                momentum=options.get("momentum", 0.0) or None,
                nesterov=options.get("nesterov", False),
            )
        )
    elif kind == "adam":
        parts.append(optax.adam(schedule))
    elif kind == "adamw":
        parts.append(optax.adamw(schedule, weight_decay=decay, mask=decayed))
    else:
        raise UsageError(f"optimizer={kind!r} is unknown; it is one of {', '.join(OPTIMIZERS)}")
    return optax.chain(*parts)


def decayed(params: Any) -> Any:
    """Which parameters weight decay changes: a tree of bools; True for kernels only."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _name(path).endswith(_DECAYED), params)


def _name(path: tuple[Any, ...]) -> str:
    """The last name on a path; "" for an array that is the whole tree."""
    return str(getattr(path[-1], "key", "")) if path else ""
