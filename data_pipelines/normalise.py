"""Signal normalisation that says what it has looked at.

The moments (count, sum, sum of squares) of every stored chunk are known, so no signal is read here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from data_pipelines.errors import UsageError
from data_pipelines.recording import Recording
from data_pipelines.source import ChunkTable

MODES: Mapping[str, str] = {
    "none": "the signal in its own unit",
    "window": "z-scores within each window",
    "centred": "each window's own mean removed; one scale, the training subjects' deviation within windows",
    "train": "z-scores with the mean and deviation of the training subjects",
    "subject": "z-scores with the mean and deviation of all of the subject's recordings; this looks ahead",
    "subject_past": "z-scores with the moments of the same recording's past, up to the window's end",
}
LOSES_LEVEL = frozenset({"window", "centred"})
LOOKS_AHEAD = frozenset({"subject"})
_SMALLEST_DEVIATION = 1e-6


class Normaliser:
    """Mean and deviation of one stream's channels for a window of a recording.

    Args:
      mode: One of `MODES`.
      stream: Name of the stream.
      table: The stream's chunks.
      recordings: All recordings of the data set.
      training: Indices of the recordings that training may see.
      constants: What an earlier one found in them (`constants`), to be used instead.
    """

    def __init__(
        self,
        mode: str,
        stream: str,
        table: ChunkTable,
        recordings: Sequence[Recording],
        training: Collection[int],
        *,
        constants: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        if mode not in MODES:
            raise UsageError(
                f"normalise={mode!r} is unknown for stream {stream!r}; it is one of {', '.join(MODES)}"
            )
        self.mode = mode
        self._rows = [
            table.rows_of(recording.sources[stream]) if stream in recording.sources else np.zeros(0, int)
            for recording in recordings
        ]
        self._table = table
        moments = np.stack([table.moment_count, table.moment_sum, table.moment_square_sum])
        self._moments = moments  # [3, rows, C]
        self._fixed: tuple[np.ndarray, np.ndarray] | None = None
        if mode in ("train", "centred") and constants is not None:
            self._fixed = np.array(constants["mean"]), np.array(constants["deviation"])
        elif mode in ("train", "centred"):
            present = [self._rows[i] for i in sorted(training) if len(self._rows[i])]
            if not present:
                raise UsageError(
                    f"no training recording has the stream {stream!r}; leave it out of model.streams"
                )
            if mode == "train":
                self._fixed = _mean_and_deviation(moments[:, np.concatenate(present)].sum(1))
            else:
                within = np.stack([_mean_and_deviation(moments[:, rows].sum(1))[1] for rows in present])
                self._fixed = (np.zeros(within.shape[1]), np.sqrt(np.nanmean(within**2, axis=0)))
        elif mode == "subject":
            by_subject: dict[str, list[np.ndarray]] = {}
            for recording, rows in zip(recordings, self._rows, strict=True):
                by_subject.setdefault(recording.subject, []).append(rows)
            statistics = {
                subject: _mean_and_deviation(moments[:, np.concatenate(rows)].sum(1))
                for subject, rows in by_subject.items()
            }
            self._of_recording = [statistics[recording.subject] for recording in recordings]

    @property
    def constants(self) -> dict[str, list[float]] | None:
        """``mean`` and ``deviation`` of each channel over training subjects; None if the mode has none."""
        if self._fixed is None:
            return None
        return {"mean": self._fixed[0].tolist(), "deviation": self._fixed[1].tolist()}

    def __call__(self, values: np.ndarray, recording: int, end_seconds: float) -> np.ndarray:
        """Normalises a recording's window.

        Args:
          values: float32 [S, T, C], NaN where missing.
          recording: Index of the recording.
          end_seconds: The window's end; only ``subject_past`` asks for it.

        Returns:
          float32 [S, T, C], NaN where missing.
        """
        if self.mode == "none":
            return values
        if self.mode in ("window", "centred"):
            seen = np.isfinite(values).sum((0, 1))
            total = np.where(np.isfinite(values), values, 0).sum((0, 1), dtype=np.float64)
            mean = total / np.maximum(seen, 1)
            if self.mode == "window":
                square = np.where(np.isfinite(values), values - mean, 0)
                deviation = np.sqrt((square**2).sum((0, 1)) / np.maximum(seen, 1))
            else:
                deviation = self._fixed[1]
        elif self.mode == "train":
            mean, deviation = self._fixed
        elif self.mode == "subject":
            mean, deviation = self._of_recording[recording]
        else:
            mean, deviation = self._past(recording, end_seconds)
        return ((values - mean) / np.maximum(deviation, _SMALLEST_DEVIATION)).astype(np.float32)

    def _past(self, recording: int, end_seconds: float) -> tuple[np.ndarray, np.ndarray]:
        """Moments of the chunks that end before ``end_seconds``; of the first chunk if none does."""
        rows = self._rows[recording]
        ends = self._table.start_seconds[rows] + self._table.length[rows] / self._table.rate_hz[rows]
        past = rows[ends <= end_seconds + 1e-6]
        return _mean_and_deviation(self._moments[:, past if len(past) else rows[:1]].sum(1))


def _mean_and_deviation(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From [3, C] (count, sum, sum of squares) to [C], [C]; no samples at all give 0 and 1."""
    count, total, square = moments
    safe = np.maximum(count, 1)
    mean = total / safe
    variance = np.maximum(square / safe - mean**2, 0)
    return mean, np.where(count > 0, np.sqrt(variance), 1.0)
