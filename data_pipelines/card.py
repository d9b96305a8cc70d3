"""The data card: what a prepared data set holds, what was left out and why, and what it was made from.

It is a function of the raw files, the settings and the software's versions: no date and no path of the
machine is in it.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines import missing_samples
from data_pipelines.recording import LeftOut, Reader, Recording, StreamSpec
from data_pipelines.source import CARD_FORMAT, ChunkTable

# A label with at most this many different whole numbers is counted by value.
_MAX_LABEL_VALUES = 20
_PACKAGES = ("jmt-jax", "numpy", "av", "opencv-python-headless", "array_record", "tensorflow-datasets")


@dataclasses.dataclass(frozen=True)
class StreamResult:
    """What was written of one stream.

    Attributes:
      spec: What the stream is.
      table: Its chunks.
      version: Version of the builder's configuration; the name of the folder.
      bytes: Size of its files.
    """

    spec: StreamSpec
    table: ChunkTable
    version: str
    bytes: int


def make_card(
    reader: Reader,
    recordings: Sequence[Recording],
    left_out: Sequence[LeftOut],
    streams: Mapping[str, StreamResult],
    *,
    notes: Mapping[str, str],
    warnings: Sequence[str],
    fingerprints: Mapping[str, Any],
    files: Mapping[str, int],
    sha256: Mapping[str, str],
) -> dict[str, Any]:
    """Makes the data card.

    Args:
      reader: Which data set it is.
      recordings: What is in.
      left_out: What is not.
      streams: What was written of each stream.
      notes: Sentences by topic.
      warnings: What whoever uses the data should look at, a sentence each.
      fingerprints: Of reader, settings and inputs.
      files: Size in bytes of each file written, by its path within the folder.
      sha256: Of each file that says which recordings and labels there are (`seal.make`).

    Returns:
      JSON values.
    """
    is_sample = reader.is_sample()
    return {
        "format": CARD_FORMAT,
        "dataset": reader.name,
        "sample": is_sample,
        "warning": sample_warning(reader.name) if is_sample else None,
        "counts": {
            "recordings": len(recordings),
            "subjects": len({recording.subject for recording in recordings}),
            "groups": dict(sorted(Counter(r.group for r in recordings if r.group).items())),
            "left_out": len(left_out),
            "damaged": sum(entry.damaged for entry in left_out),
        },
        "labels": _count_labels(recordings),
        "streams": {name: _describe_stream(result, recordings) for name, result in streams.items()},
        "notes": dict(notes),
        "warnings": list(warnings),
        "left_out": [dataclasses.asdict(entry) for entry in left_out],
        "fingerprints": dict(fingerprints),
        "versions": software_versions(),
        "files": dict(files),
        "sha256": dict(sha256),
    }


def sample_warning(dataset: str) -> str:
    """The sentence that every log and result of a run on the sample repeats."""
    return (
        f"made-up people in the layout of {dataset}: figures from this sample say nothing about the real "
        f"{dataset} data or about real people"
    )


def software_versions() -> dict[str, str]:
    """Versions of what decided the bytes."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _count_labels(recordings: Sequence[Recording]) -> dict[str, Any]:
    columns: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for recording in recordings:
        annotation = recording.annotation
        for number, name in enumerate(annotation.names):
            column = annotation.values[:, number], annotation.mask[:, number]
            columns.setdefault(name, []).append(column)
    return {name: _count_label(columns[name]) for name in columns}


def _count_label(column: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    values = np.concatenate([values for values, _ in column])
    mask = np.concatenate([mask for _, mask in column])
    real = values[mask].astype(np.float64)
    counts: dict[str, Any] = {"annotated": len(real), "not_annotated": len(values) - len(real)}
    different, times = np.unique(real, return_counts=True)
    if len(different) <= _MAX_LABEL_VALUES and (different == np.round(different)).all():
        return counts | {"values": {f"{v:.0f}": int(n) for v, n in zip(different, times, strict=True)}}
    return counts | {"minimum": real.min(), "mean": float(real.mean()), "maximum": real.max()}


def _describe_stream(result: StreamResult, recordings: Sequence[Recording]) -> dict[str, Any]:
    fields = dataclasses.asdict(result.spec)
    name = fields.pop("name")
    table = result.table
    counted = "samples" if result.spec.kind == "samples" else result.spec.kind
    return fields | {
        "channels": list(result.spec.channels),
        "units": list(result.spec.units),
        "version": result.version,
        "recordings": sum(name in recording.sources for recording in recordings),
        "sources": len(table.source_ids),
        "chunks": len(table),
        counted: int(table.length.sum(dtype=np.int64)),
        "missing_share": missing_samples.shares(result.spec, table),
        "hours": round(_duration_seconds(table) / 3600, 4),
        "bytes": result.bytes,
    }


def _duration_seconds(table: ChunkTable) -> float:
    """How long all sources are together; a frame lasts as long as its source's frames do on average."""
    sampled = table.rate_hz > 0
    seconds = float((table.length[sampled] / table.rate_hz[sampled]).sum())
    if sampled.all():
        return seconds
    for source in table.source_ids:
        rows = table.rows_of(source)
        times = table.times_seconds[table.offsets[rows[0]] : table.offsets[rows[-1] + 1]]
        if len(times) > 1:
            seconds += float((times[-1] - times[0]) * len(times) / (len(times) - 1))
    return seconds


def to_markdown(card: Mapping[str, Any]) -> str:
    """The card for people."""
    counts = card["counts"]
    lines = [f"# Data card: {card['dataset']}" + (" (sample)" if card["sample"] else ""), ""]
    if card["warning"]:
        lines += [f"**Warning:** {card['warning']}.", ""]
    if card["warnings"]:
        lines += ["**Look at these first:**", "", *(f"- {text}" for text in card["warnings"]), ""]
    lines += [f"{counts['recordings']} recordings of {counts['subjects']} subjects."]
    for group, number in counts["groups"].items():
        lines += [f"{number} of them are in the official part '{group}'."]
    lines += ["", "## Streams", ""]
    columns = ("stream", "recordings", "sources", "chunks", "entries", "rate (Hz)", "hours", "MB")
    lines += _row(columns) + _row("---" for _ in columns)
    for name, stream in card["streams"].items():
        entries = f"{stream[stream['kind']]} {stream['kind']}"
        rate = "as stamped" if stream["rate_hz"] is None else f"{stream['rate_hz']:g}"
        facts = (stream["recordings"], stream["sources"], stream["chunks"], entries, rate)
        lines += _row((name, *facts, f"{stream['hours']:g}", f"{stream['bytes'] / 1e6:.1f}"))
    lines += [""]
    for name, stream in card["streams"].items():
        channels = ", ".join(
            f"{channel} ({unit})" for channel, unit in zip(stream["channels"], stream["units"], strict=True)
        )
        size = f", {stream['height']}x{stream['width']} pixels" if stream["height"] else ""
        missing = [f"{share:.2%} of {channel}" for channel, share in stream["missing_share"].items()]
        missing = f"; missing: {', '.join(missing)}" if missing else ""
        lines += [f"- {name}: {channels}; {stream['dtype'] if not size else 'JPEG'}{size}{missing}"]
    lines += ["", "## Labels", ""]
    for name, label in card["labels"].items():
        if "values" in label:
            facts = ", ".join(f"{number} x {value}" for value, number in label["values"].items())
        else:
            facts = f"{label['minimum']:g} to {label['maximum']:g}, mean {label['mean']:.4g}"
        missing = f"; {label['not_annotated']} not annotated" if label["not_annotated"] else ""
        lines += [f"- {name}: {facts}{missing}"]
    lines += ["", "## Notes", ""] + [f"- {topic}: {text}" for topic, text in card["notes"].items()]
    lines += ["", f"## Left out ({counts['left_out']}, of which {counts['damaged']} damaged)", ""]
    lines += [
        f"- {entry['id']}{' (damaged)' if entry['damaged'] else ''}: {entry['reason']}"
        for entry in card["left_out"]
    ]
    lines += ["", "## Made from", ""]
    lines += [f"- {name}: {value}" for name, value in card["fingerprints"].items()]
    lines += [f"- {name} {version}" for name, version in card["versions"].items()]
    return "\n".join(lines) + "\n"


def _row(cells: Any) -> list[str]:
    return ["| " + " | ".join(str(cell) for cell in cells) + " |"]
