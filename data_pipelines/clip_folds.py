"""The paper's folds over clips, which leak (reference facts, 0.2 and C3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

PAPER_SEED = 42


class Clip(Protocol):
    """What a fold has to know of a clip."""

    id: str
    subject: str


class ClipFold(NamedTuple):
    """Ids of the clips of a fold, and what is wrong with it."""

    train: list[str]
    test: list[str]
    warnings: tuple[str, ...]


def divide(clips: Sequence[Clip], fold: int, folds: int) -> ClipFold:
    """Shuffles clips by the paper's seed and cuts them into folds, whoever is in them.

    Deviation: clips are sorted by id before the shuffle; the order of the authors' list is not published.

    Args:
      clips: Sorted by id.
      fold: Number of the fold, from 0.
      folds: How many there are.
    """
    order = np.arange(len(clips))
    np.random.RandomState(PAPER_SEED).shuffle(order)
    chosen = set(np.array_split(order, folds)[fold].tolist())
    train = [clip for i, clip in enumerate(clips) if i not in chosen]
    test = [clip for i, clip in enumerate(clips) if i in chosen]
    tested = {clip.subject for clip in test}
    both = len(tested & {clip.subject for clip in train})
    return ClipFold(
        [clip.id for clip in train],
        [clip.id for clip in test],
        (
            f"Leak 1: folds are over clips: {both} of {len(tested)} test subjects are trained on, too.",
            "Leak 2: the checkpoint is chosen on the test fold itself: its score is the best of many looks.",
        ),
    )
