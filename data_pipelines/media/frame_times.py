"""When each frame of a video is shown, without decoding its pictures where that is possible."""

from __future__ import annotations

import array
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import av
import numpy as np

from data_pipelines.errors import BadDataError
from data_pipelines.media.container import start_seconds
from data_pipelines.media.video_file import (
    MAX_PIXELS,
    check_whole,
    decoded,
    knows_stored_order_only,
    opened,
)
from data_pipelines.raw_files import measure_file

# Of these every packet is one picture; others have packets that show none.
_PACKET_IS_PICTURE = ("h264", "hevc", "mpeg4", "mjpeg")


@dataclasses.dataclass(frozen=True)
class FrameTimes:
    """The clock of a video file.

    Attributes:
      times_seconds: float64 [N], N at least 1, strictly ascending, from the start of the file (of the stream
        that starts first), as those of `video.read_frames` and `audio.decode_audio` are.
      has_sound: True if the file holds sound.
    """

    times_seconds: np.ndarray
    has_sound: bool

    @property
    def rate_hz(self) -> float:
        """Mean frame rate; 0 for a single frame."""
        if len(self.times_seconds) < 2:
            return 0.0
        return (len(self.times_seconds) - 1) / float(self.times_seconds[-1] - self.times_seconds[0])


class KnownFrameTimes:
    """Reads the clocks of videos, and of one that did not change since only once; threads may share it.

    Args:
      root: Folder that the videos' names are relative to.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[str, tuple[tuple[int, int], FrameTimes]] = {}

    def read(self, path: str) -> FrameTimes:
        """The clock of a video; errors as `read_frame_times`."""
        measure = measure_file(self._root / path)
        known = self._known.get(path)
        if known is None or known[0] != measure:
            known = self._known[path] = measure, read_frame_times(self._root / path)
        return known[1]

    def add(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes in what `to_arrays` gave."""
        ends = np.cumsum(arrays["frames"])
        for path, measure, has_sound, times in zip(
            arrays["paths"].tolist(),
            arrays["measures"].tolist(),
            arrays["has_sound"].tolist(),
            np.split(arrays["times_seconds"], ends[:-1]),
            strict=True,
        ):
            self._known[path] = tuple(measure), FrameTimes(times, has_sound)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All that is known, in the order of the names; empty where nothing is.

        Returns:
          ``paths`` str [N], ``measures`` int64 [N, 2] (bytes, time of change in ns), ``has_sound`` bool [N],
          ``frames`` int64 [N] and ``times_seconds`` float64 [their sum].
        """
        if not self._known:
            return {}
        paths = sorted(self._known)
        measures, clocks = zip(*(self._known[path] for path in paths), strict=True)
        return {
            "paths": np.array(paths),
            "measures": np.array(measures, np.int64),
            "has_sound": np.array([clock.has_sound for clock in clocks]),
            "frames": np.array([len(clock.times_seconds) for clock in clocks], np.int64),
            "times_seconds": np.concatenate([clock.times_seconds for clock in clocks]),
        }


def read_frame_times(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> FrameTimes:
    """Reads a video's timestamps from its packets; only where these do not tell are the pictures decoded.

    Args:
      path: The file; a frame rate that varies is no matter.
      max_pixels: Largest picture that is decoded.

    Raises:
      BadDataError: The file is missing, empty, truncated, damaged, no video, or two of its frames have the
        same time.
    """
    path = Path(path)
    with opened(path, max_pixels) as (container, stream):
        start = start_seconds(container, stream)
        stamps, has_sound = _packet_stamps(path, container, stream)
        if stamps is not None:
            tick = stream.time_base
            times = stamps * tick.numerator / tick.denominator - start
            check_whole(path, container, stream, len(times), float(times[-1]) + start)
            return FrameTimes(times, has_sound)
    times = np.array(list(_decoded_times(path, max_pixels)), np.float64)
    if (np.diff(times) <= 0).any():
        number = int(np.argmax(np.diff(times) <= 0)) + 2
        raise BadDataError(
            f"{path}: frame {number} is not later than the one before it; convert the file again"
        )
    return FrameTimes(times, has_sound)


def _packet_stamps(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream
) -> tuple[np.ndarray | None, bool]:
    """The pictures' timestamps, ascending, or None where the packets do not tell; and if there is sound."""
    stamps = array.array("q")
    has_sound, tells = False, stream.codec_context.name in _PACKET_IS_PICTURE
    in_stored_order = knows_stored_order_only(container)
    wanted = [stream, *container.streams.audio[:1]]
    try:
        for packet in container.demux(wanted):
            if packet.is_corrupt:
                raise BadDataError(f"{path} is truncated or damaged at frame {len(stamps)}; copy it again")
            if not packet.size:
                continue  # the end
            if packet.stream_index != stream.index:
                has_sound = True
            elif not packet.is_discard:  # cut off by the file's edit list
                stamp = packet.dts if in_stored_order else packet.pts
                tells = tells and stamp is not None
                stamps.append(stamp or 0)
    except (av.FFmpegError, OSError) as error:
        raise BadDataError(
            f"{path} is damaged at frame {len(stamps)}: it cannot be read on ({type(error).__name__}); "
            "copy it again"
        ) from None
    ascending = np.unique(np.frombuffer(stamps, np.int64))
    tells = tells and len(ascending) == len(stamps) > 0
    return (ascending if tells else None), has_sound


def _decoded_times(path: Path, max_pixels: int) -> Iterator[float]:
    with opened(path, max_pixels) as (container, stream):
        start, count, time = start_seconds(container, stream), 0, 0.0
        for frame in decoded(path, container, stream, max_pixels):
            if frame.time is None:
                raise BadDataError(f"{path}: frame {count + 1} has no timestamp; convert the file again")
            count, time = count + 1, frame.time
            yield time - start
        check_whole(path, container, stream, count, time)
