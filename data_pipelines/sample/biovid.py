"""Lays synthetic people out as a release of BioVid, Part A: H.264 videos and TAB tables at 512 Hz.

The evidence of the label is split between the streams, clip by clip: a stimulus may show in face and body, in
the face alone or in the body alone. Whoever sees one stream alone cannot know those that show in the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.errors import UsageError
from data_pipelines.media.video_writing import write_video
from data_pipelines.readers.biovid import FRAME_RATE_HZ, RATE_HZ, ROWS
from data_pipelines.readers.biovid_samples import CLASS_NAMES, COLUMNS
from data_pipelines.sample import body
from data_pipelines.sample.face import face_clip
from data_pipelines.sample.note import write_note
from data_pipelines.sample.parallel import write_parts
from data_pipelines.sample.people import Event, Person, generator, make_person

WRITER_VERSION = "1"
"""Goes up when the same spec would give other files."""

_INTENSITIES = (0.0, 0.3, 0.5, 0.75, 1.0)
_SHOWN_IN = ("both", "face", "body")
_FOLDERS = ("video", "biosignals_filtered", "biosignals_raw")
_SIGNAL_COLUMNS = ("gsr", "ecg", "emg_trapezius", "emg_corrugator", "emg_zygomaticus")
# How strongly each muscle answers, and what the unfiltered tables add: noise, mains hum, wandering baseline.
_MUSCLE_GAINS = {"emg_trapezius": 0.3, "emg_corrugator": 0.5, "emg_zygomaticus": 0.25}
_RAW_NOISE = {"gsr": (0.006, 0.0, 0.0), "ecg": (0.02, 0.05, 0.15)}
_RAW_NOISE_EMG = (1.0, 2.5, 4.0)
_DECIMALS = {"gsr": 4, "ecg": 3}


@dataclasses.dataclass(frozen=True)
class BioVidSampleSpec:
    """What the sample is made of.

    Attributes:
      subjects: Number of people, at least 1.
      clips_per_class: Clips of each class and person, at least 1.
      classes: Class ids, of 0 (BL1) to 4 (PA4).
      seed: Another seed, other people.
      size: Height and width of the videos in pixels; even, at least 32.
      frames: Frames a clip at 25 Hz, at least 1. The signals always have 2816 rows.
      signature: Strength of a pattern that identifies the person in every stream, 0 for none.
      both, face_only, body_only: Shares of the clips with a stimulus that show it so; their sum is 1.
      smiles: Share of all clips with a smile, whatever the class.
      talks: Share of all clips with talking.
      stirs: Share of all clips with a small response of the skin that no stimulus caused, early or late.
      facial_emg: False leaves the facial muscles' columns out, as some releases do.
    """

    subjects: int = 24
    clips_per_class: int = 10
    classes: tuple[int, ...] = (0, 4)
    seed: int = 0
    size: int = 96
    frames: int = 138
    signature: float = 0.0
    both: float = 0.3
    face_only: float = 0.35
    body_only: float = 0.35
    smiles: float = 0.3
    talks: float = 0.2
    stirs: float = 0.3
    facial_emg: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(int(number) for number in self.classes))
        wanted = set(self.classes)
        if not wanted or len(wanted) < len(self.classes) or not wanted <= set(range(len(CLASS_NAMES))):
            raise UsageError(f"the sample's classes are {self.classes}; expected different ones of 0 to 4")
        if self.subjects < 1 or self.clips_per_class < 1 or self.frames < 1:
            raise UsageError(
                f"a sample of {self.subjects} subjects, {self.clips_per_class} clips a class and "
                f"{self.frames} frames a clip cannot be made; expected at least 1 of each"
            )
        if self.subjects > 10_000 or self.clips_per_class > 999:
            raise UsageError("the sample's names have room for 10000 subjects and 999 clips a class")
        if self.size < 32 or self.size % 2:
            raise UsageError(f"the sample's video size is {self.size}; expected an even number, at least 32")
        shares = (self.both, self.face_only, self.body_only)
        if min(shares) < 0 or abs(sum(shares) - 1.0) > 1e-6:
            raise UsageError(f"both, face_only and body_only are {shares}; expected shares that add up to 1")
        if not all(0.0 <= share <= 1.0 for share in (self.smiles, self.talks, self.stirs)):
            raise UsageError("smiles, talks and stirs are shares of the clips; expected 0 to 1")


@dataclasses.dataclass(frozen=True)
class ClipPlan:
    """One clip before it is drawn.

    Attributes:
      name: The sample's name, as in its files.
      class_id: 0 to 4.
      shown_in: ``both``, ``face``, ``body``, or ``none`` without a stimulus.
      face_events, body_events: What the face and the body answer to.
    """

    name: str
    class_id: int
    shown_in: str
    face_events: tuple[Event, ...]
    body_events: tuple[Event, ...]


def subject_name(person: Person) -> str:
    """A name as the release has them, e.g. ``971309_w_21``; real codes are dates and never begin with 9."""
    return f"9{(person.index * 7919 + person.seed * 10007) % 100_000:05d}_{person.sex}_{person.age}"


def plan_subject(spec: BioVidSampleSpec, index: int) -> tuple[Person, list[ClipPlan]]:
    """Makes a person and decides what happens in each of the clips.

    Args:
      spec: The sample.
      index: Number of the person, from 0.

    Returns:
      The person, and the clips in the order of class and number.
    """
    person = make_person(spec.seed, index, spec.signature)
    plans = []
    for class_id in spec.classes:
        shown = _shares(spec, generator(spec.seed, "biovid", "shown in", index, class_id))
        for number in range(spec.clips_per_class):
            name = f"{subject_name(person)}-{CLASS_NAMES[class_id]}-{number + 1:03d}"
            rng = generator(spec.seed, "biovid", "events", index, class_id, number)
            plans.append(_plan_clip(spec, name, class_id, shown[number] if class_id else "none", rng))
    return person, plans


def _shares(spec: BioVidSampleSpec, rng: np.random.Generator) -> list[str]:
    """Where each clip shows: the shares as exactly as the number of clips allows, in random order."""
    places = (rng.permutation(spec.clips_per_class) + rng.random()) / spec.clips_per_class
    limits = np.cumsum([spec.both, spec.face_only])
    return [_SHOWN_IN[int(np.searchsorted(limits, place, side="right"))] for place in places]


def _plan_clip(
    spec: BioVidSampleSpec, name: str, class_id: int, shown_in: str, rng: np.random.Generator
) -> ClipPlan:
    face, inside = [], []
    # The release's clips are cut about a second after the heat has reached its level, which lasts four.
    pain = Event(rng.uniform(-1.0, 0.0), rng.uniform(3.5, 4.5), _INTENSITIES[class_id], "pain")
    if shown_in in ("both", "face"):
        face.append(pain)
    if shown_in in ("both", "body"):
        inside.append(pain)
    if rng.random() < spec.smiles:
        face.append(Event(rng.uniform(-0.5, 4.0), rng.uniform(0.8, 2.5), rng.uniform(0.4, 1.0), "smile"))
    if rng.random() < spec.talks:
        face.append(Event(rng.uniform(-0.5, 3.5), rng.uniform(1.0, 2.5), rng.uniform(0.4, 0.9), "talk"))
    if rng.random() < spec.stirs:
        onset = rng.uniform(-4.5, -3.0) if rng.random() < 0.5 else rng.uniform(2.0, 4.0)
        inside.append(Event(onset, 0.5, rng.uniform(0.1, 0.25), "spontaneous"))
    # What is left of the stimulus before: a slow fall, whatever comes now.
    inside.append(Event(rng.uniform(-16.0, -11.0), 4.0, rng.uniform(0.0, 0.8), "pain"))
    return ClipPlan(name, class_id, shown_in, tuple(face), tuple(inside))


def write_biovid(
    out: Path,
    spec: BioVidSampleSpec,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> None:
    """Writes the sample.

    Args:
      out: The raw folder (what ``PartA`` is in the release); made if need be.
      spec: What to make. The same spec gives the same bytes, however many workers write them.
      progress: Called with (people written, people in all).
      workers: Number of processes; None for one a core.
    """
    table = ["\t".join(COLUMNS)]
    for index in range(spec.subjects):
        person, plans = plan_subject(spec, index)
        for plan in plans:
            class_name = CLASS_NAMES[plan.class_id]
            cells = (index + 1, subject_name(person), plan.class_id, class_name, len(table), plan.name)
            table.append("\t".join(str(cell) for cell in cells))
    (out / "starting_point").mkdir(parents=True, exist_ok=True)
    (out / "starting_point" / "samples.csv").write_text("\n".join(table) + "\n")
    write_note(out, "biovid", spec)
    write_parts(write_subject, out, spec, spec.subjects, progress, workers)


def write_subject(out: Path, spec: BioVidSampleSpec, index: int) -> None:
    """Writes the videos and tables of one person; arguments as `write_biovid` and `plan_subject`."""
    cv2.setNumThreads(1)
    person, plans = plan_subject(spec, index)
    folders = {kind: out / kind / subject_name(person) for kind in _FOLDERS}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    for number, plan in enumerate(plans):
        _write_video(folders["video"] / f"{plan.name}.mp4", spec, person, plan, number)
        columns = _signals(spec, person, plan, number)
        _write_table(folders["biosignals_filtered"] / f"{plan.name}_bio.csv", columns)
        rng = generator(spec.seed, "biovid", "raw", index, number)
        noisy = {name: _unfiltered(name, values, rng) for name, values in columns.items()}
        _write_table(folders["biosignals_raw"] / f"{plan.name}_bio.csv", noisy)


def _write_video(path: Path, spec: BioVidSampleSpec, person: Person, plan: ClipPlan, number: int) -> None:
    times = np.arange(spec.frames) / FRAME_RATE_HZ
    rng = generator(spec.seed, "biovid", "face", person.index, number)
    write_video(
        path, face_clip(person, plan.face_events, times, rng, spec.size), rate_hz=round(FRAME_RATE_HZ)
    )


def _signals(spec: BioVidSampleSpec, person: Person, plan: ClipPlan, number: int) -> dict[str, np.ndarray]:
    """The columns of the filtered table, float [2816] each; microsiemens, millivolt, microvolt."""
    names = _SIGNAL_COLUMNS if spec.facial_emg else _SIGNAL_COLUMNS[:3]
    columns = {}
    for name in names:
        rng = generator(spec.seed, "biovid", name, person.index, number)
        facts = (person, ROWS / RATE_HZ, RATE_HZ, plan.body_events, rng)
        if name == "gsr":
            columns[name] = body.skin_conductance(*facts)
        elif name == "ecg":
            columns[name] = body.ecg(*facts)
        else:
            columns[name] = body.emg(*facts, gain=_MUSCLE_GAINS[name])
    return columns


def _unfiltered(name: str, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What the amplifier gave before filtering: noise, mains hum and a wandering baseline on top."""
    noise, hum, wander = _RAW_NOISE.get(name, _RAW_NOISE_EMG)
    times = np.arange(len(values)) / RATE_HZ
    slow = np.sin(2 * np.pi * rng.uniform(0.1, 0.4) * times + rng.uniform(0, 2 * np.pi))
    mains = np.sin(2 * np.pi * 50.0 * times + rng.uniform(0, 2 * np.pi))
    return values + noise * rng.normal(size=len(values)) + hum * mains + wander * slow


def _write_table(path: Path, columns: dict[str, np.ndarray]) -> None:
    rows = len(next(iter(columns.values())))
    microseconds = np.round(np.arange(rows) * (1e6 / RATE_HZ))
    table = np.column_stack([microseconds, *columns.values()])
    line = "\t".join(["%d", *(f"%.{_DECIMALS.get(name, 2)}f" for name in columns)]) + "\n"
    text = "\t".join(["time", *columns]) + "\n" + (line * rows) % tuple(table.ravel().tolist())
    path.write_text(text)
