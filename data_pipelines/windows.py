"""Which frames and samples belong to which token: pure index arithmetic.

The *token grid* is the S moments at which all streams are looked at. A stream's *window* says what it
sees of itself at each of them. Nothing here touches media; every function maps clocks to indices.
"""

from __future__ import annotations

import numpy as np


def segment_frames(
    num_frames: int,
    num_tokens: int,
    frames_per_token: int,
    *,
    first_frame: int = 0,
    last_frame: int = 0,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Indices of consecutive frames in each of S equal segments of a clip.

    The clip (or its part from ``first_frame`` up to ``last_frame``) is divided into S equal segments; each
    token sees ``frames_per_token`` consecutive frames of its own segment: with a random start where a
    generator is given (training), else the middle ones (evaluation). Source: BioVid pipeline, reference
    facts C4.

    Args:
      num_frames: Frames in the clip, at least 1.
      num_tokens: S.
      frames_per_token: Frames of one window.
      first_frame: Where the used part of the clip begins.
      last_frame: Where it ends, exclusive; 0 for the clip's end. A clip that is not longer than this is
        used whole, as the authors do with frames 50-70.
      rng: Draws the starts; ``None`` for the middle.

    Returns:
      int32 [S, F], ascending within a token. A segment shorter than the window borrows frames around it;
      a clip shorter than the window repeats its last frame.

    Raises:
      ValueError: ``num_frames`` is not positive, or the part is empty.
    """
    if num_frames < 1:
        raise ValueError(f"a clip needs at least one frame, got {num_frames}")
    begin, end = first_frame, last_frame or num_frames
    if end > num_frames:
        begin, end = 0, num_frames
    if not 0 <= begin < end:
        raise ValueError(f"frames {first_frame} to {last_frame} are no part of a clip of {num_frames} frames")
    edges = begin + np.arange(num_tokens + 1) * (end - begin) / num_tokens
    low = np.ceil(edges[:-1] - 1e-9).astype(np.int64)
    high = np.ceil(edges[1:] - 1e-9).astype(np.int64) - frames_per_token
    if rng is None:
        start = np.floor((edges[:-1] + edges[1:] - frames_per_token) / 2 + 1e-9).astype(np.int64)
    else:
        start = low + np.floor(rng.random(num_tokens) * (np.maximum(high - low, 0) + 1)).astype(np.int64)
    start = np.clip(start, begin, max(begin, end - frames_per_token))
    return np.minimum(start[:, None] + np.arange(frames_per_token), end - 1).astype(np.int32)


def whole_signal(num_samples: int, window_samples: int) -> tuple[int, int]:
    """First index and real length of the one window that covers a whole clip's signal.

    A longer signal is cropped at its end, a shorter one is padded there (the caller masks the padding):
    2817 rows become 2816 (reference facts C2).

    Returns:
      (0, number of real samples, at most ``window_samples``).
    """
    return 0, min(num_samples, window_samples)


def sliding_starts(duration_seconds: float, window_seconds: float, step_seconds: float) -> np.ndarray:
    """Start times of all windows that lie wholly within a recording.

    Returns:
      float64 [N], 0, step, 2 step, ...; empty if the recording is shorter than one window.
    """
    if window_seconds <= 0 or step_seconds <= 0:
        raise ValueError(f"window ({window_seconds} s) and step ({step_seconds} s) must be positive")
    count = int(np.floor((duration_seconds - window_seconds) / step_seconds + 1e-9)) + 1
    return np.arange(max(count, 0)) * step_seconds


def token_ends(start_seconds: float, window_seconds: float, num_tokens: int) -> np.ndarray:
    """The moments of S tokens that divide a window into equal parts; each token ends at its moment.

    Returns:
      float64 [S], ascending, the last one at the window's end.
    """
    return start_seconds + window_seconds * np.arange(1, num_tokens + 1) / num_tokens


def trailing_samples(
    token_seconds: np.ndarray, window_seconds: float, first_sample_seconds: float, rate_hz: float
) -> np.ndarray:
    """Sample indices of the windows that end at each token's moment.

    Args:
      token_seconds: float64 [S].
      window_seconds: Length of the window.
      first_sample_seconds: Time of sample 0.
      rate_hz: Rate of the signal.

    Returns:
      int64 [S, T], T = round(window_seconds * rate_hz). Indices below 0 or past the signal's end stand
      where nothing was recorded; the caller masks them.
    """
    length = max(1, round(window_seconds * rate_hz))
    last = np.round((np.asarray(token_seconds) - first_sample_seconds) * rate_hz).astype(np.int64)
    return last[:, None] - length + np.arange(length)
