"""How much of each channel is missing (NaN) in what was prepared, and whom that concerns most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.recording import Recording, StreamSpec
from data_pipelines.source import ChunkTable

MOST_MISSING = 0.1
"""Share of a channel's samples above which their lack is a warning."""

_NAMED_ENTRIES = 5


def shares(spec: StreamSpec, table: ChunkTable) -> dict[str, float]:
    """Share of each channel's samples that are missing, of all recordings together, to 4 digits.

    Args:
      spec: What the stream is.
      table: Its chunks.

    Returns:
      Channel name to a number in [0, 1]; empty for what is no samples.
    """
    if spec.kind != "samples":
        return {}
    found = _shares(table, np.arange(len(table)))
    return {name: round(share, 4) for name, share in zip(spec.channels, found, strict=True)}


def warnings(
    streams: Mapping[str, tuple[StreamSpec, ChunkTable]], recordings: Sequence[Recording]
) -> list[str]:
    """A sentence for each channel of which more than `MOST_MISSING` is missing, in all or in some recordings.

    Args:
      streams: Stream name to what it is and its chunks.
      recordings: Whose they are.
    """
    sentences = []
    for name, (spec, table) in streams.items():
        if spec.kind != "samples":
            continue
        own = {r.id: _shares(table, table.rows_of(r.sources[name])) for r in recordings if name in r.sources}
        for number, (channel, share) in enumerate(shares(spec, table).items()):
            lacking = {recording: own[recording][number] for recording in own}
            lacking = {recording: one for recording, one in lacking.items() if one > MOST_MISSING}
            if share <= MOST_MISSING and not lacking:
                continue
            most = sorted(lacking, key=lambda recording: -lacking[recording])
            listed = ", ".join(f"{recording} {lacking[recording]:.1%}" for recording in most[:_NAMED_ENTRIES])
            more = f" and {len(most) - _NAMED_ENTRIES} more" if len(most) > _NAMED_ENTRIES else ""
            whom = f"; more than {MOST_MISSING:.0%} in {listed}{more}" if most else ""
            sentences.append(f"{share:.1%} of the samples of {channel} ({name}) are missing{whom}")
    return sentences


def _shares(table: ChunkTable, rows: np.ndarray) -> list[float]:
    present = table.moment_count[rows].sum(0)
    total = int(table.length[rows].sum(dtype=np.int64))
    return (1.0 - present / max(total, 1)).tolist()
