"""Reads wristband exports (Empatica E4) with labels by second, as the Stress-Predict data set publishes them.

A person is a folder with ``BVP.csv``, ``EDA.csv``, ``TEMP.csv`` and ``ACC.csv``. In each, line 1 is the start
as a UNIX time (UTC), line 2 the rate in Hz, and every further line one sample (three numbers for ACC, which
repeats start and rate for each axis). A table labels seconds: participant, UNIX time, label.

Two layouts are known: ``Raw_data/<person>/`` with the table in ``Processed_data/`` (Stress-Predict, Iqbal et
al. 2022, Sensors 22(21):8135), and person folders directly under the root with the table beside them.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.readers.e4_files import has_columns, read_header, read_labels, read_samples
from data_pipelines.recording import (
    MAX_CHUNK_SECONDS,
    Annotation,
    Chunk,
    LeftOut,
    Recording,
    Source,
    StreamSpec,
)

_FILES = {
    "pulse": "BVP.csv",
    "skin_conductance": "EDA.csv",
    "temperature": "TEMP.csv",
    "acceleration": "ACC.csv",
}
_SPECS = {
    "pulse": StreamSpec("pulse", "samples", ("bvp",), ("device units",), rate_hz=64.0),
    "skin_conductance": StreamSpec("skin_conductance", "samples", ("gsr",), ("microsiemens",), rate_hz=4.0),
    "temperature": StreamSpec("temperature", "samples", ("skin_temperature",), ("celsius",), rate_hz=4.0),
    "acceleration": StreamSpec("acceleration", "samples", ("x", "y", "z"), ("g/64",) * 3, rate_hz=32.0),
}
# A session is one wearing of the band: its streams start within seconds, and its battery lasts two days.
_MAX_START_SPREAD_SECONDS = 3600.0
_MAX_SESSION_SECONDS = 48 * 3600.0


@dataclasses.dataclass(frozen=True)
class E4:
    """The reader of wristband exports; see the module for the layout.

    One recording a person. Time zero is the start of the person's earliest stream, and every stream keeps its
    own offset and length. Values are stored as they are: never interpolated, never rescaled.

    Attributes:
      root: The raw folder.
      labels: Path of the label table relative to `root`; "" to take the only table with the right columns.
      participant_column, time_column, label_column: Columns of the label table. Times are UNIX seconds.
      label_name: What the label is called in the annotation.
      streams_used: Streams to read, of ``pulse``, ``skin_conductance``, ``temperature``, ``acceleration``.
      electrode_off_microsiemens: Skin conductance up to this is no measurement but an open circuit, and
        stored as missing (NaN). Lifted electrodes read exactly 0 for up to a second and then creep along 0.01
        to 0.03, below the driest skin in Stress-Predict (0.04). A negative number keeps everything.
    """

    root: str
    labels: str = ""
    participant_column: str = "Participant"
    time_column: str = "Time(sec)"
    label_column: str = "Label"
    label_name: str = "stress"
    streams_used: tuple[str, ...] = tuple(_FILES)
    electrode_off_microsiemens: float = 0.03

    name: ClassVar[str] = "e4"
    version: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", str(self.root))
        object.__setattr__(self, "streams_used", tuple(self.streams_used))
        for stream in self.streams_used:
            if stream not in _FILES:
                raise UsageError(f"a wristband has no stream {stream!r}; it has {', '.join(_FILES)}")
        if not self.streams_used:
            raise UsageError(f"streams_used is empty; name some of {', '.join(_FILES)}")

    def settings(self) -> Mapping[str, object]:
        """Every option that changes the result."""
        settings = dataclasses.asdict(self)
        del settings["root"]
        return settings | {"streams_used": list(self.streams_used)}

    def notes(self) -> Mapping[str, str]:
        """What was done to the values, with counts; reads the skin conductance files."""
        notes = {
            "clock": "time zero is the start of a person's earliest stream; a label marks a second's start",
            "values": "as exported, not interpolated; acceleration in 1/64 g, pulse in the device's own unit",
        }
        if "skin_conductance" in self.streams_used:
            notes["electrode_off"] = self._electrode_off_note()
        return notes

    def is_sample(self) -> bool:
        """True if this software made the raw folder."""
        return os.path.isfile(os.path.join(self.root, "SAMPLE.json"))

    def streams(self) -> tuple[StreamSpec, ...]:
        """The streams, in the order of `streams_used`."""
        return tuple(_SPECS[stream] for stream in self.streams_used)

    def scan(self) -> tuple[list[Recording], list[Source], list[LeftOut]]:
        """Finds the persons, their streams and their labels.

        Returns:
          Recordings and sources in the order of the folders' names, and what was left out: persons whom the
          table does not label, labels of persons without a folder, persons whose clocks do not fit together.

        Raises:
          BadDataError: The folder is missing, holds no exports, or its label table is missing or unreadable.
        """
        persons = self._persons()
        table = self._label_table()
        labels_of = _match(tuple(persons), tuple(table))
        recordings: list[Recording] = []
        sources: list[Source] = []
        left_out: list[LeftOut] = []
        for person, folder in persons.items():
            if person not in labels_of:
                left_out.append(LeftOut(person, "the label table has no line of this person", damaged=False))
                continue
            own, problem = self._sources(person, folder)
            start = _start_seconds(self.root, own[0].files) if own else None
            if not problem and start is not None:
                problem = _clock_problem(start, table[labels_of[person]][0])
            if problem:
                left_out.append(LeftOut(person, problem, damaged=True))
                continue
            sources.extend(own)
            recordings.append(self._recording(person, own, start or 0.0, *table[labels_of[person]]))
        known = set(labels_of.values())
        for participant in table:
            if participant not in known:
                reason = "the label table has this participant, but there is no folder with a recording"
                left_out.append(LeftOut(f"participant {participant}", reason, damaged=False))
        if not recordings:
            reasons = "; ".join(f"{item.id}: {item.reason}" for item in left_out[:3])
            raise BadDataError(
                f"nothing in {self.root} can be used ({reasons}); give the right table as the option `labels`"
            )
        return recordings, sources, left_out

    def decode(self, source: Source) -> Iterator[Chunk]:
        """Reads one file, 10 s at a time.

        Raises:
          BadDataError: The file is empty, lacks its two header lines, has another rate than the device, or a
            sample is not a number.
        """
        spec = _SPECS[source.stream]
        path = os.path.join(self.root, source.files[0])
        start, _ = read_header(path, spec.rate_hz)
        zero = _start_seconds(self.root, source.files)
        offset = start - (start if zero is None else zero)
        count = int(MAX_CHUNK_SECONDS * spec.rate_hz)
        index = -1
        for index, block in enumerate(read_samples(path, len(spec.channels), count)):
            if source.stream == "skin_conductance":
                block[block <= self.electrode_off_microsiemens] = np.nan
            moment = np.asarray([offset + index * count / spec.rate_hz])
            yield Chunk(source.stream, source.id, index, moment, rate_hz=spec.rate_hz, values=block)
        if index < 0:
            raise BadDataError(f"{path} has a header but no samples; export it again or remove the file")

    def _persons(self) -> dict[str, Path]:
        """Folder of each person, relative to the root, by name."""
        root = Path(self.root)
        if not root.is_dir():
            raise BadDataError(
                f"there is no folder {root}; expected the folder that holds Raw_data or the persons' folders"
            )
        parent = root / "Raw_data" if (root / "Raw_data").is_dir() else root
        persons = {
            folder.name: folder.relative_to(root)
            for folder in sorted(parent.iterdir())
            if folder.is_dir() and any((folder / file).is_file() for file in _FILES.values())
        }
        if not persons:
            raise BadDataError(
                f"{parent} holds no wristband export: expected a folder for each person with "
                f"{', '.join(_FILES.values())}"
            )
        return persons

    def _sources(self, person: str, folder: Path) -> tuple[list[Source], str]:
        """The person's sources and, if they cannot be used, why not."""
        root = Path(self.root)
        files = {s: (folder / f).as_posix() for s, f in _FILES.items() if (root / folder / f).is_file()}
        # The other files are named too: their headers decide where time zero is.
        own = [
            Source(stream, person, (files[stream], *(f for s, f in files.items() if s != stream)))
            for stream in self.streams_used
            if stream in files
        ]
        if not own:
            return [], f"has none of {', '.join(_FILES[stream] for stream in self.streams_used)}"
        starts = _starts(self.root, own[0].files)
        spread = max(starts) - min(starts) if starts else 0.0
        if spread > _MAX_START_SPREAD_SECONDS:
            return own, f"its streams start {spread:.0f} s apart, so they are not of one session"
        return own, ""

    def _recording(
        self, person: str, sources: list[Source], start: float, times: np.ndarray, values: np.ndarray
    ) -> Recording:
        mask = np.isfinite(values)
        annotation = Annotation(
            names=(self.label_name,),
            times_seconds=times - start,
            values=np.where(mask, values, 0.0).astype(np.float32)[:, None],
            mask=mask[:, None],
        )
        attributes = {"start_unix_seconds": start, "labelled_seconds": int(mask.sum())}
        by_stream = {source.stream: source.id for source in sources}
        return Recording(person, person, by_stream, annotation, attributes)

    def _label_table(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Times (float64, UNIX, ascending) and labels (float64, NaN = not annotated) of each participant."""
        columns = (self.participant_column, self.time_column, self.label_column)
        root = Path(self.root)
        if self.labels:
            path = root / self.labels
            if not path.is_file():
                raise BadDataError(f"there is no label table {path}; `labels` is a path relative to {root}")
            if not has_columns(path, columns):
                raise BadDataError(
                    f"{path} lacks one of the columns {', '.join(columns)}; name its own by the options "
                    "participant_column, time_column and label_column"
                )
            return read_labels(path, columns)
        folders = (root, root / "Processed_data")
        tables = [path for folder in folders for path in sorted(folder.glob("*.csv"))]
        found = [path for path in tables if has_columns(path, columns)]
        if len(found) != 1:
            names = f" ({', '.join(path.name for path in found)})" if found else ""
            raise BadDataError(
                f"{root} and its Processed_data hold {len(found) or 'no'} tables{names} with the columns "
                f"{', '.join(columns)}; expected exactly one, so give its path as the option `labels`"
            )
        return read_labels(found[0], columns)

    def _electrode_off_note(self) -> str:
        counts: dict[str, int] = {}
        total = 0
        for source in self.scan()[1]:
            if source.stream != "skin_conductance":
                continue
            try:
                values = np.concatenate([chunk.values for chunk in self.decode(source)])
            except BadDataError:
                continue  # The preparation lists it as damaged.
            counts[source.id] = int(np.isnan(values).sum())
            total += len(values)
        most = sorted(counts, key=lambda person: -counts[person])[:3]
        return (
            f"skin conductance of at most {self.electrode_off_microsiemens:g} microsiemens is an open "
            f"circuit and stored as missing: {sum(counts.values())} of {total} samples, most of them in "
            f"{', '.join(f'{person} ({counts[person]})' for person in most) or 'none'} "
            "(the first sample of a session is always 0)"
        )


def _starts(root: str, files: tuple[str, ...]) -> list[float]:
    """Start of each file whose header can be read; the others are reported when they are decoded."""
    starts = []
    for file in files:
        stream = next(stream for stream, name in _FILES.items() if name == file.rsplit("/", 1)[-1])
        try:
            starts.append(read_header(os.path.join(root, file), _SPECS[stream].rate_hz)[0])
        except BadDataError:
            continue
    return starts


def _start_seconds(root: str, files: tuple[str, ...]) -> float | None:
    """UNIX time at which the earliest of these files starts; None if no header can be read."""
    return min(_starts(root, files), default=None)


def _match(persons: tuple[str, ...], participants: tuple[str, ...]) -> dict[str, str]:
    """Participant of the table for each person's folder: the same name, else the same number (S02 and 2)."""
    matched = {person: person for person in persons if person in participants}
    for participant in participants:
        if participant in matched.values() or (number := _only_number(participant)) is None:
            continue
        same = [person for person in persons if person not in matched and _only_number(person) == number]
        if len(same) > 1:
            raise BadDataError(
                f"participant {participant} may be {' or '.join(same)}; use the folders' names in the table"
            )
        if same:
            matched[same[0]] = participant
    return matched


def _only_number(name: str) -> int | None:
    """The only whole number in a name, None if there is none or more than one."""
    number = re.fullmatch(r"\D*?(\d+)(?:\.0*)?\D*", name)
    return int(number[1]) if number else None


def _clock_problem(start: float, times: np.ndarray) -> str:
    """Why labels at these times cannot belong to a session that starts then; "" if they can."""
    if times[-1] < start:
        seconds = start - times[-1]
        return f"its labels end {seconds:.0f} s before the recording starts: they are not on one clock"
    if times[0] > start + _MAX_SESSION_SECONDS:
        hours = (times[0] - start) / 3600
        return f"its labels begin {hours:.0f} hours after the recording starts: they are not on one clock"
    return ""
