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
    "subject_past": "z-scores with the moments of the same recording's past, up to the window's end; of the "
    "window itself until the first of its stored chunks (of at most 10 s) has ended",
}
LOSES_LEVEL = frozenset({"window", "centred"})
LOOKS_AHEAD = frozenset({"subject"})
# A deviation below this share of the root mean square is the rounding of a constant.
_CONSTANT_SHARE = 1e-6


class Normaliser:
    """Mean and deviation of one stream's channels for a window of a recording.

    A channel that has no deviation (nothing was recorded, or one value all along) has no z-scores: its
    samples come out as missing (NaN), and whoever reads windows masks them. A constant within one window
    is none of these: it is 0 there.

    Args:
      mode: One of `MODES`.
      stream: Name of the stream.
      table: The stream's chunks.
      recordings: All recordings of the data set.
      training: Indices of the recordings that training may see.
      constants: What an earlier one found in them (`constants`), to be used instead.
      window_seconds: Length of the windows of a ``sliding`` grid; 0 where a window is a whole recording.
        ``centred`` takes its scale from stretches of whole chunks of about this length; a chunk (of at most
        10 s) is the shortest whose moments are known without reading signals.
    """

    def __init__(
        self,
        mode: str,
        stream: str,
        table: ChunkTable,
        recordings: Sequence[Recording],
        training: Collection[int],
        *,
        constants: Mapping[str, Sequence[float | None]] | None = None,
        window_seconds: float = 0.0,
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
            self._fixed = np.array(constants["mean"], float), np.array(constants["deviation"], float)
        elif mode in ("train", "centred"):
            present = [self._rows[i] for i in sorted(training) if len(self._rows[i])]
            if not present:
                raise UsageError(
                    f"no training recording has the stream {stream!r}; leave it out of model.streams"
                )
            if mode == "train":
                self._fixed = _mean_and_deviation(moments[:, np.concatenate(present)].sum(1))
            else:
                self._fixed = self._within_windows(present, window_seconds)
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
    def constants(self) -> dict[str, list[float | None]] | None:
        """``mean`` and ``deviation`` of each channel over training subjects; None if the mode has none.

        The deviation is None in a channel that they have none of, which is thus masked for everybody.
        """
        if self._fixed is None:
            return None
        mean, deviation = (array.tolist() for array in self._fixed)
        return {"mean": mean, "deviation": [x if np.isfinite(x) else None for x in deviation]}

    def __call__(self, values: np.ndarray, recording: int, end_seconds: float) -> np.ndarray:
        """Normalises a recording's window.

        Args:
          values: float32 [S, T, C], NaN where missing.
          recording: Index of the recording.
          end_seconds: The window's end; only ``subject_past`` asks for it.

        Returns:
          float32 [S, T, C], NaN where missing, and in channels without a deviation.
        """
        if self.mode == "none":
            return values
        if self.mode == "window":
            mean, deviation = _of_window(values)
            deviation = np.where(np.isnan(deviation), 1.0, deviation)  # A constant is at its mean: 0.
        elif self.mode == "centred":
            mean, deviation = _of_window(values)[0], self._fixed[1]
        elif self.mode == "train":
            mean, deviation = self._fixed
        elif self.mode == "subject":
            mean, deviation = self._of_recording[recording]
        else:
            mean, deviation = self._past(values, recording, end_seconds)
        return ((values - mean) / deviation).astype(np.float32)

    def _past(self, values: np.ndarray, recording: int, end_seconds: float) -> tuple[np.ndarray, np.ndarray]:
        """Moments of the chunks that end by ``end_seconds``; where they have none, of the window itself."""
        rows = self._rows[recording]
        ends = self._table.start_seconds[rows] + self._table.length[rows] / self._table.rate_hz[rows]
        past = rows[ends <= end_seconds + 1e-6]
        mean, deviation = _mean_and_deviation(self._moments[:, past].sum(1))
        now_mean, now_deviation = _of_window(values)
        known = np.isfinite(deviation)
        return np.where(known, mean, now_mean), np.where(known, deviation, now_deviation)

    def _within_windows(
        self, present: Sequence[np.ndarray], window_seconds: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Zeros, and the root of the mean variance within stretches of about ``window_seconds``."""
        stretches = []
        for rows in present:
            since = self._table.start_seconds[rows] - self._table.start_seconds[rows[0]]
            number = np.floor(since / window_seconds + 1e-9) if window_seconds else np.zeros(len(rows))
            first = np.flatnonzero(np.diff(number, prepend=-1))
            stretches.append(np.add.reduceat(self._moments[:, rows], first, axis=1))
        moments = np.concatenate(stretches, axis=1)
        count = moments[0].sum(0)
        variance = (_mean_and_variance(moments)[1] * moments[0]).sum(0) / np.maximum(count, 1)
        mean_square = moments[2].sum(0) / np.maximum(count, 1)
        return np.zeros(len(count)), _deviation(variance, mean_square)


def _of_window(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel of a window [S, T, C], NaN where missing."""
    seen = np.isfinite(values)
    count = np.maximum(seen.sum((0, 1)), 1)
    known = np.where(seen, values, 0)
    mean = known.sum((0, 1), dtype=np.float64) / count
    variance = (np.where(seen, values - mean, 0) ** 2).sum((0, 1)) / count
    return mean, _deviation(variance, (known.astype(np.float64) ** 2).sum((0, 1)) / count)


def _mean_and_variance(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From [3, ..., C] (count, sum, sum of squares) to [..., C] each; zeros where nothing was recorded."""
    count, total, square = moments
    safe = np.maximum(count, 1)
    mean = total / safe
    return mean, np.maximum(square / safe - mean**2, 0)


def _mean_and_deviation(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From [3, C] (count, sum, sum of squares) to [C] each; NaN deviation where there is none."""
    mean, variance = _mean_and_variance(moments)
    return mean, _deviation(variance, moments[2] / np.maximum(moments[0], 1))


def _deviation(variance: np.ndarray, mean_square: np.ndarray) -> np.ndarray:
    """The root of a variance; NaN for a constant, and where nothing was recorded."""
    return np.where(variance > _CONSTANT_SHARE**2 * mean_square, np.sqrt(variance), np.nan)
