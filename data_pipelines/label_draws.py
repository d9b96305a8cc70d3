"""Orders of label rows that tell nothing of the true order: the arithmetic behind `label_shuffle`.

Rows are numbered in the order of time within a recording. Neighbours of a *serial* track (windows of a long
recording, frames) have labels in common, so an order of single rows would leave most labels where they were:
there whole tracks are moved along instead, and every row keeps its neighbours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

LIMIT = 0.1
"""What may be left of the true labels, as a correlation, in something that is called a control."""
TARGET = 0.02
"""A draw that leaves no more than this is taken as it comes."""
CANDIDATES = 64
"""Draws looked at before the one that leaves least is taken."""

Level = Literal["within_subject", "between_subjects"]


class Draw(NamedTuple):
    """Where each row's label comes from.

    Attributes:
      rows: int64 [N], a permutation: row i takes the label of row ``rows[i]``.
      level: ``within_subject``, or ``between_subjects`` where that left too much.
      left: What is left, in [0, 1]: the largest absolute correlation with the true labels.
    """

    rows: np.ndarray
    level: Level
    left: float


def draw(
    codes: np.ndarray, subjects: np.ndarray, *, classes: bool, serial: bool, names: Sequence[object]
) -> Draw:
    """Draws a permutation that leaves little of the true labels.

    Within each subject first. A serial track, a subject's recordings one after the other, is moved along by a
    lag at which its labels no longer correlate with themselves (at most `LIMIT`, of circular lags; the tenth
    of lags with the least where none does), each subject's by its own; rows of other grids are permuted one
    by one. Where subjects differ in their mean labels that leaves too much: then rows are exchanged between
    the subjects given, tracks as wholes and moved along.

    Draws are numbered. A coin says on which side of zero the rest shall be, since circular lags, left to
    themselves, favour the negative one; the first draw on that side that leaves at most `TARGET` is taken,
    else of the first `CANDIDATES` the one that leaves least. Draws are judged by true and moved labels alone,
    never by what a model makes of them: over seeds the rest is as often for the true labels as against them.

    Args:
      codes: float [N, D], labels as numbers: values, or one column a class (one-hot).
      subjects: int [N], each one's number; rows of one recording stand together, in order of time.
      classes: Whether the columns are those of classes, and belong together: of two classes the correlation
        is phi. Else each stands for itself.
      serial: Whether neighbouring rows have labels in common.
      names: Of the draw: the same names and rows give the same draw, whatever the machine.
    """
    codes = np.asarray(codes, np.float64)
    centred = codes - codes.mean(axis=0) if len(codes) else codes
    own = rows_of_each(subjects)
    lags = {subject: _quiet_lags(codes[rows], classes) for subject, rows in own.items()} if serial else {}
    side = 1 if _number(*names, "side") % 2 else -1
    best: Draw | None = None
    for level in ("within_subject", "between_subjects"):
        for candidate in range(CANDIDATES):
            key = (*names, level, candidate)
            if level == "between_subjects":
                rows = _between(own, serial, key)
            elif serial:
                rows = _moved_along(own, lags, key)
            else:
                rows = _permuted(own, key)
            rests = _rests(centred, rows, classes)
            left = float(np.abs(rests).max(initial=0.0))
            if best is None or left < best.left:
                best = Draw(rows, level, left)
            if left <= TARGET and side * rests.sum() >= 0:
                return Draw(rows, level, left)
        if best.left <= LIMIT or len(own) < 2:
            break
    return best


def rank(*names: object) -> bytes:
    """A hash of names: sorting by it is a random order that depends on no library's random numbers."""
    return hashlib.sha256("\0".join(map(str, names)).encode()).digest()


def rows_of_each(subjects: np.ndarray) -> dict[int, np.ndarray]:
    """Subject's number to its rows, ascending."""
    numbers, counts = np.unique(subjects, return_counts=True)
    rows = np.split(np.argsort(subjects, kind="stable"), np.cumsum(counts)[:-1])
    return dict(zip(numbers.tolist(), rows, strict=True))


def _number(*names: object) -> int:
    return int.from_bytes(rank(*names)[:8], "big")


def _rests(centred: np.ndarray, rows: np.ndarray, classes: bool) -> np.ndarray:
    """Correlations of the moved labels with the true ones, of each output or of the classes; [0..D].

    Moved labels have the same mean and variance: of values this is the CCC too. Outputs whose labels do not
    vary have none.
    """
    moved, square = (centred[rows] * centred).sum(axis=0), (centred**2).sum(axis=0)
    if classes:
        moved, square = moved.sum(keepdims=True), square.sum(keepdims=True)
    defined = square > 0
    return moved[defined] / square[defined]


def _quiet_lags(codes: np.ndarray, classes: bool) -> tuple[np.ndarray, np.ndarray]:
    """Circular lags at which a track does not correlate with itself, on either side of zero: int64, int64."""
    length = len(codes)
    if length < 2:
        return (np.zeros(1, np.int64),) * 2
    centred = codes - codes.mean(axis=0)
    spectrum = np.fft.rfft(centred, axis=0)
    products = np.fft.irfft(np.abs(spectrum) ** 2, n=length, axis=0)
    if classes:
        products = products.sum(axis=1, keepdims=True)
    lags, at_zero = np.arange(1, length), products[0]
    defined = at_zero > 1e-9 * length
    if not defined.any():
        return lags, lags
    rests = products[1:, defined] / at_zero[defined]
    loudest = np.abs(rests).max(axis=1)
    quiet = np.flatnonzero(loudest <= LIMIT)
    if not len(quiet):
        quiet = np.argsort(loudest, kind="stable")[: max(1, len(lags) // 10)]
    above = rests[quiet].sum(axis=1) >= 0
    if above.all() or not above.any():
        return lags[quiet], lags[quiet]
    return lags[quiet[above]], lags[quiet[~above]]


def _moved_along(
    own: dict[int, np.ndarray], lags: dict[int, tuple[np.ndarray, np.ndarray]], key: tuple
) -> np.ndarray:
    rows = np.empty(sum(map(len, own.values())), np.int64)
    for subject, mine in own.items():
        number = _number(*key, subject)
        some = lags[subject][number % 2]
        rows[mine] = np.roll(mine, -some[number // 2 % len(some)])
    return rows


def _permuted(own: dict[int, np.ndarray], key: tuple) -> np.ndarray:
    rows = np.empty(sum(map(len, own.values())), np.int64)
    for mine in own.values():
        rows[mine] = sorted(mine.tolist(), key=lambda row: rank(*key, row))
    return rows


def _between(own: dict[int, np.ndarray], serial: bool, key: tuple) -> np.ndarray:
    """Rows of the subjects in a drawn order, moved along as one, in the place of those in theirs."""
    places = np.concatenate(list(own.values()))
    rows = np.empty_like(places)
    if serial:
        order = sorted(own, key=lambda subject: rank(*key, subject))
        moved = np.concatenate([own[subject] for subject in order])
        rows[places] = np.roll(moved, _number(*key) % len(moved))
    else:
        rows[places] = sorted(places.tolist(), key=lambda row: rank(*key, row))
    return rows
