"""Keeps samples in a cache: each is made once, whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipelines.errors import UsageError
from data_pipelines.progress import Progress
from data_pipelines.sample import affwild2, biovid, e4
from data_pipelines.sample.note import NOTE_NAME, write_note

_WRITERS: dict[str, tuple[Callable[..., None], str]] = {
    "affwild2": (affwild2.write_affwild2, affwild2.WRITER_VERSION),
    "biovid": (biovid.write_biovid, biovid.WRITER_VERSION),
    "e4": (e4.write_e4, "1"),
}


def sample_dir(cache_dir: Path, name: str, spec: Any) -> Path:
    """The raw folder of a sample; makes it the first time.

    It is written beside its place and renamed when whole, so a killed run leaves no half sample, and two
    processes at once both end with the same folder.

    Args:
      cache_dir: Where samples are kept; made if need be.
      name: ``affwild2``, ``biovid`` or ``e4``.
      spec: What to make: that sample's dataclass.

    Returns:
      A folder in the release's layout, with ``SAMPLE.json`` at its root.

    Raises:
      UsageError: There is no such sample, or the cache cannot be written.
    """
    if name not in _WRITERS:
        raise UsageError(f"there is no sample {name!r}; there are {', '.join(_WRITERS)}")
    writer, version = _WRITERS[name]
    facts = json.dumps([name, version, dataclasses.asdict(spec)], sort_keys=True)
    place = Path(cache_dir) / f"{name}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"
    if (place / NOTE_NAME).is_file():
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{place.name}.", suffix=".partial", dir=place.parent))
    except OSError as error:
        raise UsageError(
            f"the sample cannot be kept in {cache_dir} ({error.strerror}); set JMT_CACHE_DIR to another"
        ) from None
    try:
        print(f"making the sample {name} (once) in {place}", file=sys.stderr, flush=True)
        with Progress(spec.subjects, "sample", "people") as progress:
            writer(folder, spec, lambda done, total: progress.advance())
        write_note(folder, name, spec)
        # mkdtemp shuts others out; a cache may be shared.
        folder.chmod(0o777 & ~_umask())
        _move(folder, place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return place


def _move(folder: Path, place: Path) -> None:
    try:
        os.replace(folder, place)
    except OSError:
        # Somebody else made the same sample meanwhile; a folder that is not empty cannot be replaced.
        if not (place / NOTE_NAME).is_file():
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
