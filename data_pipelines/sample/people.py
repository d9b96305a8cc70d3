"""Synthetic people: who they are, and what happens to them.

One generator serves every sample data set: a person has a face, a voice and a body, and everything that
these show is drawn from the person, the events and a random generator that is named, never threaded. The
same seed gives the same people whatever order or process makes them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A random generator that belongs to these names alone.

    Args:
      seed: The sample's seed.
      *names: What the numbers are for, e.g. ``("biovid", "person", 3)``. Order matters; ``3`` and ``"3"``
        are different names.

    Returns:
      A counter-based generator (Philox), keyed by a hash of the seed and the names, so that neither the
      number of draws made elsewhere nor the order of the work changes what it gives.
    """
    digest = hashlib.sha256(json.dumps([int(seed), *names]).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that happens to a person and that face, voice or body may show.

    Attributes:
      onset_seconds: When it begins, from the start of the recording; may be negative (before it).
      duration_seconds: How long the stimulus lasts, > 0.
      intensity: 0 (not noticed) to 1 (the strongest of its kind).
      kind: ``pain``, ``stress``, ``startle``, ``spontaneous`` (a body response without any stimulus),
        ``smile`` or ``talk`` (movements of the face that say nothing about the label).
    """

    onset_seconds: float
    duration_seconds: float
    intensity: float
    kind: str


@dataclasses.dataclass(frozen=True)
class Person:
    """One synthetic person; every value is constant for that person.

    Attributes:
      index: Number of the person in the sample, from 0.
      seed: The sample's seed.
      age: 20 to 65 years.
      sex: ``w`` or ``m``, as BioVid writes it.
      expressiveness: 0 (a still face) to 1; scales what the face shows.
      reactivity: 0 to 1; scales the skin's and the heart's responses.
      heart_rate_bpm: At rest, beats a minute.
      skin_conductance_microsiemens: Tonic level.
      skin_drift_microsiemens_per_minute: Slow drift of the tonic level, of either sign.
      skin_temperature_celsius: At the wrist.
      muscle_noise: Resting muscle tone as a factor, about 0.5 to 1.5.
      voice_pitch_hz: Mean pitch when calm.
      voice_tract_scale: Factor on the formant frequencies; a shorter vocal tract has a larger one.
      skin_colour, hair_colour, eye_colour, shirt_colour, background_colour: RGB, 0 to 255.
      face_width, face_height, eye_spacing, eye_size, brow_height, mouth_width, nose_length: Factors near 1.
      hair_style: 0 short, 1 long, 2 receding.
      brow_rest, mouth_rest: What the resting face looks like, -1 to 1: brows low or high, corners down or up.
      sway: How much the head moves, a factor near 1.
      blink_rate_hz: Blinks a second.
      signature: Strength of a constant pattern that identifies the person in every stream (0 = none); there
        to test whether a model has learnt people rather than pain.
    """

    index: int
    seed: int
    age: int
    sex: str
    expressiveness: float
    reactivity: float
    heart_rate_bpm: float
    skin_conductance_microsiemens: float
    skin_drift_microsiemens_per_minute: float
    skin_temperature_celsius: float
    muscle_noise: float
    voice_pitch_hz: float
    voice_tract_scale: float
    skin_colour: tuple[int, int, int]
    hair_colour: tuple[int, int, int]
    eye_colour: tuple[int, int, int]
    shirt_colour: tuple[int, int, int]
    background_colour: tuple[int, int, int]
    face_width: float
    face_height: float
    eye_spacing: float
    eye_size: float
    brow_height: float
    mouth_width: float
    nose_length: float
    hair_style: int
    brow_rest: float
    mouth_rest: float
    sway: float
    blink_rate_hz: float
    signature: float = 0.0

    def signature_pattern(self, length: int) -> np.ndarray:
        """The person's identifying pattern, float64 [length], zero mean, unit deviation; not yet scaled."""
        pattern = generator(self.seed, "signature", self.index).normal(size=length)
        return (pattern - pattern.mean()) / pattern.std()


_SKIN_COLOURS = ((244, 208, 180), (232, 190, 160), (214, 168, 134), (190, 140, 106), (150, 104, 76))
_HAIR_COLOURS = ((40, 30, 26), (74, 50, 34), (120, 82, 48), (190, 150, 90), (150, 70, 40), (170, 168, 166))
_EYE_COLOURS = ((70, 46, 30), (60, 90, 60), (70, 110, 150), (90, 90, 95))


def _near(rng: np.random.Generator, colour: tuple[int, int, int], spread: float) -> tuple[int, int, int]:
    values = np.clip(np.asarray(colour) + rng.normal(0.0, spread, 3), 0, 255)
    return int(values[0]), int(values[1]), int(values[2])


def _around_one(rng: np.random.Generator, deviation: float) -> float:
    return float(1.0 + deviation * np.clip(rng.normal(), -2.0, 2.0))


def make_person(seed: int, index: int, signature: float = 0.0) -> Person:
    """Makes person number `index` of the sample with this seed.

    Args:
      seed: The sample's seed.
      index: From 0.
      signature: Strength of the identifying pattern, 0 for none; changes nothing else of the person.

    Returns:
      The person; the same arguments always give the same one.
    """
    rng = generator(seed, "person", index)
    sex = "w" if rng.random() < 0.5 else "m"
    age = int(rng.integers(20, 66))
    hair = _HAIR_COLOURS[int(rng.integers(len(_HAIR_COLOURS) - 1))] if age < 50 else _HAIR_COLOURS[-1]
    background = tuple(int(v) for v in rng.integers(80, 170, 3))
    return Person(
        index=index,
        seed=seed,
        age=age,
        sex=sex,
        expressiveness=float(np.clip(rng.beta(4.0, 2.0), 0.25, 1.0)),
        reactivity=float(np.clip(rng.beta(4.0, 2.0), 0.25, 1.0)),
        heart_rate_bpm=float(np.clip(rng.normal(72.0, 8.0), 52.0, 98.0)),
        skin_conductance_microsiemens=float(np.clip(np.exp(rng.normal(1.2, 0.5)), 1.0, 14.0)),
        skin_drift_microsiemens_per_minute=float(np.clip(rng.normal(0.0, 0.25), -0.6, 0.6)),
        skin_temperature_celsius=float(np.clip(rng.normal(32.5, 1.2), 29.0, 36.0)),
        muscle_noise=float(np.clip(np.exp(rng.normal(0.0, 0.25)), 0.5, 1.8)),
        voice_pitch_hz=float(np.clip(rng.normal(205.0 if sex == "w" else 118.0, 16.0), 75.0, 280.0)),
        voice_tract_scale=float((1.12 if sex == "w" else 0.97) * _around_one(rng, 0.03)),
        skin_colour=_near(rng, _SKIN_COLOURS[int(rng.integers(len(_SKIN_COLOURS)))], 6.0),
        hair_colour=_near(rng, hair, 8.0),
        eye_colour=_near(rng, _EYE_COLOURS[int(rng.integers(len(_EYE_COLOURS)))], 6.0),
        shirt_colour=(int(rng.integers(30, 220)), int(rng.integers(30, 220)), int(rng.integers(30, 220))),
        background_colour=(background[0], background[1], background[2]),
        face_width=_around_one(rng, 0.06),
        face_height=_around_one(rng, 0.05),
        eye_spacing=_around_one(rng, 0.06),
        eye_size=_around_one(rng, 0.08),
        brow_height=_around_one(rng, 0.06),
        mouth_width=_around_one(rng, 0.08),
        nose_length=_around_one(rng, 0.08),
        hair_style=int(rng.choice(3, p=(0.5, 0.5, 0.0) if sex == "w" else (0.7, 0.1, 0.2))),
        brow_rest=float(np.clip(rng.normal(0.0, 0.2), -0.5, 0.5)),
        mouth_rest=float(np.clip(rng.normal(0.0, 0.2), -0.5, 0.5)),
        sway=_around_one(rng, 0.25),
        blink_rate_hz=float(rng.uniform(0.15, 0.4)),
        signature=float(signature),
    )
