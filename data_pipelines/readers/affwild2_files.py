"""Where the parts of an Affwild2 release lie, and what its text files say."""

from __future__ import annotations

import dataclasses
import io
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from data_pipelines.errors import BadDataError

EDITIONS = ("VA_Set", "VA_Estimation_Challenge")
"""Folders of the annotations, by edition of the challenge."""
PARTS: Mapping[str, str] = {"Train_Set": "train", "Validation_Set": "validation"}
"""Folders in them, and the official partition that each one is."""
CROPS_FOLDER = "cropped_aligned"
VIDEO_SUFFIXES = (".mp4", ".avi")
NOT_ANNOTATED = -5.0

_HEADER = "valence,arousal"
_CROP_NAME = re.compile(r"[0-9]{5,}\.(?:jpe?g|png)", re.IGNORECASE)
_SIDE = re.compile(r"_(?:left|right)$")
# A release unpacks to folders in a folder; deeper than this nothing of it lies.
_DEPTH = 3


@dataclasses.dataclass(frozen=True)
class Layout:
    """What there is; paths are relative to the root, with forward slashes.

    Attributes:
      annotations: Recording to its annotation file, in the order of part and name.
      parts: Recording to ``train`` or ``validation``.
      crops: Recording to the folder of its face crops.
      videos: A video's name to its file.
      duplicates: Video files that were not taken because another one has the same name.
      test_lists: Files that look like the list of the test videos.
    """

    annotations: Mapping[str, str]
    parts: Mapping[str, str]
    crops: Mapping[str, str]
    videos: Mapping[str, str]
    duplicates: tuple[str, ...]
    test_lists: tuple[str, ...]


def find_layout(root: Path, edition: str = "") -> Layout:
    """Looks through the folder for the parts of the release, by their names.

    Args:
      root: The raw folder.
      edition: Which of `EDITIONS`; "" for the only one there is.

    Raises:
      BadDataError: The folder is missing, or holds no annotations or no crops, or two editions.
    """
    if not root.is_dir():
        raise BadDataError(f"there is no folder {root}; expected a release of Affwild2")
    editions: dict[str, str] = {}
    crops: dict[str, str] = {}
    videos: dict[str, str] = {}
    duplicates: list[str] = []
    test_lists: list[str] = []
    for folder, folders, files in _walk(root):
        name = folder.rpartition("/")[2]
        if name.startswith(CROPS_FOLDER):
            for recording in folders:
                if not recording.startswith(CROPS_FOLDER):
                    crops.setdefault(recording, _join(folder, recording))
            continue
        if name in EDITIONS and any(part in folders for part in PARTS):
            editions.setdefault(name, folder)
            continue
        for file in files:
            stem, suffix = os.path.splitext(file)
            if suffix.lower() in VIDEO_SUFFIXES:
                if stem in videos:
                    duplicates.append(_join(folder, file))
                else:
                    videos[stem] = _join(folder, file)
            elif suffix.lower() == ".txt" and "test_set" in file.lower():
                test_lists.append(_join(folder, file))
    annotations, parts = _find_annotations(root, _choose(root, editions, edition))
    if not crops and not videos:
        raise BadDataError(
            f"{root} holds no {CROPS_FOLDER}/<video>/00001.jpg and no videos: copy the release's face crops "
            "and videos beside the annotations"
        )
    return Layout(annotations, parts, crops, videos, tuple(duplicates), tuple(test_lists))


def _walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Folders from the root down to a depth of `_DEPTH`, sorted: path, names of folders, names of files.

    Does not go into a recording's crops: there are millions.
    """
    waiting = [("", 0)]
    while waiting:
        folder, depth = waiting.pop(0)
        with os.scandir(root / folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        folders = [entry.name for entry in found if entry.is_dir() and not entry.name.startswith(".")]
        yield folder, folders, [entry.name for entry in found if entry.is_file()]
        if depth < _DEPTH:
            is_crops = folder.rpartition("/")[2].startswith(CROPS_FOLDER)
            inner = [name for name in folders if not is_crops or name.startswith(CROPS_FOLDER)]
            waiting.extend((_join(folder, name), depth + 1) for name in inner)


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _choose(root: Path, editions: Mapping[str, str], edition: str) -> str:
    if edition:
        if edition not in editions:
            found = ", ".join(editions) or "none"
            raise BadDataError(f"{root} holds no {edition}/Train_Set; the annotations there are: {found}")
        return editions[edition]
    if len(editions) > 1:
        raise BadDataError(
            f"{root} holds the annotations of two editions, {' and '.join(sorted(editions))}; choose one: "
            f"edition={EDITIONS[-1]}"
        )
    if not editions:
        raise BadDataError(
            f"no {' and no '.join(f'{name}/Train_Set' for name in EDITIONS)} in {root}: no Affwild2 release; "
            "give the folder that holds annotations, crops and videos"
        )
    return next(iter(editions.values()))


def _find_annotations(root: Path, folder: str) -> tuple[dict[str, str], dict[str, str]]:
    annotations: dict[str, str] = {}
    parts: dict[str, str] = {}
    for directory, part in PARTS.items():
        place = root / folder / directory
        for path in sorted(place.glob("*.txt")) if place.is_dir() else ():
            if path.stem in annotations:
                raise BadDataError(
                    f"{path.stem} is annotated in {parts[path.stem]} and in {part}; expected it in one part"
                )
            annotations[path.stem] = f"{folder}/{directory}/{path.name}"
            parts[path.stem] = part
    if not annotations:
        raise BadDataError(f"{root / folder} holds no {' and no '.join(f'{d}/<video>.txt' for d in PARTS)}")
    return annotations, parts


def video_of(recording: str, videos: Mapping[str, str]) -> str:
    """The name of the video that a recording is of: its own, or without ``_left`` or ``_right``."""
    return recording if recording in videos else _SIDE.sub("", recording)


def base_name(recording: str) -> str:
    """The recording's name without ``_left`` or ``_right``: the same for the two faces of one video."""
    return _SIDE.sub("", recording)


def crop_numbers(folder: Path) -> np.ndarray:
    """Numbers of the frames that have a face crop, int64, strictly ascending; other files do not count."""
    return np.array([number for number, _ in crop_files(folder)], np.int64)


def crop_files(folder: Path) -> Iterator[tuple[int, str]]:
    """Frame number and file name of each face crop, ascending; of two of one number the first by name."""
    names = sorted(name for name in os.listdir(folder) if _CROP_NAME.fullmatch(name))
    names.sort(key=lambda name: name.index("."))  # numbers may outgrow five digits
    last = 0
    for name in names:
        number = int(name[: name.index(".")])
        if number > last:
            yield number, name
            last = number


def read_annotation(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads one annotation file: a header, then ``valence,arousal`` of one frame a line.

    Returns:
      float32 [N, 2] in [-1, 1] and bool [N]; a row with -5 is not annotated: 0 and False.

    Raises:
      BadDataError: It is empty or damaged; names the line.
    """
    header, _, body = path.read_text(encoding="utf-8", errors="replace").partition("\n")
    if header.replace(" ", "").strip().lower() != _HEADER:
        raise BadDataError(f"{path}, line 1: {header[:40]!r}; expected the header {_HEADER}")
    body = body.rstrip()
    if not body:
        raise BadDataError(f"{path} holds no line but its header; expected one a frame")
    try:
        values = np.loadtxt(io.StringIO(body), np.float64, comments=None, delimiter=",", ndmin=2)
    except ValueError:
        values = np.zeros((0, 2))
    mask = np.all(values != NOT_ANNOTATED, axis=-1)
    if values.shape != (body.count("\n") + 1, 2) or not (np.abs(values[mask]) <= 1).all():
        raise BadDataError(_describe_damage(path, body.split("\n")))
    return np.where(mask[:, None], values, 0).astype(np.float32), mask


def _describe_damage(path: Path, lines: list[str]) -> str:
    for number, line in enumerate(lines, start=2):
        try:
            values = [float(cell) for cell in line.split(",")]
        except ValueError:
            values = []
        if len(values) != 2 or not all(value == NOT_ANNOTATED or -1 <= value <= 1 for value in values):
            return (
                f"{path}, line {number}: {line[:40]!r}; expected valence,arousal in [-1, 1], or -5 for none"
            )
    return f"{path} cannot be read; expected {_HEADER} and one line a frame"


def read_test_list(path: Path) -> list[str]:
    """Names of the test set's recordings, one a line, with or without an ending.

    Raises:
      BadDataError: It is missing, empty, or names one twice or a path.
    """
    if not path.is_file():
        raise BadDataError(f"there is no file {path}; expected the list of test videos, one name a line")
    names: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        name = re.sub(r"\.(?:txt|mp4|avi)$", "", line.strip())
        if not name:
            continue
        if name in names or "/" in name or "," in name:
            raise BadDataError(
                f"{path}, line {number}: {line.strip()[:60]!r}; expected each video's name once"
            )
        names.append(name)
    if not names:
        raise BadDataError(f"{path} is empty; expected the names of the test videos, one a line")
    return names
