"""Files that appear whole or not at all, whenever the program is killed."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from data_pipelines.errors import BadDataError


@contextlib.contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` (its folder is made) that takes its place when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.filename is None:  # a full disk is told without saying where
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, UTF-8, that appears whole."""
    with appearing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_object(path: Path | epath.Path, advice: str) -> dict[str, Any]:
    """Reads a JSON file that holds an object, as a run writes them.

    Args:
      path: Of the file.
      advice: Ends the sentence about a file that is damaged: what to do.

    Raises:
      BadDataError: It is not there, cannot be decoded, or holds something else.
    """
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BadDataError(f"there is no {path}; {advice}") from None
    except (ValueError, RecursionError) as error:  # half a file, or bytes that are no text
        raise BadDataError(f"{path} is damaged ({error}); {advice}") from error
    if not isinstance(found, dict):
        raise BadDataError(f"{path} holds {type(found).__name__}, expected a JSON object; {advice}")
    return found
