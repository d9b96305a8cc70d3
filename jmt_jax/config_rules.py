"""What every key of a configuration may hold: one table, from patterns of keys to rules.

A rule knows one value alone. What several keys have to be together, and with the data set's layout and the
devices, is in `jmt_jax.config_checks`.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from data_pipelines import label_shuffle, normalise, splits
from data_pipelines.datasets import DATASETS
from data_pipelines.errors import UsageError
from data_pipelines.tasks import TASKS
from jmt_jax.fold_splits import SUBJECT_LISTS
from jmt_jax.frames import SMOOTHINGS
from jmt_jax.models.model import BACKBONES, FUSIONS, HEADS
from jmt_jax.optimizer import OPTIMIZERS, SCHEDULES
from jmt_jax.runtime import PARALLELISMS

_FLOAT16 = (
    "; float16 is not offered: its gradients vanish and its sums overflow without scaling of the loss, "
    "which bfloat16, as fast and as small, does not need"
)


class Rule(NamedTuple):
    """What a key may hold.

    Attributes:
      expected: Ends the sentence "it is -1; expected ..".
      fits: Whether a value does.
    """

    expected: str
    fits: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _number(*, least: float = -math.inf, above: float = -math.inf, most: float = math.inf) -> Rule:
    words = {math.inf: "", -math.inf: ""}
    low = words.get(least, f" from {least:g} up") or words.get(above, f" above {above:g}")
    high = words.get(most, f" and at most {most:g}")
    return Rule(f"a number{low}{high}", lambda x: _is_number(x) and least <= x <= most and x > above)


def _whole(least: int) -> Rule:
    return Rule(f"a whole number from {least} up", lambda x: _is_whole(x) and x >= least)


def _wholes(least: int) -> Rule:
    return Rule(
        f"whole numbers from {least} up, e.g. ({least}, {least + 1})",
        lambda x: isinstance(x, (tuple, list)) and all(_is_whole(one) and one >= least for one in x),
    )


def _one_of(*names: str, more: str = "") -> Rule:
    listed = ", ".join(name or "''" for name in names)
    return Rule(f"one of {listed}{more}", lambda x: x in names)


_SHARE = _number(least=0, most=1)
_RATE = Rule("a number from 0 up, below 1", lambda x: _is_number(x) and 0 <= x < 1)
_SWITCH = Rule("True or False", lambda x: isinstance(x, bool))
_TEXT = Rule("a text", lambda x: isinstance(x, str))
_TEXTS = Rule(
    "texts, e.g. ('gsr',)", lambda x: isinstance(x, (tuple, list)) and all(isinstance(one, str) for one in x)
)
_NUMBERS = Rule(
    "numbers, e.g. (0.5, 0.5)", lambda x: isinstance(x, (tuple, list)) and all(map(_is_number, x))
)
_CHECKPOINT = Rule(
    "best, last or a step", lambda x: _is_whole(x) or x in ("best", "last") or str(x).isdigit()
)

RULES: Mapping[str, Rule] = {
    "seeds": _wholes(0),
    "parallelism": _one_of(*PARALLELISMS),
    "model_axis_devices": _whole(1),
    "controls": _TEXT,
    "data.name": _one_of(*DATASETS),
    "data.task": _one_of(*TASKS),
    "data.shuffle_labels": _one_of("", *label_shuffle.MODES),
    "data.leave_out_labels": _NUMBERS,
    "data.prepare_workers": _whole(0),
    "data.max_damaged": _SHARE,
    "data.loader_threads": _whole(1),
    "data.loader_workers": _whole(0),
    "data.grid.kind": _one_of("clip", "sliding", "frames"),
    "data.grid.mixed": _one_of("drop", "majority"),
    "data.grid.schedule": _one_of("every_frame", "paper"),
    "data.grid.tokens": _whole(1),
    "data.grid.token_step_frames": _whole(1),
    "data.grid.window_seconds": _number(above=0),
    "data.grid.step_seconds": _number(above=0),
    "data.grid.label_shift_seconds": _number(least=0),
    "data.sample.classes": _wholes(0),
    "data.sample.signature": _number(least=0),
    "data.sample.without_face": _SHARE,
    "data.sample.not_annotated": _SHARE,
    "data.sample.seconds": _number(above=0),
    "data.sample.validation": _whole(0),
    "data.sample.test": _whole(0),
    "data.sample.seed": _whole(0),
    "data.sample.*": _whole(1),
    "data.reader.size": _whole(8),
    "data.reader.sound_rate_hz": _number(above=0),
    "data.reader.streams_used": _TEXTS,
    "data.reader.channels": _TEXTS,
    "data.reader.classes": _wholes(0),
    "data.reader.video": _SWITCH,
    "data.reader.label_offset_seconds": _number(),
    "data.reader.electrode_off_microsiemens": _number(),
    "data.streams.*.features": _one_of("", "log_mel"),
    "data.streams.*.normalise": _one_of(*normalise.MODES),
    "data.streams.*.augment.*_probability": _SHARE,
    "data.streams.*.augment.shift_seconds": _number(least=0),
    "data.streams.*.augment.noise": _number(least=0),
    "data.streams.*.augment.*": _SHARE,
    "data.streams.*.channels": _TEXTS,
    "data.streams.*.least_present": _SHARE,
    "data.streams.*.presence_channel": _SWITCH,
    "data.streams.*.window_seconds": _number(least=0),
    "data.streams.*.first_frame": _whole(0),
    "data.streams.*.last_frame": _whole(0),
    "data.streams.*.reach_frames": _whole(0),
    "data.streams.*": _whole(1),
    "protocol.name": _one_of(*splits.PROTOCOLS),
    "protocol.num_folds": _whole(2),
    "protocol.folds": _wholes(0),
    "protocol.seed": _whole(0),
    "protocol.selection": _one_of(*splits.SELECTIONS),
    "protocol.validation_share": Rule("a share above 0 and below 1", lambda x: _is_number(x) and 0 < x < 1),
    "protocol.exclude": _one_of(*SUBJECT_LISTS),
    "protocol.test_subjects": _one_of(*SUBJECT_LISTS),
    "model.dtype": _one_of("float32", "bfloat16", more=_FLOAT16),
    "model.modality_dropout": _RATE,
    "model.fusion": _one_of(*FUSIONS),
    "model.*head.name": _one_of(*HEADS),
    "model.*.name": _one_of(*BACKBONES),
    "model.*.dropout": _RATE,
    "model.*.num_layers": _whole(0),
    "model.*.mean": _NUMBERS,
    "model.*.std": _NUMBERS,
    "model.*.weights": _TEXT,
    "model.*.l2_norm": _SWITCH,
    "model.*.separate": _SWITCH,
    **dict.fromkeys(
        (
            f"model.*.{name}"
            for name in ("dim", "hidden_dim", "features", "stem_width", "stem_stride", "num_*")
        ),
        _whole(1),
    ),
    **dict.fromkeys(
        (f"model.*.{name}" for name in ("widths", "blocks", "channels", "kernel_sizes", "strides", "hidden")),
        _wholes(1),
    ),
    "training.stages": _TEXT,
    "training.extract": _SWITCH,
    "training.extract_draws": _whole(0),
    "training.loss": _one_of("", "cross_entropy", "ccc", "mse"),
    "training.label_smoothing": _RATE,
    "training.checkpoint_every_steps": _whole(0),
    "training.max_bad_steps": _whole(1),
    "training.*.epochs": _whole(1),
    "training.*.global_batch_size": _whole(1),
    "training.*.eval_every_epochs": _number(above=0),
    "training.*.optimizer": _one_of(*OPTIMIZERS),
    "training.*.learning_rate": _number(above=0),
    "training.*.learning_rate_floor": _number(least=0),
    "training.*.schedule": _one_of(*SCHEDULES),
    "training.*.warmup_epochs": _number(least=0),
    "training.*.decay_every_epochs": _number(above=0),
    "training.*.decay_factor": _number(above=0, most=1),
    "training.*.momentum": _RATE,
    "training.*.nesterov": _SWITCH,
    "training.*.weight_decay": _number(least=0),
    "training.*.clip_gradient_norm": _number(least=0),
    "training.*.accumulation_steps": _whole(1),
    "training.*.ema_decay": _RATE,
    "eval.split": _one_of(*splits.EVALUATED),
    "eval.checkpoint": _CHECKPOINT,
    "eval.global_batch_size": _whole(1),
    "eval.num_resamples": _whole(1),
    "eval.frames.smoothing": _one_of(*SMOOTHINGS),
    "eval.frames.smoothing_frames": _wholes(1),
    "eval.frames.value_range": _NUMBERS,
}
"""The first pattern that a key fits counts; ``*`` stands for anything, dots included."""


def find_rule(key: str, value: Any) -> Rule:
    """The rule of a key; one by the type of its value where the table names none."""
    for pattern, rule in RULES.items():
        if fnmatchcase(key, pattern):
            return rule
    if isinstance(value, bool):
        return _SWITCH
    if _is_whole(value):
        return _whole(1) if key.startswith("model.") else _whole(0)
    if isinstance(value, (tuple, list)) and value and key.startswith("model.") and all(map(_is_whole, value)):
        return _wholes(1)
    if isinstance(value, float):
        return _number()
    return Rule("", lambda x: True)


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of a tree of dictionaries with their values."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def check_values(tree: Mapping[str, Any]) -> None:
    """Every value by itself.

    Args:
      tree: The configuration as plain dictionaries.

    Raises:
      UsageError: One does not fit; the message has the key, the value and what was expected.
    """
    for key, value in leaves(tree):
        rule = find_rule(key, value)
        if not rule.fits(value):
            raise UsageError(f"{key}={value!r}; expected {rule.expected}")
