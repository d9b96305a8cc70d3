"""What a compiled program sends between devices, read from its text."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

_KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# An instruction: its result's type, which may be a tuple, then its operation.
_INSTRUCTION = re.compile(
    rf"= (?P<type>\((?:[^()]|\([^()]*\))*\)|\S+) (?P<kind>{'|'.join(_KINDS)})(?P<start>-start)?\("
)
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+(?:e\dm\d\w*)?)\[([\d,]*)\]")
# What moves rows from device to device; a sum does not.
_GATHERING = ("all-gather", "all-to-all", "collective-permute", "collective-broadcast")
_ROW_BYTES = 1024


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation of a program.

    Attributes:
      kind: ``all-reduce``, ``all-gather`` ...
      shapes: Of its results on one device.
      num_bytes: Of all of them.
    """

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    num_bytes: int


def find(text: str) -> list[Collective]:
    """The collectives of a compiled program.

    Args:
      text: ``compiled.as_text()``.
    """
    found = []
    for match in _INSTRUCTION.finditer(text):
        arrays = [(kind, _dims(dims)) for kind, dims in _ARRAY.findall(match["type"])]
        if match["start"] and match["type"].startswith("(") and match["kind"] != "all-reduce":
            # An asynchronous one holds its operands first, then its results (and maybe counters).
            arrays = [array for array in arrays if array[1]]
            arrays = arrays[len(arrays) // 2 :]
        found.append(
            Collective(
                match["kind"],
                tuple(dims for _, dims in arrays),
                sum(_width(kind) * math.prod(dims) for kind, dims in arrays),
            )
        )
    return found


def batch_gathering(collectives: Sequence[Collective], global_batch_size: int) -> list[Collective]:
    """Those that bring a batch's rows to devices that should not have them.

    Rows of the whole batch (or a multiple: rows times tokens) of at least 1 KiB each count; the few numbers a
    row that a loss or a metric needs do not.

    Args:
      collectives: Of a train or eval step.
      global_batch_size: Rows of the batch.
    """
    return [
        one
        for one in collectives
        if one.kind in _GATHERING
        and one.num_bytes >= global_batch_size * _ROW_BYTES
        and any(dim and dim % global_batch_size == 0 for shape in one.shapes for dim in shape)
    ]


def by_kind(collectives: Sequence[Collective]) -> dict[str, tuple[int, int]]:
    """Kind to (how many, bytes of all)."""
    found: dict[str, tuple[int, int]] = {}
    for one in collectives:
        count, size = found.get(one.kind, (0, 0))
        found[one.kind] = (count + 1, size + one.num_bytes)
    return found


def _dims(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


def _width(kind: str) -> int:
    bits = re.search(r"\d+", kind)
    return 1 if bits is None else max(1, int(bits[0]) // 8)
