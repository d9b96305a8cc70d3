"""Video files: decoded by their timestamps, cropped to the face, stored as JPEG.

The whole picture is never converted to RGB. Only the crop of each plane is read and shrunk, and the few
pixels that are left are converted, so that decoding itself stays the larger part of the work.
"""

from __future__ import annotations

import contextlib
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
from data_pipelines.recording import MAX_CHUNK_FRAMES, Chunk

CropMode = Literal["given", "centre", "auto"]
CROP_MODES: tuple[str, ...] = ("given", "centre", "auto")
MAX_PIXELS = 4096 * 2304
"""Largest picture that is decoded: a file of 200 KB can ask for gigabytes."""
JPEG_QUALITY = 95

_PLANAR_420 = ("yuv420p", "yuvj420p")
_BT709 = 1
_FULL_RANGE = 2


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
      width, height: In pixels, before any rotation.
      frames: Number of frames that the file promises; 0 where it does not say.
      duration_seconds: 0 where it does not say.
      rate_hz: Mean frame rate; 0 where it does not say.
    """

    width: int
    height: int
    frames: int
    duration_seconds: float
    rate_hz: float


def resolve_crop(crop: str, width: int, height: int) -> str:
    """Which crop a picture of this size gets: ``given`` or ``centre``.

    Args:
      crop: ``given`` (the whole picture is a face crop already), ``centre`` (the largest square in the
        middle; a centre crop, not a detected face) or ``auto`` (``given`` where the picture is square).
      width: Of the picture, in pixels.
      height: Of the picture, in pixels.

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


@contextlib.contextmanager
def opened(path: Path, max_pixels: int) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Opens a file for decoding on one thread, after its header has been checked."""
    try:
        container = av.open(os.fspath(path), metadata_errors="replace")
    except FileNotFoundError:
        raise BadDataError(f"{path} is missing; expected a video file") from None
    except (av.FFmpegError, OSError) as error:
        size = path.stat().st_size
        raise BadDataError(
            f"{path} ({size} bytes) cannot be opened as a video: it is empty, truncated or no video file "
            f"({type(error).__name__}); copy it again"
        ) from None
    with container:
        if not container.streams.video:
            raise BadDataError(f"{path} holds no video stream; expected a video file")
        stream = container.streams.video[0]
        context = stream.codec_context
        if context is None:
            raise BadDataError(f"{path} holds video of a kind that is not known here; convert it to H.264")
        if context.width * context.height > max_pixels:
            raise _too_large(path, context.width, context.height, max_pixels)
        # One thread: preparation runs one process a core. "explode" makes the decoder report damage, which it
        # otherwise paints over with neighbouring pixels.
        context.thread_count = 1
        context.options = {"err_detect": "explode", "max_pixels": str(max_pixels)}
        yield container, stream


def _too_large(path: Path, width: int, height: int, max_pixels: int) -> BadDataError:
    return BadDataError(
        f"{path} has frames of {width}x{height} pixels; at most {max_pixels} pixels a frame are decoded. "
        "Make the video smaller, or raise max_pixels if it is meant"
    )


def read_header(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> VideoHeader:
    """Reads what a video file says of itself.

    Raises:
      BadDataError: It is missing, no video, or its frames are too large.
    """
    with opened(Path(path), max_pixels) as (container, stream):
        duration = 0.0
        if stream.duration is not None and stream.time_base is not None:
            duration = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            duration = container.duration / av.time_base
        return VideoHeader(
            width=stream.codec_context.width,
            height=stream.codec_context.height,
            frames=stream.frames,
            duration_seconds=duration,
            rate_hz=float(stream.average_rate or 0),
        )


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
      Rotation that the file asks for is applied.

    Raises:
      BadDataError: The file is missing, empty, truncated (fewer frames than it promises), damaged, too
        large, or its timestamps do not ascend; raised when that frame is reached.
    """
    path = Path(path)
    resolve_crop(crop, 1, 1)
    # OpenCV's threads would fight with the other worker processes for the same cores.
    cv2.setNumThreads(1)
    with opened(path, max_pixels) as (container, stream):
        start = start_seconds(container, stream)
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
            used = resolve_crop(crop, frame.width, frame.height)
            yield Frame(time, _face(frame, used, size), used)
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


def start_seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """Start of the file in seconds; exact where the video is the first stream to start."""
    of_stream = float(stream.start_time * stream.time_base) if stream.start_time is not None else 0.0
    of_file = container.start_time / av.time_base if container.start_time is not None else of_stream
    # The file's own start is rounded to microseconds.
    return of_stream if abs(of_stream - of_file) < 2e-6 else of_file


def decoded(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream, max_pixels: int
) -> Iterator[av.VideoFrame]:
    """The decoder's frames; every sign of damage becomes a sentence."""
    count = 0
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise BadDataError(f"{path} is truncated or damaged at frame {count}; copy it again")
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise BadDataError(f"{path} is damaged at frame {count}; copy it again")
                if frame.width * frame.height > max_pixels:
                    raise _too_large(path, frame.width, frame.height, max_pixels)
                yield frame
                count += 1
    except (av.FFmpegError, OSError) as error:
        raise BadDataError(
            f"{path} is damaged at frame {count}: its data cannot be decoded ({type(error).__name__}); "
            "copy it again"
        ) from None


def check_whole(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream, count: int, end_seconds: float
) -> None:
    """Compares what came with what the file promises: a truncated file may end without an error.

    Args:
      path: The file.
      container: It, opened.
      stream: Its video.
      count: Number of frames that came.
      end_seconds: The last one's time by the file's clock.
    """
    if not count:
        raise BadDataError(f"{path} gave no frame at all: it is truncated or empty; copy it again")
    if stream.frames:
        if count < stream.frames - max(2.0, 0.02 * stream.frames):
            raise BadDataError(
                f"{path} gave {count} frames of the {stream.frames} that it promises: it is truncated; "
                "copy it again"
            )
    elif container.duration:
        promised = container.duration / av.time_base
        # A duration is that of the longest stream: only a clear lack is damage.
        if end_seconds < promised - max(1.0, 0.2 * promised):
            raise BadDataError(
                f"{path} ends after {end_seconds:.1f} s of the {promised:.1f} s that it promises: it is "
                "truncated; copy it again"
            )


def _face(frame: av.VideoFrame, crop: str, size: int) -> np.ndarray:
    """Cuts and shrinks one picture: uint8 [size, size, 3], RGB."""
    if frame.format.name not in _PLANAR_420:
        frame = frame.reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG
        )
    width, height = frame.width, frame.height
    if crop == "centre":
        width = height = min(width, height)
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
    if frame.rotation:
        image = np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))
    return image


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
