"""Features of frozen backbones in place of what they were computed from: which there are, and reading them.

A vector is stored for each *unit* of a recording. In a ``frames`` grid that is a target frame, once however
many tokens are about it; elsewhere, and where a backbone reads the tokens of an item together, it is a whole
item: its tokens one after the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.item_table import ItemTable
from data_pipelines.recording import Recording
from data_pipelines.source import PreparedSet
from data_pipelines.stream_windows import Moment

PADDING = -1


@dataclasses.dataclass(frozen=True, eq=False)
class Units:
    """What of one recording a vector is stored for, in the order of the vectors.

    Attributes:
      times_seconds: float64 [U], strictly ascending: of the target frame, or where the item begins.
      targets: int32 [U], ascending, where a unit is a target frame; int32 [U, S], those of the item's tokens,
        where it is an item of a ``frames`` grid; else None.
    """

    times_seconds: np.ndarray
    targets: np.ndarray | None

    def __len__(self) -> int:
        return len(self.times_seconds)

    @property
    def by_token(self) -> bool:
        """True where a unit is a target frame."""
        return self.targets is not None and self.targets.ndim == 1


def make_units(items: ItemTable, rows: np.ndarray, stream: str, *, by_token: bool) -> dict[int, Units]:
    """The units of all recordings that have the stream, and items among some rows.

    Args:
      items: The item table.
      rows: int64 [N], which of its rows.
      stream: Name of the stream.
      by_token: Whether a unit is a target frame; only in a ``frames`` grid.

    Returns:
      Index of the recording to its units, ascending.

    Raises:
      UsageError: Two items of a recording begin at the same time, so that nothing tells them apart.
    """
    rows = np.asarray(rows, np.int64)
    rows = rows[np.argsort(items.recording[rows], kind="stable")]
    numbers, firsts = np.unique(items.recording[rows], return_index=True)
    found = {}
    for number, own in zip(numbers.tolist(), np.split(rows, firsts[1:]), strict=True):
        recording = items.recordings[number]
        if stream not in recording.sources:
            continue
        units = _target_units(items, own, recording) if by_token else _item_units(items, own, recording)
        if len(units):
            found[number] = units
    return found


def _target_units(items: ItemTable, rows: np.ndarray, recording: Recording) -> Units:
    targets = np.unique(items.targets[rows])
    targets = targets[targets != PADDING]
    clock = recording.annotation.times_seconds
    # The paper's schedule has targets past the end; the clock goes on at its mean pace for them.
    pace = (clock[-1] - clock[0]) / (len(clock) - 1) if len(clock) > 1 else 1.0
    past = np.maximum(targets - len(clock) + 1, 0)
    return Units(clock[np.minimum(targets, len(clock) - 1)] + past * pace, targets)


def _item_units(items: ItemTable, rows: np.ndarray, recording: Recording) -> Units:
    starts = items.start_seconds[rows]
    order = np.argsort(starts, kind="stable")
    if np.any(np.diff(starts[order]) <= 0):
        raise UsageError(
            f"two items of recording {recording.id!r} begin at the same time, so features of whole items "
            "cannot be told apart; set training.extract=False"
        )
    return Units(starts[order], None if items.targets is None else items.targets[rows[order]])


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of one stream, as extraction stores them.

    Attributes:
      prepared: Holds the vectors, float32, NaN where the token is masked; a recording's source has its id.
      units: Index of a recording in the item table to what its vectors are of.
    """

    prepared: PreparedSet
    units: Mapping[int, Units]


class FeatureWindows:
    """Tokens of a frozen backbone, float32 [S, D], or [1, D] where one window serves all tokens.

    Args:
      stream: Name of the stream.
      clean: Computed from what evaluation sees; of all recordings.
      draws: Computed from augmented copies, of the recordings of training: training takes one of them by the
        item's generator. Without any it takes the clean one.
      mask_length: S, or 1.
    """

    def __init__(
        self, stream: str, clean: FeatureSet, draws: Sequence[FeatureSet], *, mask_length: int
    ) -> None:
        self._stream, self._clean, self._draws = stream, clean, tuple(draws)
        width = len(clean.prepared.streams[stream].channels)
        by_token = next(iter(clean.units.values())).by_token
        self.shape = (mask_length, width if by_token else width // mask_length)
        self.dtype = np.float32
        self.mask_length = mask_length
        for one in (clean, *self._draws):
            _check(one, stream)

    def read(self, recording: Recording, moment: Moment) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of one item and the mask, [S] or [1]."""
        chosen = self._clean
        if moment.rng is not None and self._draws:
            chosen = self._draws[int(moment.rng.integers(len(self._draws)))]
        units = chosen.units[moment.recording]
        values = np.full(self.shape, np.nan, np.float32)
        if units.by_token:
            real = moment.targets != PADDING
            places = np.searchsorted(units.targets, moment.targets[real])
            values[real] = self._gather(chosen.prepared, recording, places)
        else:
            place = np.searchsorted(units.times_seconds, moment.start_seconds)
            values[:] = self._gather(chosen.prepared, recording, place[None]).reshape(self.shape)
        mask = np.isfinite(values[:, 0])
        return np.where(mask[:, None], values, np.float32(0)), mask

    def _gather(self, prepared: PreparedSet, recording: Recording, places: np.ndarray) -> np.ndarray:
        """Vectors float32 [N, width] at places within a recording's source."""
        table = prepared.table(self._stream)
        places = places + table.offsets[table.rows_of(recording.id)[0]]
        row_of = np.searchsorted(table.offsets, places, side="right") - 1
        needed = np.unique(row_of)
        vectors = np.empty((len(places), len(prepared.streams[self._stream].channels)), np.float32)
        for row, chunk in zip(needed, prepared.read(self._stream, needed), strict=True):
            inside = row_of == row
            vectors[inside] = chunk.values[places[inside] - table.offsets[row]]
        return vectors


def _check(features: FeatureSet, stream: str) -> None:
    """Raises BadDataError unless there is a vector for every unit."""
    table = features.prepared.table(stream)
    stored = np.bincount(table.source, table.length, minlength=len(table.source_ids)).astype(np.int64)
    # Extraction stores recordings in the order of their indices.
    if stored.tolist() != [len(units) for units in features.units.values()]:
        raise BadDataError(
            f"{features.prepared.path} does not hold the features that its name says; delete the folder and "
            "extract again"
        )
