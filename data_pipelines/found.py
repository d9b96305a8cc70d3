"""What a reader finds in a raw folder before anything is decoded, checked once for every reader."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from data_pipelines.errors import BadDataError
from data_pipelines.recording import LeftOut, Reader, Recording, Source

_NAMED_ENTRIES = 5


@dataclasses.dataclass(frozen=True)
class Found:
    """What `Reader.scan` gives; sources and recordings fit together."""

    recordings: list[Recording]
    sources: list[Source]
    left_out: list[LeftOut]


def find(reader: Reader) -> Found:
    """Asks a reader for everything that there is.

    Raises:
      BadDataError: The raw folder cannot be read, holds no recording, or a file's name is no text.
      ValueError: The reader breaks its contract.
    """
    try:
        recordings, sources, left_out = reader.scan()
    except OSError as error:
        raise BadDataError(
            f"{error.filename or reader.root} cannot be read ({error.strerror}); make it readable, or give "
            "another raw folder"
        ) from error
    keys = {(source.stream, source.id) for source in sources}
    if len(keys) != len(sources) or len({r.id for r in recordings}) != len(recordings):
        raise ValueError(f"reader {reader.name!r} names two recordings or two sources of a stream alike")
    lacking = [r.id for r in recordings if not r.sources or not set(r.sources.items()) <= keys]
    if lacking:
        raise ValueError(f"reader {reader.name!r} gives no source for a stream of recording {lacking[0]!r}")
    left_out = [
        dataclasses.replace(entry, id=_as_text(entry.id), reason=_as_text(entry.reason)) for entry in left_out
    ]
    if not recordings:
        reasons = "; ".join(f"{entry.id}: {entry.reason}" for entry in left_out[:_NAMED_ENTRIES])
        raise BadDataError(f"{reader.root} holds no recording that can be used ({reasons or 'it is empty'})")
    _check_names(file for source in sources for file in source.files)
    _check_names(name for recording in recordings for name in (recording.id, recording.subject))
    return Found(recordings, sources, left_out)


def _check_names(names: Iterable[str]) -> None:
    """Names go into tables, which are UTF-8; bytes of another encoding cannot be written there."""
    for name in names:
        if _as_text(name) != name:
            raise BadDataError(
                f"the file name {_as_text(name)} is not UTF-8: it was written in another encoding; rename "
                "the file, or all of them with convmv"
            )


def _as_text(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
