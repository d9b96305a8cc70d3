"""Makes a prepared data set of the sources' files: chunks by stream, index, recordings and data card."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines import card as data_card
from data_pipelines import inputs, missing_samples, seal, storage
from data_pipelines.progress import Progress
from data_pipelines.recording import Cautious, LeftOut, Reader, Recording, Source, StreamSpec
from data_pipelines.source import (
    CARD_FILE,
    CHUNKS_FOLDER,
    SEALED_FILES,
    SOURCES_FOLDER,
    UNFINISHED_FILE,
    make_table,
    read_card,
    write_recordings,
    write_tables,
)
from data_pipelines.storage import Stopped, StoredSource

CARD_TEXT_FILE = "data_card.md"


def assemble(
    reader: Reader,
    out: Path,
    *,
    recordings: Sequence[Recording],
    sources: Sequence[Source],
    left_out: Sequence[LeftOut],
    stored: Mapping[tuple[str, str], StoredSource],
    fingerprints: Mapping[str, Any],
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    """Writes the chunks, then what describes them, then the card, with which the folder is finished.

    Args:
      reader: Which data set it is.
      out: The folder; it holds the sources' files.
      recordings: Those to be in.
      sources: All sources, in the order in which they are stored.
      left_out: What the card lists as left out.
      stored: What became of each source, by (stream, id).
      fingerprints: Of reader, settings and recordings.
      should_stop: Asked after each chunk.

    Returns:
      The data card.

    Raises:
      Stopped: `should_stop` said so; call it again.
    """
    shutil.rmtree(out / CHUNKS_FOLDER, ignore_errors=True)
    used = {key for recording in recordings for key in recording.sources.items()}
    streams, notes = {}, dict(reader.notes())
    for spec in reader.streams():
        order = [
            (source.id, stored[source.stream, source.id].chunks)
            for source in sources
            if source.stream == spec.name and (source.stream, source.id) in used
        ]
        if order:
            streams[spec.name] = _write_stream(out, spec, order, should_stop)
        else:
            notes[f"without_{spec.name}"] = f"no recording has the stream {spec.name}; it is left out"
    tables = {name: (result.spec, result.table) for name, result in streams.items()}
    write_tables(out, {name: table for name, (_, table) in tables.items()})
    write_recordings(out, recordings)
    total = inputs.write(out, stored.values())
    files = {path.relative_to(out).as_posix(): path.stat().st_size for path in _result_files(out)}
    parts = [
        LeftOut(f"{stream} {source}", sentence, damaged=True)
        for stream, source in sorted(used)
        for sentence in stored[stream, source].left_out
    ]
    told = list(reader.warnings()) if isinstance(reader, Cautious) else []
    warnings = [*told, *missing_samples.warnings(tables, recordings)]
    card = data_card.make_card(
        reader,
        recordings,
        [
            dataclasses.replace(entry, reason=storage.without_root(entry.reason, reader))
            for entry in (*left_out, *parts)
        ],
        streams,
        notes={topic: storage.without_root(text, reader) for topic, text in notes.items()},
        warnings=[storage.without_root(text, reader) for text in warnings],
        fingerprints=dict(fingerprints) | total,
        files=files,
        sha256=seal.make(out, SEALED_FILES),
    )
    text = data_card.to_markdown(card)
    storage.write_atomically(out / CARD_TEXT_FILE, lambda file: file.write(text.encode()))
    encoded = (json.dumps(card, indent=2, ensure_ascii=False) + "\n").encode()
    storage.write_atomically(out / CARD_FILE, lambda file: file.write(encoded))
    return read_card(out)


def _write_stream(
    out: Path, spec: StreamSpec, sources: list[tuple[str, int]], should_stop: Callable[[], bool]
) -> data_card.StreamResult:
    # Here, because it takes half a second and worker processes import this module.
    from data_pipelines.builder import VERSION, Chunks, StreamConfig, quiet

    folder = out / SOURCES_FOLDER
    tables = []
    for source, _ in sources:
        with storage.SourceFile(storage.source_path(folder, spec.name, source)) as file:
            tables.append(file.table())
    table = make_table([source for source, _ in sources], tables)
    with quiet(), Progress(len(table), f"writing {spec.name}", "chunks") as progress:

        def on_row(row: int) -> None:
            progress.advance()
            if should_stop():
                raise Stopped("stopped")

        builder = Chunks(config=StreamConfig(spec, folder, sources), data_dir=out)
        builder.download_and_prepare(on_row=on_row)
    files = [path for path in Path(builder.data_dir).iterdir() if path.is_file()]
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return data_card.StreamResult(spec, table, VERSION, sum(path.stat().st_size for path in files))


def _result_files(out: Path) -> list[Path]:
    """Everything that the card vouches for, in a stable order."""
    scaffolding = (SOURCES_FOLDER, UNFINISHED_FILE, inputs.SCAN_FILE, CARD_FILE, CARD_TEXT_FILE)
    tops = sorted(path for path in out.iterdir() if path.name not in scaffolding)
    return [path for top in tops for path in (top, *sorted(top.rglob("*"))) if path.is_file()]
