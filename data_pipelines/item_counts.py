"""What became of every clip, window or frame: kept, or dropped for which reason, by class and part."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any

KEPT = "kept"
MIXED = "mixed"
LEFT_OUT = "left_out"
UNLABELLED = "unlabelled"
PARTLY_LABELLED = "partly_labelled"
SHORTER_THAN_WINDOW = "shorter_than_window"
NOT_IN_A_SEQUENCE = "not_in_a_sequence"
REASONS: Mapping[str, str] = {
    MIXED: "a window with more than one label, counted under its most frequent one",
    LEFT_OUT: "of a label that the task or data.leave_out_labels leaves out",
    UNLABELLED: "nobody annotated any of it",
    PARTLY_LABELLED: "a window that is annotated for less than half of its time",
    SHORTER_THAN_WINDOW: "a recording shorter than one window; this counts recordings",
    NOT_IN_A_SEQUENCE: "an annotated frame that the schedule makes no target of",
}
NO_LABEL = "none"
NO_PART = "no_part"
"""Recordings that the split does not divide: none of their items is left, or the protocol leaves them out."""


@dataclasses.dataclass(frozen=True)
class ItemCounts:
    """How many items of each recording had which fate.

    Attributes:
      unit: What is counted: ``clip``, ``window`` or ``frame``.
      of_recording: Index of a recording to (fate, class) to number. A fate is `KEPT` or one of `REASONS`; a
        class is its name, ``value 2`` for one that is left out, ``values`` for a regression, `NO_LABEL`.
    """

    unit: str
    of_recording: Mapping[int, Mapping[tuple[str, str], int]]

    def of(self, recordings: Iterable[int]) -> dict[str, Any]:
        """Sums over some recordings, as JSON values: ``kept`` by class, ``dropped`` by reason and class."""
        total: collections.Counter[tuple[str, str]] = collections.Counter()
        for number in recordings:
            total.update(self.of_recording.get(number, {}))
        found: dict[str, Any] = {"kept": {}, "dropped": {}}
        for (fate, name), count in sorted(total.items()):
            where = found["kept"] if fate == KEPT else found["dropped"].setdefault(fate, {})
            where[name] = count
        return found

    def by_part(self, parts: Mapping[str, Collection[int]]) -> dict[str, Any]:
        """The sums over each part's recordings, and over those of `NO_PART`; JSON values.

        Args:
          parts: Part name to indices of recordings.
        """
        divided = {number for numbers in parts.values() for number in numbers}
        rest = [number for number in self.of_recording if number not in divided]
        found = {part: self.of(numbers) for part, numbers in parts.items()}
        return {"unit": self.unit, **found, NO_PART: self.of(rest)}


def sentence(counts: Mapping[str, Any], unit: str) -> str:
    """One part's counts in words, e.g. ``9 windows kept (rest 6, stress 3); dropped: mixed 2 (rest 2)``.

    Args:
      counts: From `ItemCounts.of`.
      unit: What is counted.
    """
    kept = sum(counts["kept"].values())
    words = f"{kept} {unit}{'' if kept == 1 else 's'} kept{_of_classes(counts['kept'])}"
    dropped = [
        f"{reason.replace('_', ' ')} {sum(classes.values())}{_of_classes(classes)}"
        for reason, classes in counts["dropped"].items()
    ]
    return f"{words}; dropped: {', '.join(dropped)}" if dropped else words


def _of_classes(counts: Mapping[str, int]) -> str:
    named = {name: count for name, count in counts.items() if name not in (NO_LABEL, "values")}
    return f" ({', '.join(f'{name} {count}' for name, count in named.items())})" if named else ""
