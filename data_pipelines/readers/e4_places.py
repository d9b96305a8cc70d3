"""Where the sessions of a wristband release lie: in folders as deep as they are, and in zip files.

A session is one wearing of the band: a folder, or a zip file as the vendor exports it, with ``BVP.csv``,
``EDA.csv``, ``TEMP.csv`` or ``ACC.csv``, in letters of any case.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from data_pipelines.errors import BadDataError
from data_pipelines.raw_files import no_folder

FILES: Mapping[str, str] = {
    "pulse": "BVP.csv",
    "skin_conductance": "EDA.csv",
    "temperature": "TEMP.csv",
    "acceleration": "ACC.csv",
}
"""Name of a stream to that of its file."""

_STREAM_OF = {file.lower(): stream for stream, file in FILES.items()}
_DEPTH = 8
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclasses.dataclass(frozen=True)
class Place:
    """A file, maybe one in a zip file.

    Attributes:
      path: Of the file or the zip file, as it can be opened.
      member: Name within the zip file; "" where the file lies in a folder.
    """

    path: str
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.member}" if self.member else self.path

    @contextlib.contextmanager
    def open(self) -> Iterator[io.BufferedIOBase]:
        """Opens it for reading bytes.

        Raises:
          BadDataError: The zip file is damaged or wants a password.
        """
        if not self.member:
            with open(self.path, "rb") as file:
                yield file
            return
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as inner:
                yield io.BufferedReader(inner)
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
            raise BadDataError(f"{self} cannot be unpacked ({error}); export the session again") from error

    def lines(self) -> Iterator[str]:
        """Its lines of text, UTF-8 or, with a mark at the start, UTF-16.

        Raises:
          BadDataError: It is no text, or cannot be unpacked.
        """
        with self.open() as file:
            is_wide = file.peek(2)[:2] in _UTF_16_MARKS
            try:
                yield from io.TextIOWrapper(file, encoding="utf-16" if is_wide else "utf-8-sig")
            except UnicodeError as error:
                reason = getattr(error, "reason", error)
                raise BadDataError(
                    f"{self} is not a text file ({reason}); expected a CSV file, so export it again"
                ) from error


@dataclasses.dataclass(frozen=True)
class Session:
    """One wearing of the band.

    Attributes:
      parts: Names of the folders down to the session, from the raw folder (or its ``Raw_data``); a zip file
        counts as a folder.
      places: Stream name to file, in the order of `FILES`.
      paths: Stream name to the path that can be opened, relative to the raw folder: of the file or the zip.
      problem: Why it cannot be used; "" if it can.
    """

    parts: tuple[str, ...]
    places: Mapping[str, Place]
    paths: Mapping[str, str]
    problem: str = ""

    @property
    def id(self) -> str:
        """Its folder below the raw folder, with forward slashes."""
        return "/".join(self.parts)

    @property
    def is_zip(self) -> bool:
        """True if it lies in a zip file."""
        return any(place.member for place in self.places.values())


def find_sessions(root: Path) -> list[Session]:
    """All sessions of a release, in the order of their folders' names; zip files come after folders.

    Raises:
      BadDataError: The raw folder is missing, is a file, or holds no session.
    """
    if not root.is_dir():
        raise BadDataError(f"{no_folder(root)}; expected the folder that holds the people's folders")
    parent = people_folder(root)
    sessions: list[Session] = []
    for parts, files in _walk(parent):
        above = PurePosixPath(parent.relative_to(root).as_posix(), *parts)
        if found := _streams(files):
            sessions.append(_folder_session(root, above, parts, found))
        for name in files:
            if name.lower().endswith(".zip"):
                sessions.extend(_zip_sessions(root, (above / name).as_posix(), parts))
    if any(not session.parts for session in sessions):
        raise BadDataError(
            f"{parent} is one session itself (it holds {', '.join(sessions[0].paths.values())}); expected "
            "a folder for each person: put it into one, and give the folder above"
        )
    if not sessions:
        raise BadDataError(
            f"{parent} holds no wristband export: expected a folder for each person with "
            f"{', '.join(FILES.values())}, or the device's zip files"
        )
    return sorted(sessions, key=lambda session: (session.is_zip, session.parts))


def people_folder(root: Path) -> Path:
    """``Raw_data`` of the raw folder, in letters of any case, or else the raw folder itself."""
    return next((p for p in sorted(root.iterdir()) if p.name.lower() == "raw_data" and p.is_dir()), root)


def session_in_zip(root: Path, path: str, session_id: str) -> Session:
    """The session of this name in a zip file.

    Raises:
      BadDataError: It is not there any more, or the file cannot be unpacked.
    """
    above = (root / path).parent.relative_to(people_folder(root)).parts
    for session in _zip_sessions(root, path, above):
        if session.id == session_id and not session.problem:
            return session
    raise BadDataError(f"{root / path} holds no session that can be read; export it again")


def _walk(parent: Path) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Folders and their files by name, links followed, each folder once, hidden ones left out."""
    waiting: list[tuple[str, ...]] = [()]
    seen: set[tuple[int, int]] = set()
    while waiting:
        parts = waiting.pop()
        folder = parent.joinpath(*parts)
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            found = sorted((e for e in entries if not _is_hidden(e.name)), key=lambda entry: entry.name)
        yield parts, [entry.name for entry in found if entry.is_file()]
        if len(parts) < _DEPTH:
            waiting.extend((*parts, entry.name) for entry in reversed(found) if entry.is_dir())


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _streams(files: Iterable[str]) -> dict[str, list[str]]:
    """Stream to the names of its files, of which there should be one."""
    found: dict[str, list[str]] = {}
    for name in files:
        if stream := _STREAM_OF.get(name.lower()):
            found.setdefault(stream, []).append(name)
    return {stream: found[stream] for stream in FILES if stream in found}


def _twice(found: Mapping[str, list[str]]) -> str:
    for names in found.values():
        if len(names) > 1:
            return f"holds {' and '.join(names)}; keep one of them"
    return ""


def _folder_session(
    root: Path, above: PurePosixPath, parts: tuple[str, ...], found: Mapping[str, list[str]]
) -> Session:
    paths = {stream: (above / names[0]).as_posix() for stream, names in found.items()}
    places = {stream: Place(os.path.join(root, path)) for stream, path in paths.items()}
    return Session(parts, places, paths, _twice(found))


def _zip_sessions(root: Path, path: str, above: tuple[str, ...]) -> list[Session]:
    """The sessions of a zip file; one with a problem where it cannot be opened, none in a zip of others."""
    full, stem = os.path.join(root, path), PurePosixPath(path).stem
    try:
        with zipfile.ZipFile(full) as archive:
            members = [name for name in archive.namelist() if not any(map(_is_hidden, name.split("/")))]
    except zipfile.BadZipFile as error:
        problem = f"{full} cannot be unpacked ({error}); export the session again"
        return [Session((*above, stem), {}, {}, problem)]
    folders: dict[str, list[str]] = {}
    for member in members:
        folder, _, name = member.rpartition("/")
        folders.setdefault(folder, []).append(name)
    sessions = []
    for folder, names in sorted(folders.items()):
        if not (found := _streams(names)):
            continue
        inner = tuple(part for part in folder.split("/") if part)
        inner = inner[1:] if inner[:1] == (stem,) else inner
        places = {s: Place(full, f"{folder}/{found[s][0]}".lstrip("/")) for s in found}
        sessions.append(Session((*above, stem, *inner), places, dict.fromkeys(found, path), _twice(found)))
    return sessions
