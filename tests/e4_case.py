"""Wristband folders in a few lines, for several tests."""

from __future__ import annotations

import pathlib

START = 1_600_000_000


def write_person(folder: pathlib.Path, start: float = START, newline: str = "\n", **files: str) -> None:
    folder.mkdir(parents=True)
    contents = {
        "BVP": f"{start:.2f}\n64.0\n" + "1.5\n" * 640,
        "EDA": f"{start:.6f}\n4.0\n0.0\n" + "2.5\n" * 39,
        "TEMP": f"{start:.6f}\n4.0\n" + "31.5\n" * 40,
        "ACC": f"{start:.6f}, {start:.6f}, {start:.6f}\n32.0, 32.0, 32.0\n" + "1,-2,63\n" * 320,
    } | files
    for name, text in contents.items():
        (folder / f"{name}.csv").write_bytes(text.replace("\n", newline).encode())


def write_labels(path: pathlib.Path, *lines: str, header: str = "Participant,Time(sec),Label") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *lines]) + "\n")
