"""Video files as the decoder opens them: checked before, while and after they are read."""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Iterator
from pathlib import Path

import av

from data_pipelines.errors import BadDataError
from data_pipelines.media.container import open_container

MAX_PIXELS = 4096 * 2304
"""Largest picture that is decoded: a file of 200 KB can ask for gigabytes."""
VIDEO_SUFFIXES = frozenset(
    ".3g2 .3gp .asf .avi .divx .dv .f4v .flv .m2ts .m2v .m4v .mkv .mov .mp4 .mpe .mpeg .mpg .mts .mxf .ogm "
    ".ogv .qt .rm .rmvb .ts .vob .webm .wmv".split()
)
"""Endings of video files that the decoder knows, in small letters."""


@contextlib.contextmanager
def opened(path: Path, max_pixels: int) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Opens a file for decoding on one thread, after its header has been checked."""
    with open_container(path, "a video", "video file") as container:
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


def decoded(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream, max_pixels: int
) -> Iterator[av.VideoFrame]:
    """The decoder's frames in the order in which they are shown; every sign of damage becomes a sentence."""
    count = 0
    waiting: list[int] = []
    in_stored_order = knows_stored_order_only(container)
    try:
        for packet in container.demux(stream):
            if in_stored_order and packet.size and packet.dts is not None:
                heapq.heappush(waiting, packet.dts)
            if packet.is_corrupt:
                raise BadDataError(f"{path} is truncated or damaged at frame {count}; copy it again")
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise BadDataError(f"{path} is damaged at frame {count}; copy it again")
                if frame.width * frame.height > max_pixels:
                    raise _too_large(path, frame.width, frame.height, max_pixels)
                if in_stored_order:
                    # The decoder has put the pictures in order; the times that it gives them are guesses.
                    frame.pts = heapq.heappop(waiting) if waiting else None
                yield frame
                count += 1
    except (av.FFmpegError, OSError) as error:
        raise BadDataError(
            f"{path} is damaged at frame {count}: its data cannot be decoded ({type(error).__name__}); "
            "copy it again"
        ) from None


def knows_stored_order_only(container: av.container.InputContainer) -> bool:
    """True for AVI: it says when each packet comes, not when its picture is shown."""
    return container.format.name == "avi"


def check_whole(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream, count: int, end_seconds: float
) -> None:
    """Compares what came with what the file promises: a truncated file may end without an error.

    Args:
      path: The file.
      container: It, opened.
      stream: Its video.
      count: Number of frames that came, without those that the file's edit list cuts off.
      end_seconds: The last one's time by the file's clock.
    """
    if not count:
        raise BadDataError(f"{path} gave no frame at all: it is truncated or empty; copy it again")
    if stream.frames:
        if _is_short(count, stream.frames) and _is_short(count, shown := _shown_frames(container, stream)):
            raise BadDataError(
                f"{path} gave {count} frames of the {shown} that it promises: it is truncated; copy it again"
            )
    elif container.duration:
        promised = container.duration / av.time_base
        # A duration is that of the longest stream: only a clear lack is damage.
        if end_seconds < promised - max(1.0, 0.2 * promised):
            raise BadDataError(
                f"{path} ends after {end_seconds:.1f} s of the {promised:.1f} s that it promises: it is "
                "truncated; copy it again"
            )


def _is_short(count: int, promised: int) -> bool:
    return count < promised - max(2.0, 0.02 * promised)


def _shown_frames(container: av.container.InputContainer, stream: av.VideoStream) -> int:
    """How many frames the file promises to show.

    An mp4 or mov that was trimmed without encoding it anew counts all that it holds; its edit list cuts some
    of them off: those before its start are decoded and not shown, those after its end are not read at all.
    """
    if "mp4" not in container.format.name.split(","):
        return stream.frames
    return sum(not entry.is_discard for entry in stream.index_entries) or stream.frames
