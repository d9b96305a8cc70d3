"""How a video file asks to show its pictures: the shape of its pixels, turned, mirrored."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import av
import numpy as np
from av.sidedata.sidedata import Type

from data_pipelines.errors import BadDataError

MAX_PIXEL_ASPECT = 8.0
"""Pixels more oblong than this are damage: films of all kinds stay below 3."""

Turn = tuple[bool, bool, bool]
"""Columns become rows; then mirrored left to right; then upside down."""
AS_STORED: Turn = (False, False, False)


@dataclasses.dataclass(frozen=True)
class Display:
    """How the pictures of one file are shown.

    Attributes:
      pixel_aspect: Width of a pixel by its height.
    """

    pixel_aspect: float = 1.0

    def turn_of(self, frame: av.VideoFrame) -> Turn:
        """How a frame is to be turned and mirrored; see `turned`."""
        matrix = frame.side_data.get(Type.DISPLAYMATRIX)
        return AS_STORED if matrix is None else turn_of_matrix(np.frombuffer(bytes(matrix), np.int32))


def display_of(path: Path, stream: av.VideoStream) -> Display:
    """What a file says of all its pictures.

    Raises:
      BadDataError: Its pixels have an impossible shape.
    """
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    pixel_aspect = float(aspect) if aspect else 1.0
    if not 1 / MAX_PIXEL_ASPECT <= pixel_aspect <= MAX_PIXEL_ASPECT:
        raise BadDataError(
            f"{path} says that its pixels are {pixel_aspect:g} times as wide as high; expected "
            f"{1 / MAX_PIXEL_ASPECT:g} to {MAX_PIXEL_ASPECT:g}: it is damaged; convert it again"
        )
    return Display(pixel_aspect)


def turn_of_matrix(matrix: np.ndarray) -> Turn:
    """The nearest of the eight ways to lay a picture on its side and mirror it.

    Args:
      matrix: [9], the display matrix [a, b, u, c, d, v, ...] (ISO 14496-12, 6.2.2): a pixel at (x, y), y
        downwards, is shown at (a x + c y, b x + d y).
    """
    a, b, c, d = (float(matrix[place]) for place in (0, 1, 3, 4))

    def likeness(turn: Turn) -> float:
        transpose, mirror, upside_down = turn
        of_x, of_y = (c, b) if transpose else (a, d)
        return (-of_x if mirror else of_x) + (-of_y if upside_down else of_y)

    # The first of equal ones: a matrix of zeros says nothing.
    return max(itertools.product((False, True), repeat=3), key=likeness)


def turned(image: np.ndarray, turn: Turn) -> np.ndarray:
    """A picture [H, W, C], turned and mirrored; [W, H, C] where columns become rows."""
    transpose, mirror, upside_down = turn
    if turn == AS_STORED:
        return image
    image = image.swapaxes(0, 1) if transpose else image
    image = image[:, ::-1] if mirror else image
    return np.ascontiguousarray(image[::-1] if upside_down else image)
