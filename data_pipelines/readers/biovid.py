"""Reads the BioVid Heat Pain Database, Part A, as its release lies on disk.

Layout (reference facts, section C2)::

    PartA/
      starting_point/samples.csv       TAB: subject_id subject_name class_id class_name sample_id sample_name
      video/<subject_name>/<sample_name>.mp4
      biosignals_filtered/<subject_name>/<sample_name>_bio.csv
      biosignals_raw/<subject_name>/<sample_name>_bio.csv

A clip lasts 5.5 s: about 138 frames at 25 Hz, 2816 or 2817 rows of signals at 512 Hz.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np

from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.media import signals, video
from data_pipelines.raw_files import no_folder
from data_pipelines.readers.biovid_samples import CLASS_NAMES, Clip, read_samples
from data_pipelines.recording import Annotation, Chunk, LeftOut, Recording, Source, StreamSpec

RATE_HZ = 512.0
ROWS = 2816
FRAME_RATE_HZ = 25.0

_UNITS = {
    "gsr": "microsiemens",
    "ecg": "millivolt",
    "emg_trapezius": "microvolt",
    "emg_corrugator": "microvolt",
    "emg_zygomaticus": "microvolt",
}
_ANNOTATION_NAME = "pain_class"
_STREAM_OF = {"video": "visual", "biosignals_filtered": "physio", "biosignals_raw": "physio"}

_NON_REACTIVE = """
082315_w_60 082414_m_64 082909_m_47 083009_w_42 083013_w_47 083109_m_60 083114_w_55 091914_m_46 092009_m_54
092014_m_56 092509_w_51 092714_m_64 100514_w_51 100914_m_39 101114_w_37 101209_w_61 101809_m_59 101916_m_40
111313_m_64 120614_w_61"""
NON_REACTIVE = frozenset(_NON_REACTIVE.split())
"""Subjects without a visible reaction; the 67-subject set leaves them out (reference facts, C3)."""

_HOLD_OUT = """
100914_m_39 101114_w_37 082315_w_60 083114_w_55 083109_m_60 072514_m_27 080309_m_29 112016_m_25 112310_m_20
092813_w_24 112809_w_23 112909_w_20 071313_m_41 101309_m_48 101609_m_36 091809_w_43 102214_w_36 102316_w_50
112009_w_43 101814_m_58 101908_m_61 102309_m_61 112209_m_51 112610_w_60 112914_w_51 120514_w_56"""
HOLD_OUT = frozenset(_HOLD_OUT.split())
"""The validation subjects of the hold-out proposal (reference facts, C3)."""


@dataclasses.dataclass(frozen=True)
class BioVid:
    """The reader of BioVid, Part A; see the module for the layout.

    Streams: ``visual`` (frames) and ``physio`` (samples at 512 Hz). One recording a clip, labelled as a whole
    with ``pain_class``, 0 (BL1, no stimulus) to 4 (PA4, the strongest).

    Attributes:
      root: The raw folder ``PartA``, or its parent.
      biosignals: ``filtered`` or ``raw``: which of the release's two folders of signals.
      channels: Signals by name, of ``gsr ecg emg_trapezius emg_corrugator emg_zygomaticus``; None for all
        that this copy has (some releases lack the facial EMG).
      size: Height and width of the stored face crops in pixels.
      crop: ``given``, ``centre`` or ``auto``; see `data_pipelines.media.video.resolve_crop`.
      classes: Class ids to read; None for all five.
      video: False to read the signals alone, e.g. from a copy without the videos.
    """

    root: str
    biosignals: str = "filtered"
    channels: tuple[str, ...] | None = None
    size: int = 112
    crop: str = "auto"
    classes: tuple[int, ...] | None = None
    video: bool = True

    name: ClassVar[str] = "biovid"
    version: ClassVar[str] = "2"

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", str(self.root))
        if self.biosignals not in ("filtered", "raw"):
            raise UsageError(f"biosignals is {self.biosignals!r}; expected 'filtered' or 'raw'")
        if self.crop not in video.CROP_MODES:
            raise UsageError(f"crop is {self.crop!r}; expected one of {', '.join(video.CROP_MODES)}")
        if self.size < 8:
            raise UsageError(f"size is {self.size}; expected the crops' height in pixels, at least 8")
        if self.channels is not None:
            object.__setattr__(self, "channels", tuple(self.channels))
            wrong = [channel for channel in self.channels if channel not in _UNITS]
            if wrong or not self.channels or len(set(self.channels)) != len(self.channels):
                raise UsageError(
                    f"channels is {', '.join(self.channels) or 'empty'}; "
                    f"expected different ones of {', '.join(_UNITS)}"
                )
        if self.classes is not None:
            object.__setattr__(self, "classes", tuple(sorted({int(number) for number in self.classes})))
            if not self.classes or not set(self.classes) <= set(range(len(CLASS_NAMES))):
                raise UsageError(f"classes is {self.classes}; expected class ids of 0 (BL1) to 4 (PA4)")

    def settings(self) -> Mapping[str, object]:
        """Every option that changes the result; ``channels`` as found in this copy."""
        return {
            "biosignals": self.biosignals,
            "channels": list(self._channels),
            "size": self.size,
            "crop": self.crop,
            "classes": None if self.classes is None else list(self.classes),
            "video": self.video,
        }

    def notes(self) -> Mapping[str, str]:
        """Sentences for the data card."""
        notes = {
            "signals": f"biosignals_{self.biosignals}, columns {', '.join(self._channels)}: {RATE_HZ:g} Hz, "
            "length and scale as in the release",
            "units": "the release's tables name no units; these are the usual ones of such signals",
            "clock": "the clip starts at the first frame, and at time 0 of a table of signals (at its "
            "first row, where that is later than a clip lasts); rows missing by the time column are masked",
        }
        if self.video:
            notes["face_crop"] = self._crop_note()
        return notes

    def is_sample(self) -> bool:
        """True if this software made the raw folder."""
        root = Path(self.root)
        return any((folder / "SAMPLE.json").is_file() for folder in (root, root / "PartA"))

    def streams(self) -> tuple[StreamSpec, ...]:
        """``visual`` (unless left out) and ``physio``.

        Raises:
          BadDataError: The folder is not of this layout, or lacks a channel that was asked for.
        """
        physio = StreamSpec(
            "physio",
            "samples",
            channels=self._channels,
            units=tuple(_UNITS[channel] for channel in self._channels),
            rate_hz=RATE_HZ,
        )
        if not self.video:
            return (physio,)
        visual = StreamSpec(
            "visual",
            "frames",
            channels=("red", "green", "blue"),
            units=("0 to 255",) * 3,
            rate_hz=FRAME_RATE_HZ,
            height=self.size,
            width=self.size,
            dtype="uint8",
        )
        return visual, physio

    def scan(self) -> tuple[list[Recording], list[Source], list[LeftOut]]:
        """Finds the clips that samples.csv names; see `data_pipelines.recording.Reader.scan`.

        Returns:
          Recordings and sources in the order of samples.csv, and what was left out: subjects without folders
          (once each, not damaged) and clips that lack a file in an existing folder (damaged).
        """
        self._folder()
        self.streams()
        recordings: list[Recording] = []
        sources: list[Source] = []
        left_out: list[LeftOut] = []
        listings = self._listings()
        prefix = self._prefix()
        absent: set[str] = set()
        for clip in self._clips():
            if self.classes is not None and clip.class_id not in self.classes:
                continue
            lacking = [name for name, listing in listings.items() if clip.subject not in listing]
            if lacking:
                if clip.subject not in absent:
                    absent.add(clip.subject)
                    reason = f"in samples.csv, but there is no {lacking[0]}/{clip.subject} in this copy"
                    left_out.append(LeftOut(clip.subject, reason, damaged=False))
                continue
            files = {name: f"{clip.name}{_ending(name)}" for name in listings}
            missing = [n for n, file in files.items() if file not in listings[n][clip.subject]]
            if missing:
                path = f"{missing[0]}/{clip.subject}/{files[missing[0]]}"
                reason = f"{path} is missing; copy it from the release"
                left_out.append(LeftOut(clip.name, reason, damaged=True))
                continue
            for name, file in files.items():
                path = f"{prefix}{name}/{clip.subject}/{file}"
                sources.append(Source(_STREAM_OF[name], clip.name, (path,)))
            recordings.append(_recording(clip, tuple(_STREAM_OF[name] for name in files)))
        if not recordings:
            raise BadDataError(
                f"{self._folder()} has the files of none of the clips that its samples.csv names; expected "
                f"{' and '.join(f'{n}/<subject>/<sample>{_ending(n)}' for n in listings)}"
            )
        return recordings, sources, left_out

    def decode(self, source: Source) -> Iterator[Chunk]:
        """Decodes one clip's video or signals; see `data_pipelines.recording.Reader.decode`."""
        path = Path(self.root) / source.files[0]
        if source.stream == "visual":
            yield from video.read_chunks(
                path, stream=source.stream, source=source.id, size=self.size, crop=self.crop
            )
            return
        # A third of a clip missing is damage; a few rows more or less are not.
        table = signals.read_columns(path, ("time", *self._channels), minimum_rows=-(-2 * ROWS // 3))
        times_seconds = table[:, 0] * 1e-6
        signals.check_times(path, times_seconds, rate_hz=RATE_HZ)
        rows = signals.place_rows(times_seconds, rate_hz=RATE_HZ) + _missing_at_start(times_seconds)
        missing = int(rows[-1]) + 1 - len(rows)
        yield from signals.signal_chunks(
            signals.fill_gaps(table[:, 1:], rows),
            stream=source.stream,
            source=source.id,
            rate_hz=RATE_HZ,
            left_out=(f"{missing} rows are missing by the time column and are masked",) if missing else (),
        )

    @property
    def _signal_folder(self) -> str:
        return f"biosignals_{self.biosignals}"

    def _prefix(self) -> str:
        """What stands before a path of the layout, relative to the root: "" or "PartA/"."""
        relative = PurePosixPath(self._folder().relative_to(self.root).as_posix())
        return "" if relative == PurePosixPath(".") else f"{relative}/"

    def _folder(self) -> Path:
        """The folder that holds the layout: the root, or PartA in it.

        Raises:
          BadDataError: Something of the layout is missing.
        """
        root = Path(self.root)
        if not root.is_dir():
            raise BadDataError(f"{no_folder(root)}; expected BioVid's PartA")
        needed = ["starting_point/samples.csv", self._signal_folder] + (["video"] if self.video else [])
        folder = root / "PartA" if (root / "PartA" / needed[0]).is_file() else root
        missing = [path for path in needed if not (folder / path).exists()]
        if missing:
            hint = "give the release's PartA, or the folder that holds it"
            if missing == [self._signal_folder]:
                other = "raw" if self.biosignals == "filtered" else "filtered"
                if (folder / f"biosignals_{other}").is_dir():
                    hint = f"it has biosignals_{other}: read that with biosignals={other}"
            elif missing == ["video"]:
                hint = "copy the videos, or read the signals alone with video=False"
            raise BadDataError(f"no {' and no '.join(missing)} in {folder}: no BioVid folder; {hint}")
        return folder

    @functools.cached_property
    def _channels(self) -> tuple[str, ...]:
        """The channels that are read: those asked for, or those of most of the first tables."""
        headers = collections.Counter(
            tuple(name for name in signals.read_column_names(path) if name in _UNITS)
            for path in self._first(self._signal_folder)
        )
        if not headers:
            raise BadDataError(
                f"no {self._signal_folder}/<subject>/<sample>_bio.csv in {self._folder()}; copy the signals"
            )
        found = headers.most_common(1)[0][0]
        wanted = self.channels if self.channels is not None else found
        missing = [channel for channel in wanted if channel not in found]
        if missing or not wanted:
            raise BadDataError(
                f"the tables in {self._folder() / self._signal_folder} have no column "
                f"{' and no '.join(missing) or 'of signals'}; they have {', '.join(found) or 'none'}: "
                "choose of these with channels"
            )
        return wanted

    def _first(self, folder: str) -> list[Path]:
        """The first few files of a folder of the layout, in the order of samples.csv; empty ones left out."""
        paths = (
            self._folder() / folder / clip.subject / f"{clip.name}{_ending(folder)}" for clip in self._clips()
        )
        return list(itertools.islice((path for path in paths if path.is_file() and path.stat().st_size), 5))

    def _crop_note(self) -> str:
        for path in self._first("video"):
            try:
                header = video.read_header(path)
            except BadDataError:
                continue  # Decoding will say so; the note needs any clip that can be opened.
            shown = round(header.width * header.pixel_aspect)
            if video.resolve_crop(self.crop, shown, header.height) == "given":
                what = "the whole picture, taken as a face crop as it is"
            else:
                what = "a centre crop, not a detected face: the largest square in the middle of the picture"
            return f"{what}, stored as {self.size}x{self.size} (first clip: {shown}x{header.height})"
        return "none of the first videos can be opened"

    def _listings(self) -> dict[str, dict[str, set[str]]]:
        """File names by folder of the layout and subject."""
        folders = (["video"] if self.video else []) + [self._signal_folder]
        listings: dict[str, dict[str, set[str]]] = {}
        for name in folders:
            with os.scandir(self._folder() / name) as entries:
                subjects = sorted(entry.name for entry in entries if entry.is_dir())
            listings[name] = {s: set(os.listdir(self._folder() / name / s)) for s in subjects}
        return listings

    def _clips(self) -> list[Clip]:
        return read_samples(self._folder() / "starting_point" / "samples.csv")


def _missing_at_start(times_seconds: np.ndarray) -> int:
    """How many rows a table lacks before its first one; none where its clock is not the clip's own."""
    first = round(float(times_seconds[0]) * RATE_HZ)
    return first if 0 < first < ROWS else 0


def _ending(folder: str) -> str:
    return ".mp4" if folder == "video" else "_bio.csv"


def _recording(clip: Clip, streams: tuple[str, ...]) -> Recording:
    return Recording(
        id=clip.name,
        subject=clip.subject,
        sources=dict.fromkeys(streams, clip.name),
        annotation=Annotation(
            names=(_ANNOTATION_NAME,),
            times_seconds=None,
            values=np.array([[clip.class_id]], np.float32),
            mask=np.ones((1, 1), bool),
        ),
        attributes={"age": clip.age, "sex": clip.sex, "class_name": CLASS_NAMES[clip.class_id]},
    )
