"""Makes a synthetic person's voice: syllables whose pitch, loudness and formants follow the mood.

A source and a filter: pulses of the vocal folds, whose rate is the pitch, shaped by the resonances (formants)
of one vowel a syllable. Arousal raises pitch, loudness and tempo; valence raises the formants (a smile makes
the vocal tract shorter) and the movement of the pitch. There are no words in it.
"""

from __future__ import annotations

import numpy as np
from scipy import signal

from data_pipelines.sample.people import Person

# First three formants in Hz of a, e, i, o, u, for a vocal tract of scale 1.
_VOWELS = (
    (730.0, 1150.0, 2440.0),
    (530.0, 1840.0, 2480.0),
    (290.0, 2250.0, 2950.0),
    (510.0, 900.0, 2410.0),
    (320.0, 870.0, 2240.0),
)
_BANDWIDTHS_HZ = (80.0, 110.0, 170.0)


def voice(
    person: Person,
    valence: np.ndarray,
    arousal: np.ndarray,
    times_seconds: np.ndarray,
    duration_seconds: float,
    rate_hz: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Makes a voice that follows a contour of mood.

    Args:
      person: Whose: mean pitch and length of the vocal tract.
      valence: [N], -1 to 1, at `times_seconds`.
      arousal: [N], -1 to 1, at `times_seconds`.
      times_seconds: [N], ascending; the mood between them is interpolated, and constant beyond them.
      duration_seconds: Length of the sound.
      rate_hz: Samples a second; formants above its half are left out.
      rng: The generator of this sound.

    Returns:
      float32 [T], T = round(duration * rate), within -1 to 1.
    """
    length = round(duration_seconds * rate_hz)
    times = np.arange(length) / rate_hz
    pleasure = np.clip(np.interp(times, times_seconds, valence), -1.0, 1.0)
    energy = np.clip(np.interp(times, times_seconds, arousal), -1.0, 1.0)
    spans = _syllables(length, rate_hz, energy, rng)
    loudness = np.zeros(length)
    melody = np.zeros(length)
    for first, last in spans:
        shape = np.sin(np.pi * (np.arange(last - first) + 0.5) / (last - first)) ** 0.6
        loudness[first:last] = shape * rng.uniform(0.75, 1.0)
        melody[first:last] = rng.normal(0.0, 1.0) - np.linspace(0.0, 0.5, last - first)
    octaves = 0.35 * energy + 0.05 * pleasure + 0.06 * (1.0 + 0.5 * pleasure) * melody
    pitch_hz = person.voice_pitch_hz * 2.0**octaves * (1.0 + 0.01 * np.sin(2 * np.pi * 5.2 * times))
    source = _folds(pitch_hz, rate_hz) + 0.02 * rng.normal(size=length)
    sound = np.zeros(length)
    for first, last in spans:
        middle = (first + last) // 2
        scale = person.voice_tract_scale * (1.0 + 0.07 * pleasure[middle])
        vowel = _VOWELS[int(rng.integers(len(_VOWELS)))]
        sound[first:last] = _formants(source[first:last], np.asarray(vowel) * scale, rate_hz)
    gain = 0.16 * 10.0 ** (0.45 * energy)
    room = 0.0008 * rng.normal(size=length)
    return np.clip(np.tanh(sound * loudness * gain) + room, -1.0, 1.0).astype(np.float32)


def _syllables(
    length: int, rate_hz: float, energy: np.ndarray, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """First and one-past-last sample of each syllable; phrases of a few, with pauses between."""
    spans: list[tuple[int, int]] = []
    place = rng.uniform(0.02, 0.2)
    left = int(rng.integers(4, 10))
    while (first := round(place * rate_hz)) < length:
        tempo = 2.0 ** (0.4 * energy[first])
        seconds = rng.uniform(0.13, 0.26) / tempo
        last = min(first + max(2, round(seconds * rate_hz)), length)
        spans.append((first, last))
        left -= 1
        place += seconds + 0.02
        if left == 0:
            place += rng.uniform(0.25, 0.7) / tempo
            left = int(rng.integers(4, 10))
    return spans


def _folds(pitch_hz: np.ndarray, rate_hz: float) -> np.ndarray:
    """Flow through the vocal folds, differentiated: a short negative pulse in each period, zero mean."""
    phase = np.cumsum(pitch_hz / rate_hz) % 1.0
    opening = np.where(phase < 0.6, np.sin(np.pi * phase / 0.6) ** 2, 0.0)
    return np.diff(opening, prepend=opening[:1]) * (rate_hz / 8000.0)


def _formants(source: np.ndarray, formants_hz: np.ndarray, rate_hz: float) -> np.ndarray:
    """The source through one resonance after another; unit root mean square."""
    for middle, width in zip(formants_hz, _BANDWIDTHS_HZ, strict=True):
        if middle < 0.47 * rate_hz:
            radius = np.exp(-np.pi * width / rate_hz)
            pole = [1.0, -2.0 * radius * np.cos(2 * np.pi * middle / rate_hz), radius**2]
            source = signal.lfilter([sum(pole)], pole, source)
    return source / max(float(np.sqrt(np.mean(source**2))), 1e-9)
