"""Whether what describes a prepared data set is still what the preparation wrote: SHA-256 of small files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from data_pipelines.errors import BadDataError
from data_pipelines.raw_files import hash_file


def make(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of these files of the folder, as hexadecimal digits, by name."""
    return {name: hash_file(folder / name) for name in names}


def check(folder: Path, names: Iterable[str], expected: Mapping[str, str]) -> None:
    """Compares files with what `make` found when they were written.

    Args:
      folder: Where they are.
      names: Those that have to be as they were.
      expected: From `make`.

    Raises:
      BadDataError: One differs; the sentence names it.
      FileNotFoundError: One is missing.
      KeyError: Nothing is known of one.
    """
    for name in names:
        if hash_file(folder / name) != expected[name]:
            raise BadDataError(
                f"the prepared data in {folder} are not those that were prepared: {name} differs from what "
                "was written; delete the folder and prepare again"
            )
