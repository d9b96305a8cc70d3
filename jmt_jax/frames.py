"""From predictions of sequences to one value a frame: stitched, clipped and smoothed; pure functions.

Frames are numbered from 0 within their recording, as the rows of its annotation are. The paper's order is
kept (reference facts B5): clip to the label's range, then a running mean over 20 frames of valence and 50 of
arousal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.ndimage

from data_pipelines.errors import UsageError

NO_FRAME = -1
SMOOTHINGS = {
    "centred": "running mean about the frame, over the frames that exist at both ends",
    "paper": "the paper's running mean: zeros past both ends, half a frame off centre for an even length",
    "none": "not smoothed",
}


@dataclasses.dataclass(frozen=True)
class FrameOptions:
    """How predictions of frames become what is reported.

    Attributes:
      smoothing: ``centred``, ``paper`` or ``none``.
      smoothing_frames: Length of the running mean, one an output; 1 leaves an output as it is.
      value_range: Predictions are clipped to it.
    """

    smoothing: str = "centred"
    smoothing_frames: tuple[int, ...] = (20, 50)
    value_range: tuple[float, float] = (-1.0, 1.0)

    def check(self, outputs: Sequence[str]) -> None:
        """Raises UsageError unless the options fit a task with these outputs."""
        if self.smoothing not in SMOOTHINGS:
            raise UsageError(
                f"eval.frames.smoothing={self.smoothing!r} is unknown; it is one of {', '.join(SMOOTHINGS)}"
            )
        if len(self.smoothing_frames) != len(outputs) or min(self.smoothing_frames) < 1:
            raise UsageError(
                f"eval.frames.smoothing_frames={tuple(self.smoothing_frames)}; expected a number from 1 up "
                f"for each of {', '.join(outputs)}"
            )
        if not self.value_range[0] < self.value_range[1]:
            raise UsageError(
                f"eval.frames.value_range={tuple(self.value_range)}; expected the lower one first"
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Stitched:
    """One value a frame, of several recordings one after the other.

    Attributes:
      values: float64 [T, A].
      predicted: bool [T]; False where nothing was said about a frame and it stands between its neighbours.
      offsets: int64 [R + 1], where each recording's frames begin; the last is T.
    """

    values: np.ndarray
    predicted: np.ndarray
    offsets: np.ndarray


def stitch(
    values: np.ndarray,
    recording: np.ndarray,
    token_frames: np.ndarray,
    times_seconds: Sequence[np.ndarray],
) -> Stitched:
    """One value a frame out of the predictions of sequences.

    A frame that is predicted several times gets the mean. One that never is gets what a straight line in time
    between its neighbours says, at both ends the nearest one; in a recording without any prediction, 0.

    Args:
      values: float [N, S, A]; NaN where a token rests on nothing.
      recording: int [N], index into ``times_seconds``.
      token_frames: int [N, S], each token's frame; `NO_FRAME` (-1) for padding.
      times_seconds: For each recording float64 [F], ascending, the times of all its frames.

    Raises:
      ValueError: Shapes do not fit, or a frame is past its recording's end.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 3 or token_frames.shape != values.shape[:2] or recording.shape != values.shape[:1]:
        raise ValueError(
            f"values {values.shape}, recording {recording.shape}, token_frames {token_frames.shape}; "
            "expected [N, S, A], [N], [N, S]"
        )
    lengths = np.array([len(times) for times in times_seconds], np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    kept = (token_frames != NO_FRAME) & np.isfinite(values).all(-1)
    owner = np.broadcast_to(recording[:, None], token_frames.shape)[kept]
    frame = token_frames[kept].astype(np.int64)
    if np.any((frame < 0) | (frame >= lengths[owner])):
        wrong = np.flatnonzero((frame < 0) | (frame >= lengths[owner]))[0]
        raise ValueError(f"frame {frame[wrong]} of a recording of {lengths[owner[wrong]]} frames")
    place, total = offsets[owner] + frame, int(offsets[-1])
    count = np.bincount(place, minlength=total)
    sums = [np.bincount(place, weights=column, minlength=total) for column in values[kept].T]
    stitched = np.stack(sums, axis=1) / np.maximum(count, 1)[:, None]
    predicted = count > 0
    for begin, end, times in zip(offsets[:-1], offsets[1:], times_seconds, strict=True):
        _fill(stitched[begin:end], predicted[begin:end], times)
    return Stitched(stitched, predicted, offsets)


def clip(values: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """Values brought into the label's range."""
    return np.clip(values, *value_range)


def smooth(values: np.ndarray, smoothing: str, smoothing_frames: Sequence[int]) -> np.ndarray:
    """The running mean over time of one recording.

    Args:
      values: float [F, A], one row a frame.
      smoothing: ``centred``: every frame's window reaches equally far to both sides (for an even length the
        outermost two frames count half), and at the ends of the recording the mean is over the frames that
        exist. ``paper``: as the reference has it, scipy's ``uniform_filter1d`` with ``mode="constant"``:
        zeros past the ends, which pulls both ends of a recording towards 0 (facts A8, 6), and an even
        window that reaches one frame further back than ahead. ``none``.
      smoothing_frames: Length of the window, one an output.

    Returns:
      float64 [F, A].
    """
    values = np.asarray(values, np.float64)
    if smoothing == "none":
        return values
    if smoothing == "paper":
        columns = [
            scipy.ndimage.uniform_filter1d(column, size, mode="constant", cval=0.0)
            for column, size in zip(values.T, smoothing_frames, strict=True)
        ]
    elif smoothing == "centred":
        columns = [
            _centred_mean(column, size) for column, size in zip(values.T, smoothing_frames, strict=True)
        ]
    else:
        raise ValueError(f"smoothing is {smoothing!r}; it can be {', '.join(SMOOTHINGS)}")
    return np.stack(columns, axis=1)


def interpolated_runs(predicted: np.ndarray) -> list[tuple[int, int]]:
    """First and last frame of every run of frames that nothing was said about; [] if there is none."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], predicted, [True]]).astype(np.int8)))
    return [(int(first), int(past) - 1) for first, past in edges.reshape(-1, 2)]


def _fill(values: np.ndarray, predicted: np.ndarray, times_seconds: np.ndarray) -> None:
    """Puts interpolated values, in place, where nothing was predicted."""
    if predicted.all() or not predicted.any():
        return
    for column in range(values.shape[1]):
        values[~predicted, column] = np.interp(
            times_seconds[~predicted], times_seconds[predicted], values[predicted, column]
        )


def _centred_mean(column: np.ndarray, size: int) -> np.ndarray:
    """Mean [F] over ``size`` frames about each frame, over those that exist."""
    reach = size // 2
    frames = np.arange(len(column))

    def sums(of: np.ndarray, before: int, after: int) -> np.ndarray:
        running = np.concatenate([[0.0], np.cumsum(of)])
        last = np.minimum(frames + after + 1, len(of))
        return running[last] - running[np.maximum(frames - before, 0)]

    # An even window cannot be centred: the mean of the two that are off by half a frame is.
    windows = ((reach, reach),) if size % 2 else ((reach, reach - 1), (reach - 1, reach))
    ones = np.ones(len(column))
    total = sum(sums(column, *window) for window in windows)
    return total / sum(sums(ones, *window) for window in windows)
