"""The items of a data set: one entry of a batch each, with its labels.

An item is a moment range of one recording: the whole clip, or one of the sliding windows of a long
recording. The token grid divides it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines.item_counts import ItemCounts
from data_pipelines.recording import Recording


@dataclasses.dataclass(frozen=True)
class ItemTable:
    """All items of a data set for one task; arrays of length N.

    Attributes:
      recordings: The recordings that ``recording`` points into.
      recording: int32 [N].
      start_seconds: float64 [N], where the item begins.
      labels: int32 [N] (classification), float32 [N, A] (regression) or float32 [N, S, A] (of every token).
      label_mask: bool, of the labels' shape.
      token_frames: int32 [N, S] where every token is about a frame of its own: the row of the recording's
        annotation (which then has one row for every frame, unannotated ones masked), from 0; -1 for padding.
        None where a label is of the whole item.
      targets: int32 [N, S] beside ``token_frames``: the row that a token's streams look back from. The same
        but where it lies past the recording's end (the paper's schedule has such tokens); -1 for padding.
      block: int64 [N] beside ``token_frames``: items with the same number look at the same frames, and are
        cheap to load together.
      counts: What became of every item, those that were dropped too.
    """

    recordings: Sequence[Recording]
    recording: np.ndarray
    start_seconds: np.ndarray
    labels: np.ndarray
    label_mask: np.ndarray
    token_frames: np.ndarray | None = None
    targets: np.ndarray | None = None
    block: np.ndarray | None = None
    counts: ItemCounts | None = None

    def __len__(self) -> int:
        return len(self.recording)

    @property
    def subjects(self) -> np.ndarray:
        """Who each item is of, str [N]."""
        return np.array([self.recordings[i].subject for i in self.recording], dtype=str)

    def describe(self, row: int) -> dict[str, str | float]:
        """Which item a row is, for people: recording, subject and where it begins."""
        recording = self.recordings[self.recording[row]]
        start = float(self.start_seconds[row])
        return {"recording": recording.id, "subject": recording.subject, "start_seconds": start}

    @property
    def ids(self) -> np.ndarray:
        """One readable name an item: the recording's id, with the start time where it has several."""
        names = [self.recordings[i].id for i in self.recording]
        if len(set(names)) < len(names):
            names = [f"{name}@{start:g}s" for name, start in zip(names, self.start_seconds, strict=True)]
        return np.array(names, dtype=str)
