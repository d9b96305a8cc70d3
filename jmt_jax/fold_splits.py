"""Who is in which part: the splits of ``config.protocol``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipelines import splits
from data_pipelines.errors import UsageError
from data_pipelines.readers.biovid import HOLD_OUT, NON_REACTIVE

if TYPE_CHECKING:
    from jmt_jax.experiment import Config, Data

SUBJECT_LISTS: Mapping[str, frozenset[str]] = {
    "": frozenset(),
    "biovid_non_reactive": NON_REACTIVE,
    "biovid_hold_out": HOLD_OUT,
}


def num_folds(config: Config, data: Data) -> int:
    """How many folds the protocol has on this data set."""
    options = _protocol(config)
    return splits.num_folds(_split_items(data), options["protocol"], options["folds"], options["exclude"])


def make_split(config: Config, data: Data, fold: int) -> splits.Split:
    """Who is in which part of a fold."""
    split = splits.make_split(_split_items(data), fold=fold, **_protocol(config))
    splits.check(split)
    return split


def _protocol(config: Config) -> dict[str, Any]:
    """Arguments of the split, from ``config.protocol``."""
    protocol = config.protocol
    for key in ("exclude", "test_subjects"):
        if protocol[key] not in SUBJECT_LISTS:
            known = ", ".join(repr(name) for name in SUBJECT_LISTS)
            raise UsageError(f"protocol.{key}={protocol[key]!r} is no list of subjects; it is one of {known}")
    return {
        "protocol": protocol.name,
        "folds": protocol.num_folds,
        "seed": protocol.seed,
        "validation_share": protocol.validation_share,
        "exclude": SUBJECT_LISTS[protocol.exclude],
        "test_subjects": SUBJECT_LISTS[protocol.test_subjects],
        "selection": protocol.get("selection", "validation"),
    }


def _split_items(data: Data) -> list[splits.Item]:
    """The recordings that have items, as the splits want them."""
    numbers, rows = np.unique(data.items.recording, return_index=True)  # the first row of each
    is_clip = data.task.is_classification and data.grid.kind == "clip"
    return [
        splits.Item(
            id=data.prepared.recordings[number].id,
            subject=data.prepared.recordings[number].subject,
            label=int(data.items.labels[row]) if is_clip else None,
            group=data.prepared.recordings[number].group,
        )
        for number, row in zip(numbers, rows, strict=True)
    ]
