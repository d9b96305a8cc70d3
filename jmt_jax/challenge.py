"""The prediction files of the Affwild2 (ABAW) challenge, one a video (reference facts B7)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_pipelines.errors import BadDataError
from jmt_jax import files

HEADER = "image_location,valence,arousal"


def write(folder: Path, video: str, values: np.ndarray) -> Path:
    """Writes ``<video>.txt``, atomically: the header, then ``<video>/00001.jpg,0.12345,0.12345`` a frame.

    Args:
      folder: Where the files go.
      video: Name of the annotated person's video, with ``_left`` or ``_right`` where it has one.
      values: float [F, 2], valence and arousal of every frame of the video, from the first to the last.

    Returns:
      The file.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or values.shape[1] != 2 or not np.isfinite(values).all():
        raise ValueError(f"values of {video} have shape {values.shape}; expected finite [frames, 2]")
    lines = [HEADER]
    # Rounded first, and 0 added: a small negative number must not become -0.00000.
    for number, row in enumerate(np.round(values, 5) + 0.0, start=1):
        lines.append(f"{video}/{number:05d}.jpg,{row[0]:.5f},{row[1]:.5f}")
    path = folder / f"{video}.txt"
    files.write_text(path, "\n".join(lines) + "\n")
    return path


def read(path: Path) -> np.ndarray:
    """Values float64 [F, 2] of a file that `write` wrote.

    Raises:
      BadDataError: It is missing, has another header, or not every frame exactly once and in order.
    """
    if not path.is_file():
        raise BadDataError(f"no challenge file at {path}; run the evaluation of the test part first")
    header, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    if header != HEADER:
        raise BadDataError(f"{path} begins with {header!r}; expected {HEADER!r}")
    values = np.empty((len(lines), 2))
    for number, line in enumerate(lines, start=1):
        name, *cells = line.split(",")
        if name != f"{path.stem}/{number:05d}.jpg" or len(cells) != 2:
            raise BadDataError(
                f"{path}, line {number + 1} is {line!r}; expected {path.stem}/{number:05d}.jpg and two "
                "numbers"
            )
        values[number - 1] = [float(cell) for cell in cells]
    return values
