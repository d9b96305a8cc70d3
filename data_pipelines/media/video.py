"""Video files: decoded by their timestamps, cropped to the face, stored as JPEG.

The whole picture is never converted to RGB. Only the crop of each plane is read and shrunk, and the few
pixels that are left are converted, so that decoding itself stays the larger part of the work.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from data_pipelines.errors import BadDataError
from data_pipelines.media.container import start_seconds
from data_pipelines.media.display import Display, display_of, turned
from data_pipelines.media.frame_times import read_frame_times
from data_pipelines.media.video_file import MAX_PIXELS, check_whole, decoded, opened
from data_pipelines.recording import MAX_CHUNK_FRAMES, Chunk

CropMode = Literal["given", "centre", "auto"]
CROP_MODES: tuple[str, ...] = ("given", "centre", "auto")
JPEG_QUALITY = 95

_PLANAR_420 = ("yuv420p", "yuvj420p")
_BT709 = 1
_FULL_RANGE = 2
_PLAIN = Display()


@dataclasses.dataclass(frozen=True)
class Frame:
    """One face crop.

    Attributes:
      time_seconds: Time from the start of the file.
      image: uint8 [size, size, 3], RGB.
      crop: How it was cut: ``given`` or ``centre``.
    """

    time_seconds: float
    image: np.ndarray
    crop: str


@dataclasses.dataclass(frozen=True)
class VideoHeader:
    """What a video file says of itself, without decoding it.

    Attributes:
      width, height: In pixels as they are stored, before any rotation.
      pixel_aspect: Width of a pixel by its height.
      frames: Number of frames that the file says it holds; 0 where it does not say.
      duration_seconds: 0 where it does not say.
      rate_hz: Mean frame rate by the timestamps, not by the header, where some containers have the rate of
        their clock (1000); 0 for a single frame.
    """

    width: int
    height: int
    pixel_aspect: float
    frames: int
    duration_seconds: float
    rate_hz: float


def resolve_crop(crop: str, width: int, height: int) -> str:
    """Which crop a picture of this size gets: ``given`` or ``centre``.

    Args:
      crop: ``given`` (the whole picture is a face crop already), ``centre`` (the largest square in the
        middle; a centre crop, not a detected face) or ``auto`` (``given`` where the picture is square).
      width: Of the picture as it is shown, in square pixels.
      height: Of the picture as it is shown, in square pixels.

    Raises:
      ValueError: `crop` is none of these.
    """
    if crop not in CROP_MODES:
        raise ValueError(f"crop is {crop!r}; expected one of {', '.join(CROP_MODES)}")
    if crop != "auto":
        return crop
    return "given" if width == height else "centre"


def encode_jpeg(image: np.ndarray) -> bytes:
    """JPEG bytes (quality 95) of an RGB picture, uint8 [H, W, 3]; equal pictures give equal bytes."""
    swapped = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", swapped, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def decode_jpeg(data: bytes) -> np.ndarray:
    """The RGB picture, uint8 [H, W, 3], of JPEG bytes.

    Raises:
      BadDataError: The bytes are no picture.
    """
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise BadDataError(f"{len(data)} bytes are not a picture; expected a JPEG file")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_header(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> VideoHeader:
    """Reads what a video file says of itself.

    Raises:
      BadDataError: It is missing, no video, damaged, or its frames are too large.
    """
    path = Path(path)
    with opened(path, max_pixels) as (container, stream):
        duration = 0.0
        if stream.duration is not None and stream.time_base is not None:
            duration = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            duration = container.duration / av.time_base
        width, height = stream.codec_context.width, stream.codec_context.height
        pixel_aspect, frames = display_of(path, stream).pixel_aspect, stream.frames
    rate_hz = read_frame_times(path, max_pixels=max_pixels).rate_hz
    return VideoHeader(width, height, pixel_aspect, frames, duration, rate_hz)


def count_frames(path: str | os.PathLike[str]) -> int:
    """Decodes every frame on one thread and drops it: the least work that reading a video can be.

    Benchmarks compare with it. Nothing is checked; a damaged file may give too few.
    """
    with av.open(os.fspath(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return sum(1 for _ in container.decode(stream))


def read_frames(
    path: str | os.PathLike[str],
    *,
    size: int,
    crop: str = "auto",
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Frame]:
    """Decodes a video, frame by frame, in the order of its timestamps.

    Args:
      path: The file.
      size: Height and width of the crops in pixels.
      crop: See `resolve_crop`. A ``given`` picture that is not square is stretched to one.
      max_pixels: Largest picture that is decoded.

    Yields:
      The crops. Their times count from the start of the file (of the stream that starts first), so streams
      of one file share their origin. A large picture loses up to half an output pixel at its borders.
      The pictures are as the file asks to show them: pixels made square, turned and mirrored; frames that
      its edit list cuts off are not there.

    Raises:
      BadDataError: The file is missing, empty, truncated (fewer frames than it promises), damaged, too
        large, or its timestamps do not ascend; raised when that frame is reached.
    """
    path = Path(path)
    resolve_crop(crop, 1, 1)
    # OpenCV's threads would fight with the other worker processes for the same cores.
    cv2.setNumThreads(1)
    with opened(path, max_pixels) as (container, stream):
        start, shown = start_seconds(container, stream), display_of(path, stream)
        count = 0
        last = -float("inf")
        for frame in decoded(path, container, stream, max_pixels):
            if frame.time is None:
                raise BadDataError(f"{path}: frame {count} has no timestamp; convert the file again")
            time = frame.time - start
            if time <= last:
                raise BadDataError(
                    f"{path}: frame {count} is at {time:.6f} s, not after the one before it ({last:.6f} s); "
                    "convert the file again"
                )
            last = time
            count += 1
            used = resolve_crop(crop, round(frame.width * shown.pixel_aspect), frame.height)
            yield Frame(time, _face(frame, used, size, shown), used)
        check_whole(path, container, stream, count, last + start)


def read_chunks(
    path: str | os.PathLike[str],
    *,
    stream: str,
    source: str,
    size: int,
    crop: str = "auto",
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Chunk]:
    """The crops of a video as chunks of at most 512 JPEG images; arguments and errors as `read_frames`."""
    times: list[float] = []
    images: list[bytes] = []
    index = 0
    for frame in read_frames(path, size=size, crop=crop, max_pixels=max_pixels):
        if len(images) == MAX_CHUNK_FRAMES:
            yield Chunk(stream, source, index, np.asarray(times, np.float64), frames=tuple(images))
            times, images, index = [], [], index + 1
        times.append(frame.time_seconds)
        images.append(encode_jpeg(frame.image))
    yield Chunk(stream, source, index, np.asarray(times, np.float64), frames=tuple(images))


def _face(frame: av.VideoFrame, crop: str, size: int, shown: Display = _PLAIN) -> np.ndarray:
    """Cuts and shrinks one picture: uint8 [size, size, 3], RGB."""
    # Before anything makes a frame anew, which leaves such notes behind.
    turn = shown.turn_of(frame)
    if frame.format.name not in _PLANAR_420:
        frame = frame.reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG
        )
    width, height = frame.width, frame.height
    if crop == "centre":
        side = min(width * shown.pixel_aspect, height)
        width, height = round(side / shown.pixel_aspect), round(side)
    levels = max(0, (min(width, height) // size).bit_length() - 1)
    # Multiples of 2**levels can be halved exactly; an even corner keeps the chroma in place.
    step = max(2, 1 << levels)
    width, height = max(width // step * step, 2), max(height // step * step, 2)
    left, top = (frame.width - width) // 4 * 2, (frame.height - height) // 4 * 2

    planes = []
    for number, plane in enumerate(frame.planes):
        half = 1 if number else 0
        pixels = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        pixels = pixels[top >> half : (top + height) >> half, left >> half : (left + width) >> half]
        planes.append(_shrink(pixels, levels - half if levels else 0))
    if planes[0].shape != planes[1].shape:
        planes = [cv2.resize(plane, (size, size), interpolation=cv2.INTER_LINEAR) for plane in planes]
    small = cv2.merge(planes)
    if small.shape[:2] != (size, size):
        small = cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR)
    image = cv2.transform(small, _to_rgb(int(frame.colorspace), int(frame.color_range), frame.format.name))
    return turned(image, turn)


def _shrink(plane: np.ndarray, levels: int) -> np.ndarray:
    """Halves a plane `levels` times by averaging 2x2 pixels (the one size that OpenCV does at memory speed).

    Args:
      plane: uint8 [H, W], both multiples of 2**levels.
      levels: How often.

    Returns:
      uint8 [H >> levels, W >> levels].
    """
    if levels > 1:
        # Reading a large plane once in order brings it from memory faster than resizing does, which reads
        # two rows at a time: with this the halving takes a third less (measured at 1388x1038).
        cv2.sumElems(plane)
    for _ in range(levels):
        plane = cv2.resize(plane, (plane.shape[1] // 2, plane.shape[0] // 2), interpolation=cv2.INTER_AREA)
    return plane


@functools.cache
def _to_rgb(colorspace: int, color_range: int, format_name: str) -> np.ndarray:
    """float32 [3, 4]: RGB from (Y, U, V, 1), all 0 to 255; narrow-range BT.601 unless the file says else."""
    red, blue = (0.2126, 0.0722) if colorspace == _BT709 else (0.299, 0.114)
    green = 1.0 - red - blue
    full = color_range == _FULL_RANGE or format_name.startswith("yuvj")
    luma, chroma, black = (1.0, 1.0, 0.0) if full else (255 / 219, 255 / 224, 16.0)
    matrix = np.array(
        [
            [luma, 0.0, 2 * (1 - red) * chroma],
            [luma, -2 * blue * (1 - blue) / green * chroma, -2 * red * (1 - red) / green * chroma],
            [luma, 2 * (1 - blue) * chroma, 0.0],
        ]
    )
    offset = -matrix @ np.array([black, 128.0, 128.0])
    return np.hstack([matrix, offset[:, None]]).astype(np.float32)
