"""Writes H.264 videos, for the samples and the benchmarks."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np


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
