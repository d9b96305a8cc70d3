"""Writes H.264 videos, for the samples and the benchmarks."""

from __future__ import annotations

import fractions
import os
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np

_TICK = fractions.Fraction(1, 90_000)


def write_video(
    path: Path, images: Iterable[np.ndarray], *, rate_hz: int, preset: str = "ultrafast", crf: int = 22
) -> None:
    """Encodes pictures as H.264 (yuv420p); the same pictures give the same bytes.

    Args:
      path: The file; its ending says the container, e.g. ``.mp4``.
      images: uint8 [H, W, 3] each, RGB, all of one size; H and W even.
      rate_hz: Pictures a second.
      preset: x264's preset; slower ones give smaller files.
      crf: x264's quality, 0 (none lost) to 51.
    """
    with av.open(os.fspath(path), "w") as container:
        # One thread: with more, the bytes depend on their number.
        options = {"preset": preset, "crf": str(crf), "threads": "1"}
        stream = container.add_stream("libx264", rate=rate_hz, options=options)
        stream.pix_fmt = "yuv420p"
        for image in images:
            if not stream.codec_context.is_open:
                stream.height, stream.width = image.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def write_film(
    path: Path,
    images: Iterable[np.ndarray],
    times_seconds: np.ndarray,
    *,
    sound: np.ndarray | None = None,
    sound_rate_hz: int = 44100,
    preset: str = "ultrafast",
    crf: int = 24,
) -> None:
    """Encodes pictures shown at any times, H.264 with pictures sent out of order, and sound, AAC.

    Args:
      path: The file; its ending says the container, e.g. ``.mp4``.
      images: uint8 [H, W, 3] each, RGB, all of one size; H and W even.
      times_seconds: float64 [N], one a picture, strictly ascending from 0; kept to 1/90000 s.
      sound: float32 [T] in [-1, 1], mono, from time 0; None for a file without an audio stream.
      sound_rate_hz: Its rate.
      preset: x264's preset.
      crf: x264's quality, 0 (none lost) to 51.
    """
    with av.open(os.fspath(path), "w") as container:
        # One thread: with more, the bytes depend on their number.
        options = {"preset": preset, "crf": str(crf), "threads": "1", "x264-params": "bframes=2"}
        stream = container.add_stream("libx264", rate=30, options=options)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = _TICK
        track = None
        if sound is not None:
            fast = {"aac_coder": "fast"}  # the usual one takes most of the time
            track = container.add_stream("aac", rate=sound_rate_hz, layout="mono", options=fast)
        heard = 0
        for image, time in zip(images, times_seconds, strict=True):
            if not stream.codec_context.is_open:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time / _TICK), _TICK
            container.mux(stream.encode(frame))
            while track is not None and heard < min(len(sound), time * sound_rate_hz):
                heard = _mux_sound(container, track, sound, heard)
        container.mux(stream.encode())
        if track is not None:
            while heard < len(sound):
                heard = _mux_sound(container, track, sound, heard)
            container.mux(track.encode())


def _mux_sound(
    container: av.container.OutputContainer, track: av.AudioStream, sound: np.ndarray, first: int
) -> int:
    """Writes the samples that one AAC frame holds, from `first`; returns where the next ones begin."""
    part = np.ascontiguousarray(sound[None, first : first + 1024], np.float32)
    frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = track.rate, first, fractions.Fraction(1, track.rate)
    container.mux(track.encode(frame))
    return first + part.shape[1]
