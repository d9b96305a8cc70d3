"""What makes prepared data the same data, and whose files they were made from."""

from __future__ import annotations

import collections
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.errors import UsageError
from data_pipelines.inputs import INPUTS_FILE
from data_pipelines.reader_options import settled
from data_pipelines.recording import Recording

# 64 bits: of a million files two are alike by chance once in 37 million times.
_HASH_LETTERS = 16


def files_of_subjects(folder: Path, recordings: Sequence[Recording]) -> dict[str, list[str]] | None:
    """Content of the raw files behind each subject's recordings.

    Args:
      folder: The prepared data set.
      recordings: Its recordings.

    Returns:
      Subject to the beginnings of the files' SHA-256, sorted, each once. Files that several subjects share
      tell nobody apart and are left out, as are empty and missing ones. None where the data were prepared by
      an older version, which did not keep which file belongs to whom.
    """
    hashes: dict[tuple[str, str], set[str]] = {}
    with (folder / INPUTS_FILE).open(encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            if "sources" not in line:
                return None
            for stream, source in line["sources"] if line["size"] > 0 else ():
                hashes.setdefault((stream, source), set()).add(line["sha256"][:_HASH_LETTERS])
    found: dict[str, set[str]] = {}
    for recording in recordings:
        own = found.setdefault(recording.subject, set())
        for key in recording.sources.items():
            own |= hashes.get(key, set())
    owners = collections.Counter(sha for own in found.values() for sha in own)
    return {who: sorted(sha for sha in own if owners[sha] == 1) for who, own in found.items()}


def owners(files: Mapping[str, Sequence[str]], subjects: Collection[str]) -> dict[str, str]:
    """Hash to the subject that it is of, of some subjects in what `files_of_subjects` found."""
    return {sha: who for who in subjects for sha in files.get(who, ())}


def owner_of(hashes: Iterable[str], known: Mapping[str, str]) -> str | None:
    """Whose file is among the hashes, by `owners`; None where nobody's is."""
    return next((known[sha] for sha in hashes if sha in known), None)


def check_reader(folder: Path, card: Mapping[str, Any], name: str, options: Mapping[str, Any]) -> None:
    """Checks that a prepared folder was made by the reader, and with the options, that are asked for.

    Args:
      folder: The prepared data set.
      card: Its data card.
      name: The reader's name.
      options: Options of the reader. Those that the card does not know are newer than it; "" and None leave
        the choice to the reader; a folder may have more streams than are named.

    Raises:
      UsageError: It was not; every option that differs is named.
    """
    if card["dataset"] != name:
        raise UsageError(
            f"{folder} holds prepared {card['dataset']} data, and data.name={name!r} was asked for; give "
            f"the --config of {card['dataset']}, or another --config.data.dir"
        )
    options = settled(name, options)
    settings = card["fingerprints"]["settings"]
    told = [
        f"data.reader.{option}={value!r}, there {settings[option]!r}"
        for option, value in options.items()
        if option in settings and not _is_same(value, settings[option], card["streams"])
    ]
    if told:
        raise UsageError(
            f"{folder} was prepared with other options: {'; '.join(told)}. Give the options that it was "
            "prepared with, or prepare again with these into another folder"
        )


def _is_same(given: Any, kept: Any, streams: Collection[str]) -> bool:
    plain = json.loads(json.dumps(given, default=list))
    if plain in (None, "", kept):
        return True
    if isinstance(plain, str) and isinstance(kept, str):
        # Of a file, the settings keep the name: no path of the machine is in the card.
        return Path(plain).name == kept
    return isinstance(plain, list) and bool(plain) and set(map(str, plain)) <= set(streams)
