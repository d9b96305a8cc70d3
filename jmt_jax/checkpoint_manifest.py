"""What a checkpoint's files have to be, to the byte: ``manifest.json`` in its folder, SHA-256 of every file.

Array files carry no check of their own that is always looked at: one flipped byte can restore as other
numbers without a word. A checkpoint counts as good only while every byte of it is what was written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from etils import epath

NAME = "manifest.json"
# Orbax writes these two after everything else, when it commits; nothing of the state is in them.
_COMMIT = frozenset({"_CHECKPOINT_METADATA", "commit_success.txt"})
_BLOCK_BYTES = 1 << 20


def write(folder: epath.Path) -> None:
    """Writes the manifest of a folder whose files are all there."""
    files = {name: _measure(path) for name, path in _files(folder)}
    (folder / NAME).write_text(json.dumps({"files": files}, indent=1, sort_keys=True) + "\n")


def problem(folder: epath.Path) -> str:
    """What is wrong with a checkpoint's files; "" if every byte is what was written."""
    try:
        listed = json.loads((folder / NAME).read_text())["files"]
        expected = {str(name): (int(of["bytes"]), str(of["sha256"])) for name, of in listed.items()}
        found = dict(_files(folder))
        if missing := sorted(expected.keys() - found.keys()):
            return f"{missing[0]} is missing"
        if unknown := sorted(found.keys() - expected.keys()):
            return f"{unknown[0]} is not in its {NAME}"
        for name, (size, digest) in expected.items():
            measured = _measure(found[name])
            if measured["bytes"] != size:
                return f"{name} has {measured['bytes']} bytes instead of {size}"
            if measured["sha256"] != digest:
                return f"{name} has other bytes than were written (SHA-256)"
    except FileNotFoundError as error:
        return f"it has no {NAME}" if str(error.filename or "").endswith(NAME) else f"it went away: {error}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it cannot be read: {type(error).__name__}: {error}"
    return ""


def _files(folder: epath.Path, prefix: str = "") -> Iterator[tuple[str, epath.Path]]:
    """All files that a manifest lists, by their path in the folder."""
    for path in sorted(folder.iterdir()):
        name = prefix + path.name
        if path.is_dir():
            yield from _files(path, name + "/")
        elif name != NAME and name not in _COMMIT:
            yield name, path


def _measure(path: epath.Path) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            size += len(block)
    return {"bytes": size, "sha256": digest.hexdigest()}
