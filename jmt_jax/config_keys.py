"""The keys that every configuration has, whatever its data are; an older or an own file may lack some."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_pipelines.errors import UsageError

_STAGE_OPTIONS = (
    "accumulation_steps clip_gradient_norm decay_every_epochs decay_factor ema_decay epochs "
    "eval_every_epochs global_batch_size learning_rate learning_rate_floor momentum nesterov optimizer "
    "schedule warmup_epochs weight_decay"
).split()
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "": ("controls", "model_axis_devices", "parallelism", "seeds"),
    "data": tuple(
        "cache_dir dir grid leave_out_labels loader_threads loader_workers name prepare_workers reader "
        "sample shuffle_labels streams task".split()
    ),
    "data.grid": ("kind", "tokens"),
    "eval": ("checkpoint", "global_batch_size", "num_resamples", "select", "split"),
    "model": tuple("dtype fusion fusion_weights head modality_dropout streams unimodal_head".split()),
    "protocol": tuple(
        "exclude folds name num_folds seed selection test_subjects validation_share".split()
    ),
    "training": tuple(
        "backbones_from checkpoint_every_steps extract extract_draws fusion joint label_smoothing loss "
        "max_bad_steps stages".split()
    ),
}  # fmt: skip
"""Group to the keys that have to be in it."""
_GROUPS = {*REQUIRED, "data.reader", "data.sample", "data.streams", "model.head", "model.unimodal_head"} - {
    ""
}


def check(tree: Mapping[str, Any], name: str) -> None:
    """Refuses a configuration that lacks a key which the program reads, before any is read.

    Args:
      tree: The configuration as plain dictionaries.
      name: Of the file, for the message.

    Raises:
      UsageError: A key is missing, or a group is a value.
    """
    for group in sorted(_GROUPS):
        if not isinstance(found := _find(tree, group), Mapping):
            what = "has no" if found is None else f"has the value {found!r} for"
            raise UsageError(f"{name} {what} {group}.*, a group of keys; see how configs/stress.py has it")
    stages = [stage for stage, value in tree["training"].items() if isinstance(value, Mapping)]
    for group, keys in {**REQUIRED, **{f"training.{stage}": _STAGE_OPTIONS for stage in stages}}.items():
        missing = [key for key in keys if key not in _find(tree, group)]
        if missing:
            first = f"{group}.{missing[0]}" if group else missing[0]
            more = f" (and {len(missing) - 1} more of that group)" if missing[1:] else ""
            raise UsageError(
                f"{name} has no key {first}{more}; add it as in configs/stress.py. The configuration may "
                "be of an earlier version"
            )


def _find(tree: Mapping[str, Any], group: str) -> Any:
    found: Any = tree
    for part in filter(None, group.split(".")):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
