"""The token grid: how recordings become items, and items tokens."""

from __future__ import annotations

import dataclasses

from data_pipelines import windows
from data_pipelines.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Grid:
    """How recordings become items and items tokens.

    Attributes:
      kind: ``clip`` (one item a recording), ``sliding`` (windows of a long recording) or ``frames`` (every
        frame is the target of a token; see `data_pipelines.frame_items`).
      tokens: S.
      window_seconds, step_seconds: Of the sliding windows.
      mixed: What to do with a sliding window that has more than one label: ``drop`` it, or give it the
        ``majority`` label.
      token_step_frames: Between the targets of two tokens of a ``frames`` grid.
      schedule: Of a ``frames`` grid: ``every_frame``, or ``paper``, the reference's.
      label_shift_seconds: Of a ``frames`` grid: how much later than a frame the label is taken that training
        sees for it: annotators react late. Predictions are moved by as much before they are written and
        scored, on the frames' own annotation.
    """

    kind: str = "clip"
    tokens: int = 1
    window_seconds: float = 0.0
    step_seconds: float = 0.0
    mixed: str = "drop"
    token_step_frames: int = windows.PAPER_STEP_FRAMES
    schedule: str = "every_frame"
    label_shift_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("clip", "sliding", "frames"):
            raise UsageError(f"grid.kind={self.kind!r} is unknown; it is clip, sliding or frames")
        if self.mixed not in ("drop", "majority"):
            raise UsageError(f"grid.mixed={self.mixed!r} is unknown; it is drop or majority")
        if self.tokens < 1:
            raise UsageError(f"grid.tokens={self.tokens} is too small; a grid has at least one token")
        if self.kind == "sliding" and not (self.window_seconds > 0 and self.step_seconds > 0):
            raise UsageError("a sliding grid needs a positive window_seconds and step_seconds")
        if self.label_shift_seconds and self.kind != "frames":
            raise UsageError(
                f"grid.label_shift_seconds={self.label_shift_seconds:g} moves the labels of a frames grid; "
                f"set it to 0 with grid.kind={self.kind!r}"
            )
        if self.schedule not in ("every_frame", "paper"):
            raise UsageError(f"grid.schedule={self.schedule!r} is unknown; it is every_frame or paper")
        if self.token_step_frames < 1 or self.label_shift_seconds < 0:
            raise UsageError(
                f"grid.token_step_frames={self.token_step_frames} and label_shift_seconds="
                f"{self.label_shift_seconds:g}; expected at least 1 and at least 0"
            )
        paper = (windows.PAPER_TOKENS, windows.PAPER_STEP_FRAMES)
        if self.schedule == "paper" and (self.tokens, self.token_step_frames) != paper:
            raise UsageError(
                f"grid.schedule='paper' has {paper[0]} tokens {paper[1]} frames apart, not {self.tokens} "
                f"and {self.token_step_frames}; set both so, or choose every_frame"
            )

    @property
    def block_frames(self) -> int:
        """Frames of a block of a ``frames`` grid: as many sequences as a step has frames share its frames."""
        return self.tokens * self.token_step_frames
