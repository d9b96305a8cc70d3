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
from data_pipelines.media.video_file import VIDEO_SUFFIXES
from data_pipelines.raw_files import no_folder

EDITIONS = ("VA_Set", "VA_Estimation_Challenge")
"""Folders of the annotations, by edition of the challenge."""
PARTS: Mapping[str, str] = {"Train_Set": "train", "Validation_Set": "validation"}
"""Folders in them, and the official partition that each one is."""
CROPS_FOLDER = "cropped_aligned"
"""Folder of the face crops; so, or beginning so, is its name in any edition."""
NOT_ANNOTATED = -5.0

_PARTS_IN_SMALL = {name.lower(): part for name, part in PARTS.items()}
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
      duplicates: Video files that were not taken, and for each the one of the same name that was.
      test_lists: Files that look like the list of the test videos.
    """

    annotations: Mapping[str, str]
    parts: Mapping[str, str]
    crops: Mapping[str, str]
    videos: Mapping[str, str]
    duplicates: Mapping[str, str]
    test_lists: tuple[str, ...]


def find_layout(root: Path, edition: str = "") -> Layout:
    """Looks through the folder for the parts of the release, by their names in capitals or small letters.

    Symbolic links are followed, each folder is looked at once.

    Args:
      root: The raw folder.
      edition: Which of `EDITIONS`; "" for the only one there is.

    Raises:
      BadDataError: The folder is missing, or holds no annotations or no crops, or two editions.
    """
    if not root.is_dir():
        raise BadDataError(f"{no_folder(root)}; expected a release of Affwild2")
    editions: dict[str, str] = {}
    crops: dict[str, str] = {}
    videos: dict[str, str] = {}
    duplicates: dict[str, str] = {}
    test_lists: list[str] = []
    for folder, folders, files in _walk(root):
        name = folder.rpartition("/")[2].lower()
        if name.startswith(CROPS_FOLDER):
            for recording in folders:
                if not recording.lower().startswith(CROPS_FOLDER):
                    crops.setdefault(recording, _join(folder, recording))
            continue
        edition_name = next((known for known in EDITIONS if known.lower() == name), None)
        if edition_name and any(inner.lower() in _PARTS_IN_SMALL for inner in folders):
            editions.setdefault(edition_name, folder)
            continue
        for file in files:
            stem, suffix = os.path.splitext(file)
            path = _join(folder, file)
            if suffix.lower() in VIDEO_SUFFIXES:
                taken = videos.setdefault(stem, path)
                if taken != path and not (root / taken).samefile(root / path):
                    duplicates[path] = taken
            elif suffix.lower() == ".txt" and "test_set" in file.lower():
                test_lists.append(path)
    annotations, parts = _find_annotations(root, _choose(root, editions, edition))
    if not crops and not videos:
        raise BadDataError(
            f"{root} holds no {CROPS_FOLDER}/<video>/00001.jpg and no videos: copy the release's face crops "
            "and videos beside the annotations"
        )
    return Layout(annotations, parts, crops, videos, duplicates, tuple(test_lists))


def _walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Folders from the root down to a depth of `_DEPTH`, sorted: path, names of folders, names of files.

    Does not go into a recording's crops: there are millions. Hidden files and folders do not count.
    """
    waiting = [("", 0)]
    seen: set[tuple[int, int]] = set()
    while waiting:
        folder, depth = waiting.pop(0)
        try:
            status = os.stat(root / folder)
            with os.scandir(root / folder) as entries:
                shown = (entry for entry in entries if not entry.name.startswith("."))
                found = sorted(shown, key=lambda entry: entry.name)
        except OSError as error:
            raise BadDataError(
                f"the folder {root / folder} cannot be read ({error.strerror}); make it readable, or give "
                "another one"
            ) from None
        # A link may lead to where we come from.
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        folders = [entry.name for entry in found if entry.is_dir()]
        yield folder, folders, [entry.name for entry in found if entry.is_file()]
        if depth < _DEPTH:
            is_crops = folder.rpartition("/")[2].lower().startswith(CROPS_FOLDER)
            inner = [name for name in folders if not is_crops or name.lower().startswith(CROPS_FOLDER)]
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
    directories = {name.lower(): name for name in sorted(os.listdir(root / folder))}
    for known, part in _PARTS_IN_SMALL.items():
        directory = directories.get(known, "")
        place = root / folder / directory
        for path in sorted(place.iterdir()) if directory and place.is_dir() else ():
            if path.suffix.lower() != ".txt" or path.name.startswith("."):
                continue
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
    """The name of the video that a recording is of: its own, or without ``_left`` or ``_right``.

    A name in other letters, capital or small, is taken where there is just one.
    """
    own, base = recording, base_name(recording)
    for name in (own, base):
        if name in videos:
            return name
    for name in (own, base):
        alike = [video for video in videos if video.casefold() == name.casefold()]
        if len(alike) == 1:
            return alike[0]
    return base


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
        name, suffix = os.path.splitext(line.strip())
        if suffix.lower() not in (".txt", *VIDEO_SUFFIXES):
            name = line.strip()
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
