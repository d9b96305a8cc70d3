"""How valence and arousal come and go in a synthetic person, and what face and voice show of them.

The face shows valence (corners of the mouth, brows) and little of arousal; the voice shows arousal (`voice`)
and little of valence. The rest of what each shows is its own: whoever sees one of them alone knows one of the
two well and the other one hardly.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from data_pipelines.sample.face import MOVEMENTS, add_idle_movements, wander
from data_pipelines.sample.people import Person

_SHOWN_OF_OTHER = 0.25
"""Share of arousal in what the face shows of it, and of valence in what the voice shows."""


@dataclasses.dataclass(frozen=True)
class Mood:
    """A course of mood, [N] each, -1 to 1.

    Attributes:
      valence, arousal: What the person feels; the labels.
      face_valence, face_arousal: What the face shows.
      voice_valence, voice_arousal: What the voice shows.
    """

    valence: np.ndarray
    arousal: np.ndarray
    face_valence: np.ndarray
    face_arousal: np.ndarray
    voice_valence: np.ndarray
    voice_arousal: np.ndarray


def make_mood(times_seconds: np.ndarray, rng: np.random.Generator, arousal: np.ndarray | None = None) -> Mood:
    """Draws a course of mood.

    Args:
      times_seconds: float64 [N], ascending.
      rng: The generator of this course.
      arousal: The course of somebody whose arousal this person shares, up to a small part; None for an own.
    """
    times = np.asarray(times_seconds, np.float64)
    valence = _course(times, rng)
    own = _course(times, rng)
    arousal = own if arousal is None else np.clip(0.85 * arousal + 0.15 * own, -1.0, 1.0)

    def shown(course: np.ndarray, share: float) -> np.ndarray:
        return np.clip(share * course + (1.0 - share) * _course(times, rng), -1.0, 1.0)

    return Mood(
        valence,
        arousal,
        face_valence=shown(valence, 0.9),
        face_arousal=shown(arousal, _SHOWN_OF_OTHER),
        voice_valence=shown(valence, _SHOWN_OF_OTHER),
        voice_arousal=shown(arousal, 0.9),
    )


def _course(times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A smooth course in -1 to 1 that changes within seconds."""
    return np.tanh(0.25 * rng.normal() + 0.65 * wander(rng, times, 7.0) + 0.3 * wander(rng, times, 3.0))


def mood_movements(
    person: Person, mood: Mood, times_seconds: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """What the face does: float64 [N] each, 0 to 1, as `face.movements`.

    Args:
      person: Whose face, and how much it shows.
      mood: Its course at the times of the frames.
      times_seconds: float64 [N].
      rng: The generator of this face.
    """
    times = np.asarray(times_seconds, np.float64)
    moves = {name: np.zeros(len(times)) for name in MOVEMENTS}
    shows = 0.75 + 0.25 * person.expressiveness
    pleased, displeased = np.maximum(mood.face_valence, 0.0), np.maximum(-mood.face_valence, 0.0)
    moves["smile"] += shows * pleased
    moves["mouth_down"] += shows * displeased
    moves["brow_lower"] += 0.7 * shows * displeased
    moves["eye_tighten"] += 0.3 * displeased
    moves["brow_raise"] += 0.4 * shows * (1.0 + mood.face_arousal)
    # Talking says nothing of the mood.
    syllables = 0.5 + 0.5 * np.sin(2 * np.pi * (3.5 * times + 0.6 * wander(rng, times, 0.5)))
    moves["mouth_open"] += 0.3 * syllables * (wander(rng, times, 1.5) > -0.7)
    add_idle_movements(moves, person, times, rng)
    return {name: np.clip(values, 0.0, 1.0) for name, values in moves.items()}
