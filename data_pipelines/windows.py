"""Which frames and samples belong to which token: pure index arithmetic.

The *token grid* is the S moments at which all streams are looked at. A stream's *window* says what it
sees of itself at each of them. Nothing here touches media; every function maps clocks to indices.
"""

from __future__ import annotations

import dataclasses

import numpy as np

PAPER_TOKENS = 16
"""S of the paper's Affwild2 sequences."""
PAPER_STEP_FRAMES = 32
"""Between two targets; also how far back a target's own frames reach."""
PAPER_FRAMES_PER_TOKEN = 8
NO_FRAME = 0
"""Stands where a token has no frame; the frames themselves are numbered from 1."""


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


@dataclasses.dataclass(frozen=True)
class PaperSequences:
    """The paper's sequences of one Affwild2 video.

    Frames are numbered from 1, as the files of the release are.

    Attributes:
      targets: int64 [N, 16], the frame that each token is about, ascending; may lie past the video's end.
      frames: int64 [N, 16, 8], the frames that each token sees, chronological, the newest last; `NO_FRAME`
        all along where it has none.
    """

    targets: np.ndarray
    frames: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """bool [N, 16], True where a token has frames."""
        return self.frames[..., -1] != NO_FRAME


def paper_targets(num_frames: int, split: str) -> np.ndarray:
    """The targets of all sequences of a video, before any is dropped (reference facts B2).

    A sequence has 16 targets 32 frames apart. 32 sequences, each one frame later than the one before, make
    every frame of a 512-frame block a target exactly once; then comes the next block.

    Args:
      num_frames: Frames of the video.
      split: ``train``, ``validation`` or ``test``; the first stops one frame earlier.

    Returns:
      int64 [N, 16]; the last block reaches past the end of the video.

    Raises:
      ValueError: ``num_frames`` is not positive, or there is no such split.
    """
    if num_frames < 1:
        raise ValueError(f"a video needs at least one frame, got {num_frames}")
    if split not in ("train", "validation", "test"):
        raise ValueError(f"split is {split!r}; it can be train, validation or test")
    span = (PAPER_TOKENS - 1) * PAPER_STEP_FRAMES
    limit = num_frames + span + (1 if split == "train" else 2)
    block = PAPER_TOKENS * PAPER_STEP_FRAMES
    starts = np.arange(1, num_frames + 2, block)  # of the blocks' first targets
    ends = (starts[:, None] + span + np.arange(PAPER_STEP_FRAMES)).ravel()
    ends = ends[ends < limit].astype(np.int64)
    return ends[:, None] - span + PAPER_STEP_FRAMES * np.arange(PAPER_TOKENS)


def paper_token_frames(
    targets: np.ndarray,
    available: np.ndarray,
    *,
    frames_per_token: int = PAPER_FRAMES_PER_TOKEN,
    reach_frames: int = PAPER_STEP_FRAMES,
) -> np.ndarray:
    """Which 8 frames a token sees of the 32 that end at its target (reference facts B2).

    Of the n frames that exist among them: every 4th counted back from the newest where all 32 do, every 3rd
    from 24 on, every 2nd from 16 on, else all; of these the last 8. Fewer than 8 are filled up with the last.

    Args:
      targets: int64, any shape.
      available: Numbers of the frames that exist (with a face and, in the paper, a label), strictly
        ascending.
      frames_per_token: Another number than 8, by the same rule.
      reach_frames: Another number than 32.

    Returns:
      int64 [..., frames_per_token], chronological; `NO_FRAME` all along where none of the 32 exists.

    Raises:
      ValueError: ``available`` does not ascend strictly from 1 or later.
    """
    available = np.asarray(available, np.int64)
    if available.ndim != 1 or np.any(np.diff(available, prepend=0) <= 0):
        raise ValueError("the frames that exist must be numbers of 1 and more that ascend strictly")
    targets = np.asarray(targets)
    first = np.searchsorted(available, targets - reach_frames, side="right")
    past = np.searchsorted(available, targets, side="right")
    count = past - first
    every = np.maximum(count // frames_per_token, 1)
    place = np.arange(frames_per_token)
    back = every[..., None] * (frames_per_token - 1 - place)
    enough = (count >= frames_per_token)[..., None]
    chosen = np.where(
        enough, past[..., None] - 1 - back, first[..., None] + np.minimum(place, count[..., None] - 1)
    )
    if not len(available):
        return np.full(chosen.shape, NO_FRAME, np.int64)
    frames = available[np.clip(chosen, 0, len(available) - 1)]
    return np.where((count > 0)[..., None], frames, NO_FRAME)


def paper_sequences(num_frames: int, available: np.ndarray, split: str) -> PaperSequences:
    """The reference's sequences of one video, to the index (reference facts B2).

    In training it drops a sequence that has a token without frames, or whose last target lies past the end of
    the video (1500 frames give 1024 targets). In validation and test it keeps all, and a token without frames
    sees black ones; `PaperSequences.mask` says where.

    Args:
      num_frames: Frames of the video.
      available: Numbers of the frames that exist, strictly ascending.
      split: ``train``, ``validation`` or ``test``.

    Raises:
      ValueError: as `paper_targets` and `paper_token_frames`.
    """
    targets = paper_targets(num_frames, split)
    sequences = PaperSequences(targets, paper_token_frames(targets, available))
    if split != "train":
        return sequences
    kept = sequences.mask.all(1) & (targets[:, -1] <= num_frames)
    return PaperSequences(targets[kept], sequences.frames[kept])
