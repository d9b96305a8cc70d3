"""Sound: decoded to mono PCM by its timestamps."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import av
import numpy as np

from data_pipelines.errors import BadDataError
from data_pipelines.media.container import open_container, start_seconds
from data_pipelines.recording import MAX_CHUNK_SECONDS, Chunk

PAPER_RATE_HZ = 44100
PAPER_CLIP_SAMPLES = 45599
"""What every clip of the paper is padded to: 104 spectrogram frames (reference facts B4)."""

MIN_RATE_HZ, MAX_RATE_HZ = 1000, 768_000
"""Rates of files that are decoded: of a lower one, a small file would become hours of samples."""
GAP_SECONDS = 0.1
"""How far timestamps may stray from the count of samples before they are believed instead."""

_DTYPES = ("int16", "float32")
# Containers that know their length to the sample; others estimate it.
_EXACT_CONTAINERS = ("wav", "flac", "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
_UNKNOWN_RIFF_SIZE = (0, 0xFFFFFFFF)


@dataclasses.dataclass(frozen=True)
class Sound:
    """A piece of sound without gaps.

    Attributes:
      time_seconds: Time of the first sample from the start of the file.
      samples: [N], int16 PCM or float32 in [-1, 1].
    """

    time_seconds: float
    samples: np.ndarray


def decode_audio(
    path: str | os.PathLike[str],
    *,
    rate_hz: int = PAPER_RATE_HZ,
    dtype: Literal["int16", "float32"] = "int16",
) -> Iterator[Sound]:
    """Decodes the first audio stream of a sound or video file to mono PCM, piece by piece.

    Args:
      path: The file.
      rate_hz: Samples a second of what comes out; resampled where the file has another rate.
      dtype: ``int16`` or ``float32``.

    Yields:
      At least one piece, in time order, of at most 10 s. Each begins where the one before ended, but after a
      gap in the file's timestamps at a later time; sound that overlaps what came before is dropped. Times
      count from the start of the file (of the stream that starts first), as those of `video.read_frames` do.
      Several channels become their mean.

    Raises:
      BadDataError: The file is missing, empty, truncated (shorter than it promises), damaged, holds no audio
        stream, or one of an impossible rate; raised when that place is reached.
    """
    path = Path(path)
    if dtype not in _DTYPES:
        raise ValueError(f"dtype is {dtype!r}; it can be {' or '.join(_DTYPES)}")
    with _opened(path) as (container, stream):
        pieces = _Pieces(path, rate_hz, dtype)
        start = start_seconds(container, stream)
        first_seconds, end_seconds = 0.0, None
        for frame in _decoded(path, container, stream):
            time = end_seconds if frame.time is None else frame.time - start
            if end_seconds is None or time > end_seconds + GAP_SECONDS:
                yield from pieces.finish()
                time = time or 0.0
                first_seconds = time if end_seconds is None else first_seconds
                end_seconds = pieces.start_seconds = time
            elif time < end_seconds - GAP_SECONDS:
                continue
            end_seconds += frame.samples / frame.sample_rate
            yield from pieces.add(frame)
        yield from pieces.finish()
        _check_whole(path, container, stream, (end_seconds or first_seconds) - first_seconds)


def read_chunks(
    path: str | os.PathLike[str],
    *,
    stream: str,
    source: str,
    rate_hz: int = PAPER_RATE_HZ,
    dtype: Literal["int16", "float32"] = "int16",
) -> Iterator[Chunk]:
    """The sound of a file as chunks of at most 10 s, [N, 1] each; arguments and errors as `decode_audio`."""
    for index, sound in enumerate(decode_audio(path, rate_hz=rate_hz, dtype=dtype)):
        times = np.array([sound.time_seconds], np.float64)
        yield Chunk(stream, source, index, times, rate_hz=float(rate_hz), values=sound.samples[:, None])


class _Pieces:
    """Resamples frames that follow each other, and cuts what comes out into pieces.

    Attributes:
      start_seconds: Time of the first sample that was not handed out yet.
    """

    def __init__(self, path: Path, rate_hz: int, dtype: str) -> None:
        self._path, self._rate_hz, self._dtype = path, rate_hz, dtype
        self._most = max(1, math.floor(MAX_CHUNK_SECONDS * rate_hz))
        self._resampler: av.AudioResampler | None = None
        self._waiting: list[np.ndarray] = []
        self._count = 0
        self.start_seconds = 0.0

    def add(self, frame: av.AudioFrame) -> Iterator[Sound]:
        """The pieces that are full with this frame."""
        if self._resampler is None:
            # Its own mixing to mono weighs the channels differently in each format.
            self._resampler = av.AudioResampler(format="fltp", layout=frame.layout, rate=self._rate_hz)
        frame.pts = None  # the resampler is to count, not to fill gaps
        self._resample(frame)
        while self._count >= self._most:
            yield self._cut(self._most)

    def finish(self) -> Iterator[Sound]:
        """What is left; the next frame need not follow."""
        if self._resampler is not None:
            self._resample(None)
            self._resampler = None
        while self._count:
            yield self._cut(min(self._count, self._most))

    def _resample(self, frame: av.AudioFrame | None) -> None:
        try:
            for resampled in self._resampler.resample(frame):
                samples = resampled.to_ndarray().mean(0)
                if self._dtype == "int16":
                    samples = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
                self._waiting.append(samples)
                self._count += len(samples)
        except (av.FFmpegError, ValueError) as error:
            raise BadDataError(
                f"{self._path}: its sound changes its form on the way and cannot be resampled ({error}); "
                "convert the file again"
            ) from None

    def _cut(self, length: int) -> Sound:
        samples = np.concatenate(self._waiting)
        self._waiting, self._count = [samples[length:]], self._count - length
        sound = Sound(self.start_seconds, samples[:length].copy())
        self.start_seconds += length / self._rate_hz
        return sound


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.AudioStream]]:
    """Opens a file for decoding on one thread, after its header has been checked."""
    with open_container(path, "sound", "sound or video file") as container:
        if not container.streams.audio:
            raise BadDataError(f"{path} holds no audio stream; expected a sound file, or a video with sound")
        stream = container.streams.audio[0]
        context = stream.codec_context
        if context is None:
            raise BadDataError(f"{path} holds sound of a kind that is not known here; convert it to wav")
        if not MIN_RATE_HZ <= context.sample_rate <= MAX_RATE_HZ:
            raise BadDataError(
                f"{path} has sound of {context.sample_rate} samples a second; expected {MIN_RATE_HZ} to "
                f"{MAX_RATE_HZ}: it is damaged or no sound"
            )
        if container.format.name == "wav":
            _check_riff(path)
        # One thread: preparation runs one process a core. "explode" makes the decoder report damage.
        context.thread_count = 1
        context.options = {"err_detect": "explode"}
        yield container, stream


def _check_riff(path: Path) -> None:
    """A wav file may end anywhere without its decoder's noticing; its header knows the length."""
    with path.open("rb") as file:
        header = file.read(8)
    promised = int.from_bytes(header[4:8], "little")
    size = path.stat().st_size
    if header[:4] == b"RIFF" and promised not in _UNKNOWN_RIFF_SIZE and size < promised + 8:
        raise BadDataError(
            f"{path} has {size} bytes of the {promised + 8} that it promises: it is truncated; copy it again"
        )


def _decoded(
    path: Path, container: av.container.InputContainer, stream: av.AudioStream
) -> Iterator[av.AudioFrame]:
    """The decoder's frames; every sign of damage becomes a sentence."""
    seconds = 0.0
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise BadDataError(f"{path} is truncated or damaged after {seconds:.1f} s; copy it again")
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise BadDataError(f"{path} is damaged after {seconds:.1f} s; copy it again")
                if not MIN_RATE_HZ <= frame.sample_rate <= MAX_RATE_HZ:
                    raise BadDataError(
                        f"{path} changes to {frame.sample_rate} samples a second after {seconds:.1f} s: it "
                        "is damaged; copy it again"
                    )
                seconds += frame.samples / frame.sample_rate
                yield frame
    except (av.FFmpegError, OSError) as error:
        raise BadDataError(
            f"{path} is damaged after {seconds:.1f} s: its sound cannot be decoded ({type(error).__name__}); "
            "copy it again"
        ) from None


def _check_whole(
    path: Path, container: av.container.InputContainer, stream: av.AudioStream, seconds: float
) -> None:
    """Compares what came with what the file promises: a truncated file may end without an error."""
    if not seconds:
        raise BadDataError(f"{path} gave no sound at all: it is truncated or empty; copy it again")
    if stream.duration is not None:
        promised = float(stream.duration * stream.time_base)
    elif len(container.streams) == 1 and container.duration is not None:
        promised = container.duration / av.time_base
    else:
        return  # the length is that of the longest stream, which may be another one
    exact = container.format.name in _EXACT_CONTAINERS
    # A guessed length is one of a mean bit rate.
    tolerance = max(0.25, 0.02 * promised) if exact else max(1.0, 0.2 * promised)
    if seconds < promised - tolerance:
        raise BadDataError(
            f"{path} gave {seconds:.1f} s of sound of the {promised:.1f} s that it promises: it is "
            "truncated; copy it again"
        )
