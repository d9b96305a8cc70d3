"""Reads wristband exports (Empatica E4) with labels by second, as the Stress-Predict data set publishes them.

A session is a folder, or the device's zip file, with ``BVP.csv``, ``EDA.csv``, ``TEMP.csv`` and ``ACC.csv``.
In each, line 1 is the start as a UNIX time (UTC), line 2 the rate in Hz, and every further line one sample
(three numbers for ACC, which repeats start and rate for each axis). A table labels seconds: participant, UNIX
time, label.

Sessions lie as deep as they lie below the root, or below its ``Raw_data``, with the table beside them or in
``Processed_data/`` (Stress-Predict, Iqbal et al. 2022, Sensors 22(21):8135). A participant of the table is
found by the name, or the only number, of a folder on the way to a session.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.readers import e4_clocks, e4_people
from data_pipelines.readers.e4_files import Extent, measure, read_header, read_samples
from data_pipelines.readers.e4_labels import Track, has_columns, label_numbers, read_labels, read_subjects
from data_pipelines.readers.e4_places import FILES, Place, Session, find_sessions, session_in_zip
from data_pipelines.recording import (
    MAX_CHUNK_SECONDS,
    Annotation,
    Chunk,
    LeftOut,
    Recording,
    Source,
    StreamSpec,
)

_SPECS = {
    "pulse": StreamSpec("pulse", "samples", ("bvp",), ("device units",), rate_hz=64.0),
    "skin_conductance": StreamSpec("skin_conductance", "samples", ("gsr",), ("microsiemens",), rate_hz=4.0),
    "temperature": StreamSpec("temperature", "samples", ("skin_temperature",), ("celsius",), rate_hz=4.0),
    "acceleration": StreamSpec("acceleration", "samples", ("x", "y", "z"), ("g/64",) * 3, rate_hz=32.0),
}
_COLUMNS = {"participant_column": "Participant", "time_column": "Time(sec)", "label_column": "Label"}
_NAMED_FILES = 4


@dataclasses.dataclass
class _Release:
    """What a raw folder holds."""

    recordings: list[Recording]
    sources: list[Source]
    left_out: list[LeftOut]
    warnings: list[str]
    owners: Mapping[str, e4_people.Owner]


@dataclasses.dataclass(frozen=True)
class E4:
    """The reader of wristband exports; see the module for the layout.

    One recording a session. Time zero is the start of the session's earliest stream, and every stream keeps
    its own offset and length. Values are stored as they are: never interpolated, never rescaled.

    Attributes:
      root: The raw folder.
      labels: Path of the label table relative to `root`; "" to take the only table with the right columns.
      participant_column, time_column, label_column: Columns of the label table. Times are UNIX seconds, or
        clock times with their zone (ISO 8601). "" is Stress-Predict's: Participant, Time(sec), Label.
      label_name: What the label is called in the annotation.
      label_values: What words in the label column stand for, e.g. ``rest=0,stress=1``.
      label_offset_seconds: Added to the times of the label table, e.g. 7200 where its clock is two hours
        late.
      subjects: Who is one person: ``named``, the folder that the label table names; ``above``, the folder
        above that one; or a table ``session,subject`` (path relative to `root`; a session is its folder). ""
        is ``named``, unless folders hold several named ones: then it has to be said.
      streams_used: Streams to read, of ``pulse``, ``skin_conductance``, ``temperature``, ``acceleration``.
      electrode_off_microsiemens: Skin conductance up to this is no measurement but an open circuit, and
        stored as missing (NaN). Lifted electrodes read exactly 0 for up to a second and then creep along 0.01
        to 0.03, below the driest skin in Stress-Predict (0.04). A negative number keeps everything.
    """

    root: str
    labels: str = ""
    participant_column: str = _COLUMNS["participant_column"]
    time_column: str = _COLUMNS["time_column"]
    label_column: str = _COLUMNS["label_column"]
    label_name: str = "stress"
    label_values: str = ""
    label_offset_seconds: float = 0.0
    subjects: str = ""
    streams_used: tuple[str, ...] = tuple(FILES)
    electrode_off_microsiemens: float = 0.03

    name: ClassVar[str] = "e4"
    version: ClassVar[str] = "2"

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", str(self.root))
        object.__setattr__(self, "streams_used", tuple(self.streams_used))
        for option, column in _COLUMNS.items():
            object.__setattr__(self, option, getattr(self, option) or column)
        for stream in self.streams_used:
            if stream not in FILES:
                raise UsageError(f"a wristband has no stream {stream!r}; it has {', '.join(FILES)}")
        if not self.streams_used:
            raise UsageError(f"streams_used is empty; name some of {', '.join(FILES)}")
        label_numbers(self.label_values)

    def settings(self) -> Mapping[str, object]:
        """Every option that changes the result."""
        settings = dataclasses.asdict(self)
        del settings["root"]
        return settings | {"streams_used": list(self.streams_used)}

    def notes(self) -> Mapping[str, str]:
        """What was done to the values, with counts; reads the skin conductance files."""
        release = self._read()
        notes = {
            "clock": "time zero is the start of a session's earliest stream; a label marks a second's start",
            "values": "as exported, not interpolated; acceleration in 1/64 g, pulse in the device's own unit",
            "subjects": e4_people.describe(release.owners, self.subjects, self._has_subjects_table),
        }
        if "skin_conductance" in self.streams_used:
            notes["electrode_off"] = self._electrode_off_note(release.sources)
        return notes

    def warnings(self) -> Sequence[str]:
        """What whoever uses the data should look at, a sentence each."""
        return tuple(self._read().warnings)

    def is_sample(self) -> bool:
        """True if this software made the raw folder."""
        return os.path.isfile(os.path.join(self.root, "SAMPLE.json"))

    def streams(self) -> tuple[StreamSpec, ...]:
        """The streams, in the order of `streams_used`."""
        return tuple(_SPECS[stream] for stream in self.streams_used)

    def scan(self) -> tuple[list[Recording], list[Source], list[LeftOut]]:
        """Finds the sessions, their streams, their people and their labels.

        Returns:
          Recordings and sources in the order of the folders' names, and what was left out: sessions that the
          table does not label, labels without a session, sessions whose clocks do not fit together.

        Raises:
          BadDataError: The folder is missing, holds no exports, or a table is missing or unreadable.
          UsageError: The folders do not tell who is one person, and `subjects` does not either.
        """
        release = self._read()
        return release.recordings, release.sources, release.left_out

    def decode(self, source: Source) -> Iterator[Chunk]:
        """Reads one file, 10 s at a time.

        Raises:
          BadDataError: The file is empty, lacks its two header lines, has another rate than the device, or a
            sample is not a number.
        """
        spec = _SPECS[source.stream]
        places = self._places(source)
        place = places[source.stream]
        start = read_header(place, spec.rate_hz, len(spec.channels))
        offset = start - _first_start(places)
        count = int(MAX_CHUNK_SECONDS * spec.rate_hz)
        index = -1
        for index, block in enumerate(read_samples(place, len(spec.channels), count)):
            if source.stream == "skin_conductance":
                block[block <= self.electrode_off_microsiemens] = np.nan
            moment = np.asarray([offset + index * count / spec.rate_hz])
            yield Chunk(source.stream, source.id, index, moment, rate_hz=spec.rate_hz, values=block)
        if index < 0:
            raise BadDataError(f"{place} has a header but no samples; export it again or remove the file")

    def _read(self) -> _Release:
        sessions = find_sessions(Path(self.root))
        table = self._label_table()
        subjects = read_subjects(Path(self.root) / self.subjects) if self._has_subjects_table else {}
        rule = "" if subjects else self.subjects
        owners = e4_people.find_owners(sessions, tuple(table), rule, subjects)
        release = _Release([], [], [], [], owners)
        sessions_of: dict[str, list[Session]] = collections.defaultdict(list)
        for session in sessions:
            if session.id in owners:
                sessions_of[owners[session.id].participant].append(session)
            elif session.problem:
                release.left_out.append(LeftOut(session.id, session.problem, damaged=True))
            else:
                reason = "the label table has no line of this person"
                release.left_out.append(LeftOut(session.id, reason, damaged=False))
        for participant, own in sessions_of.items():
            self._add_participant(participant, own, table[participant], release)
        for participant in table:
            if participant not in sessions_of:
                reason = f"the label table has this participant, but {self._what_is_there(participant)}"
                release.left_out.append(LeftOut(f"participant {participant}", reason, damaged=False))
        order = {session.id: index for index, session in enumerate(sessions)}
        release.recordings.sort(key=lambda recording: order[recording.id])
        release.sources.sort(key=lambda source: order[source.id])
        if not release.recordings:
            reasons = "; ".join(f"{item.id}: {item.reason}" for item in release.left_out[:3])
            raise BadDataError(
                f"nothing in {self.root} can be used ({reasons}); mend that, or give another table as the "
                "option `labels`"
            )
        if not subjects:
            kept = [owners[recording.id].subject for recording in release.recordings]
            release.warnings.extend(
                f"{' and '.join(names)} look like sessions of one person and are taken for {len(names)} "
                "people; if they are one, name a table session,subject as the option subjects"
                for names in e4_people.look_alike(kept)
            )
        return release

    def _add_participant(
        self, participant: str, sessions: Sequence[Session], track: Track, release: _Release
    ) -> None:
        """Adds a participant's recordings, or why there are none, to what was found."""
        extents = {session.id: _extents(session.places) for session in sessions}
        copies = _copies(extents)
        usable: list[tuple[Session, list[Source]]] = []
        for session in sessions:
            own = self._sources(session)
            damaged = True
            problem = session.problem or e4_clocks.spread_problem(extents[session.id])
            if not problem and not own:
                problem = f"has none of {', '.join(FILES[stream] for stream in self.streams_used)}"
            if not problem and session.id in copies:
                problem, damaged = f"it is a copy of {copies[session.id]} (same starts, same lengths)", False
            if problem:
                release.left_out.append(LeftOut(session.id, problem, damaged=damaged))
            else:
                usable.append((session, own))
        spans = {s.id: span for s, _ in usable if (span := e4_clocks.span_of(extents[s.id])) is not None}
        when, added = list(spans.values()), self.label_offset_seconds
        clocks = e4_clocks.label_problem(track[0], when, added) if when else ""
        if not clocks and when and (text := e4_clocks.labels_outside(track[0], when)):
            release.warnings.append(f"participant {participant}: {text}")
        for session, own in usable:
            span = spans.get(session.id)
            inside = span.holds(track[0]) if span else np.ones(len(track[0]), bool)
            if clocks or not inside.any():
                reason = clocks or f"no label of participant {participant} lies in its time"
                release.left_out.append(LeftOut(session.id, reason, damaged=bool(clocks)))
                continue
            if text := e4_clocks.short_streams(extents[session.id]):
                release.warnings.append(f"{session.id}: {text}")
            release.sources.extend(own)
            start = span.begin if span else 0.0
            owner = release.owners[session.id]
            release.recordings.append(self._recording(session, own, owner, start, track, inside))

    def _sources(self, session: Session) -> list[Source]:
        # The other files are named too: their headers decide where time zero is.
        return [
            Source(stream, session.id, tuple(dict.fromkeys((session.paths[stream], *session.paths.values()))))
            for stream in self.streams_used
            if stream in session.paths
        ]

    def _recording(
        self,
        session: Session,
        sources: Sequence[Source],
        owner: e4_people.Owner,
        start: float,
        track: Track,
        inside: np.ndarray,
    ) -> Recording:
        times, values = (array[inside] for array in track)
        mask = np.isfinite(values)
        annotation = Annotation(
            names=(self.label_name,),
            times_seconds=times - start,
            values=np.where(mask, values, 0.0).astype(np.float32)[:, None],
            mask=mask[:, None],
        )
        attributes = {"start_unix_seconds": start, "labelled_seconds": int(mask.sum())}
        by_stream = {source.stream: source.id for source in sources}
        return Recording(session.id, owner.subject, by_stream, annotation, attributes)

    def _places(self, source: Source) -> Mapping[str, Place]:
        """The files of a source's session by stream."""
        if source.files[0].lower().endswith(".zip"):
            return session_in_zip(Path(self.root), source.files[0], source.id).places
        streams = {file.lower(): stream for stream, file in FILES.items()}
        return {
            streams[file.rsplit("/", 1)[-1].lower()]: Place(os.path.join(self.root, file))
            for file in source.files
        }

    @property
    def _has_subjects_table(self) -> bool:
        return self.subjects not in ("", e4_people.NAMED, e4_people.ABOVE)

    def _label_table(self) -> dict[str, Track]:
        """Times (float64, UNIX, ascending) and labels (float64, NaN = not annotated) of each participant."""
        columns = (self.participant_column, self.time_column, self.label_column)
        values = label_numbers(self.label_values)
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
            return read_labels(path, columns, values, self.label_offset_seconds, name=self.label_name)
        folders = (root, root / "Processed_data")
        tables = [path for folder in folders for path in sorted(folder.glob("*.csv"))]
        found = [path for path in tables if has_columns(path, columns)]
        if len(found) != 1:
            names = f" ({', '.join(path.name for path in found)})" if found else ""
            raise BadDataError(
                f"{root} and its Processed_data hold {len(found) or 'no'} tables{names} with the columns "
                f"{', '.join(columns)}; expected exactly one, so give its path as the option `labels`, and "
                "other names of columns as participant_column, time_column and label_column"
            )
        return read_labels(found[0], columns, values, self.label_offset_seconds, name=self.label_name)

    def _what_is_there(self, participant: str) -> str:
        """Why a participant has no session, in words: no folder, or what its folder holds."""
        number = e4_people.only_number(participant)
        for folder, folders, files in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            name = os.path.basename(folder)
            is_own = name.lower() == participant.lower() or (
                number is not None and e4_people.only_number(name) == number
            )
            if is_own and folder != self.root:
                held = sorted((*folders, *files))
                listed = ", ".join(held[:_NAMED_FILES]) + (" ..." if len(held) > _NAMED_FILES else "")
                return f"its folder {name} holds none of {', '.join(FILES.values())}: {listed or 'nothing'}"
        return "there is no folder with a recording"

    def _electrode_off_note(self, sources: Sequence[Source]) -> str:
        counts: dict[str, int] = {}
        total = 0
        for source in sources:
            if source.stream != "skin_conductance":
                continue
            try:
                values = np.concatenate([chunk.values for chunk in self.decode(source)])
            except BadDataError:
                continue  # The preparation lists it as damaged.
            counts[source.id] = int(np.isnan(values).sum())
            total += len(values)
        most = sorted(filter(counts.get, counts), key=lambda person: -counts[person])[:3]
        return (
            f"skin conductance of at most {self.electrode_off_microsiemens:g} microsiemens "
            "(electrode_off_microsiemens) is an open circuit and stored as missing: "
            f"{sum(counts.values())} of {total} samples, most of them in "
            f"{', '.join(f'{person} ({counts[person]})' for person in most) or 'none'} "
            "(the first sample of a session is always 0)"
        )


def _extents(places: Mapping[str, Place]) -> dict[str, Extent]:
    """When each stream was recorded; those whose header cannot be read are reported when they are decoded."""
    found = {s: measure(place, _SPECS[s].rate_hz, len(_SPECS[s].channels)) for s, place in places.items()}
    return {stream: extent for stream, extent in found.items() if extent is not None}


def _first_start(places: Mapping[str, Place]) -> float:
    """When a session's earliest stream starts, of those whose header can be read; UNIX seconds."""
    starts = []
    for stream, place in places.items():
        with contextlib.suppress(BadDataError):
            starts.append(read_header(place, _SPECS[stream].rate_hz, len(_SPECS[stream].channels)))
    return min(starts)


def _copies(extents: Mapping[str, Mapping[str, Extent]]) -> dict[str, str]:
    """Sessions of one person that start and last alike in every stream, to the first of them."""
    first: dict[tuple[object, ...], str] = {}
    copies = {}
    for session, streams in extents.items():
        key = tuple(sorted((name, extent.start, extent.samples) for name, extent in streams.items()))
        if key and first.setdefault(key, session) != session:
            copies[session] = first[key]
    return copies
