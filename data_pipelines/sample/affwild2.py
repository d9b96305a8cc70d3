"""Lays synthetic people out as a release of Affwild2: videos with sound, face crops, annotations a frame.

With what makes the real files awkward: a frame rate that varies, frames without a face, stretches without
annotation, annotations shorter or longer than their video, a video of two people, a video without sound.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.errors import UsageError
from data_pipelines.media.video import encode_jpeg
from data_pipelines.media.video_writing import write_film
from data_pipelines.readers.affwild2_files import CROPS_FOLDER, EDITIONS, NOT_ANNOTATED
from data_pipelines.sample.face import draw_clip
from data_pipelines.sample.mood import Mood, make_mood, mood_movements
from data_pipelines.sample.note import write_note
from data_pipelines.sample.parallel import write_parts
from data_pipelines.sample.people import Person, generator, make_person
from data_pipelines.sample.voice import voice

WRITER_VERSION = "1"
"""Goes up when the same spec would give other files."""

TEST_LIST = "Valence_Arousal_Estimation_Challenge_test_set_release.txt"
SOUND_RATE_HZ = 44_100
_RATES_HZ = (15.0, 18.0, 20.0, 24.0)
_FOLDERS = {"train": "Train_Set", "validation": "Validation_Set"}


@dataclasses.dataclass(frozen=True)
class Affwild2SampleSpec:
    """What the sample is made of.

    The first training video is of two people, the second one has no sound, the third one's annotation ends
    early, and the fourth one's goes on beyond the video.

    Attributes:
      train, validation, test: Number of videos of each part; at least 1 to train on.
      seconds: Mean length of a video, at least 2; they differ by up to a quarter.
      seed: Another seed, other people.
      size: Height and width of a face in pixels; even, at least 32. Release: 112.
      edition: ``VA_Set`` or ``VA_Estimation_Challenge``: name of the annotations' folder.
      without_face: Mean share of the frames in which no face is found, 0 to 0.5.
      not_annotated: Mean share of the frames without annotation, 0 to 0.5.
      signature: Strength of a pattern that identifies the person in every picture, 0 for none.
    """

    train: int = 9
    validation: int = 4
    test: int = 2
    seconds: float = 42.0
    seed: int = 0
    size: int = 112
    edition: str = EDITIONS[1]
    without_face: float = 0.05
    not_annotated: float = 0.05
    signature: float = 0.0

    def __post_init__(self) -> None:
        if self.train < 1 or self.validation < 0 or self.test < 0 or self.seconds < 2:
            raise UsageError(
                f"a sample of {self.train}, {self.validation} and {self.test} videos of {self.seconds:g} s "
                "cannot be made; expected at least 1 video to train on, and 2 s"
            )
        if self.size < 32 or self.size % 2:
            raise UsageError(f"the sample's face size is {self.size}; expected an even number, at least 32")
        if self.edition not in EDITIONS:
            raise UsageError(f"the sample's edition is {self.edition!r}; expected {' or '.join(EDITIONS)}")
        if not (0 <= self.without_face <= 0.5 and 0 <= self.not_annotated <= 0.5):
            raise UsageError("without_face and not_annotated are shares of the frames; expected 0 to 0.5")

    @property
    def subjects(self) -> int:
        """Number of videos; each counts as one subject."""
        return self.train + self.validation + self.test


@dataclasses.dataclass(frozen=True)
class Track:
    """One person in one video.

    Attributes:
      name: The recording's name.
      person: Who.
      mood: Its course at the times of the frames.
      has_face: bool [N], False where no face is found.
      annotated: bool [N].
    """

    name: str
    person: Person
    mood: Mood
    has_face: np.ndarray
    annotated: np.ndarray


@dataclasses.dataclass(frozen=True)
class VideoPlan:
    """One video before it is drawn.

    Attributes:
      name: The video's name.
      part: ``train``, ``validation`` or ``test``.
      times_seconds: float64 [N], of its frames.
      tracks: One or two.
      has_sound: False for a video without an audio stream.
      further_lines: By how much the annotation is longer than the video; negative where it is shorter.
    """

    name: str
    part: str
    times_seconds: np.ndarray
    tracks: tuple[Track, ...]
    has_sound: bool
    further_lines: int


def plan_video(spec: Affwild2SampleSpec, index: int) -> VideoPlan:
    """Decides what is in a video.

    Args:
      spec: The sample.
      index: Number of the video, from 0: first those to train on, then validation, then test.
    """
    rng = generator(spec.seed, "affwild2", "video", index)
    part = "train" if index < spec.train else "test"
    if spec.train <= index < spec.train + spec.validation:
        part = "validation"
    times = _frame_times(rng, spec.seconds * rng.uniform(0.75, 1.25))
    two = index == 0
    name = f"sample{index + 1:02d}-{spec.size * (1 + two)}x{spec.size}"
    tracks: list[Track] = []
    for side in ("_left", "_right") if two else ("",):
        # Two who talk with each other get excited together.
        mood = make_mood(times, rng, tracks[0].mood.arousal if tracks else None)
        has_face = ~_stretches(rng, len(times), spec.without_face)
        annotated = ~_stretches(rng, len(times), spec.not_annotated)
        person = make_person(spec.seed, 2 * index + len(tracks), spec.signature)
        tracks.append(Track(name + side, person, mood, has_face, annotated))
    further = {2: -min(7, len(times) // 4), 3: 5}.get(index, 0) if part == "train" else 0
    return VideoPlan(name, part, times, tuple(tracks), index != 1 or part != "train", further)


def _frame_times(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Times of frames at a rate that varies, some of them dropped."""
    interval = 1.0 / _RATES_HZ[int(rng.integers(len(_RATES_HZ)))]
    count = max(8, round(seconds / interval))
    steps = interval * rng.uniform(0.75, 1.25, count)
    steps *= np.where(rng.random(count) < 0.02, rng.integers(2, 4, count), 1)
    times = np.cumsum(steps)
    return times - times[0]


def _stretches(rng: np.random.Generator, count: int, share: float) -> np.ndarray:
    """bool [count], True in about this share, in stretches of a few to 40; never all along."""
    chosen = np.zeros(count, bool)
    while share and chosen.mean() < share * 0.9:
        length = int(rng.integers(2, 1 + max(2, min(40, count // 8))))
        first = int(rng.integers(1, count - length))
        chosen[first : first + length] = True
    return chosen


def write_affwild2(
    out: Path,
    spec: Affwild2SampleSpec,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> None:
    """Writes the sample.

    Args:
      out: The raw folder; made if need be.
      spec: What to make. The same spec gives the same bytes, however many workers write them.
      progress: Called with (videos written, videos in all).
      workers: Number of processes; None for one a core.
    """
    out.mkdir(parents=True, exist_ok=True)
    tests = range(spec.train + spec.validation, spec.subjects)
    names = [track.name for index in tests for track in plan_video(spec, index).tracks]
    if names:
        (out / TEST_LIST).write_text("\n".join(names) + "\n")
    write_note(out, "affwild2", spec)
    write_parts(write_video_files, out, spec, spec.subjects, progress, workers)


def write_video_files(out: Path, spec: Affwild2SampleSpec, index: int) -> None:
    """Writes a video, its crops and annotations; arguments as `write_affwild2` and `plan_video`."""
    cv2.setNumThreads(1)
    plan = plan_video(spec, index)
    if plan.part != "test":
        folder = out / spec.edition / _FOLDERS[plan.part]
        folder.mkdir(parents=True, exist_ok=True)
        for track in plan.tracks:
            (folder / f"{track.name}.txt").write_text(_annotation_text(plan, track))
    batch = out / f"batch{1 + index % 2}"
    batch.mkdir(exist_ok=True)
    write_film(
        batch / f"{plan.name}.mp4",
        _draw(out, spec, plan, index),
        plan.times_seconds,
        sound=_sound(spec, plan, index) if plan.has_sound else None,
        sound_rate_hz=SOUND_RATE_HZ,
    )


def _annotation_text(plan: VideoPlan, track: Track) -> str:
    values = np.stack([track.mood.valence, track.mood.arousal], 1)
    values[~track.annotated] = NOT_ANNOTATED
    lines = len(values) + plan.further_lines
    values = np.concatenate([values, values[-1:].repeat(max(plan.further_lines, 0), 0)])[:lines]
    return "valence,arousal\n" + "".join(f"{v:.6g},{a:.6g}\n" for v, a in values.tolist())


def _draw(out: Path, spec: Affwild2SampleSpec, plan: VideoPlan, index: int) -> Iterator[np.ndarray]:
    """Draws the frames, writing the crops beside."""
    clips = []
    for number, track in enumerate(plan.tracks):
        (out / CROPS_FOLDER / track.name).mkdir(parents=True, exist_ok=True)
        rng = generator(spec.seed, "affwild2", "face", index, number)
        moves = mood_movements(track.person, track.mood, plan.times_seconds, rng)
        clips.append(draw_clip(track.person, moves, plan.times_seconds, rng, spec.size))
    for frame, faces in enumerate(zip(*clips, strict=True)):
        for track, face in zip(plan.tracks, faces, strict=True):
            if track.has_face[frame]:
                path = out / CROPS_FOLDER / track.name / f"{frame + 1:05d}.jpg"
                path.write_bytes(encode_jpeg(face))
        yield np.concatenate(faces, axis=1)


def _sound(spec: Affwild2SampleSpec, plan: VideoPlan, index: int) -> np.ndarray:
    """All voices together, float32 [T]."""
    times = plan.times_seconds
    sounds = [
        voice(
            track.person,
            track.mood.voice_valence,
            track.mood.voice_arousal,
            times,
            float(times[-1]) + 0.05,
            SOUND_RATE_HZ,
            generator(spec.seed, "affwild2", "voice", index, number),
        )
        for number, track in enumerate(plan.tracks)
    ]
    return np.clip(np.sum(sounds, axis=0), -1.0, 1.0).astype(np.float32)
