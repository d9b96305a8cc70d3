"""Files of pictures and sound: opened, or a sentence."""

from __future__ import annotations

import os
from pathlib import Path

import av

from data_pipelines.errors import BadDataError


def open_container(path: Path, what: str, kind: str) -> av.container.InputContainer:
    """Opens a file and reads its header; nothing is decoded.

    Args:
      path: The file.
      what: What it is opened as, for messages: ``a video``, ``sound``.
      kind: What kind of file is expected: ``video file``.

    Raises:
      BadDataError: It is missing, or no such file.
    """
    try:
        return av.open(os.fspath(path), metadata_errors="replace")
    except FileNotFoundError:
        raise BadDataError(f"{path} is missing; expected a {kind}") from None
    except (av.FFmpegError, OSError) as error:
        size = path.stat().st_size
        raise BadDataError(
            f"{path} ({size} bytes) cannot be opened as {what}: it is empty, truncated or no {kind} "
            f"({type(error).__name__}); copy it again"
        ) from None


def start_seconds(container: av.container.InputContainer, stream: av.stream.Stream) -> float:
    """Start of the file in seconds; exact where this stream is the first to start."""
    of_stream = float(stream.start_time * stream.time_base) if stream.start_time is not None else 0.0
    of_file = container.start_time / av.time_base if container.start_time is not None else of_stream
    # The file's own start is rounded to microseconds.
    return of_stream if abs(of_stream - of_file) < 2e-6 else of_file
