"""What a synthetic person's body shows: skin, heart, muscles, pulse, temperature and movement.

Simple models with the features that real signals are read by: skin responses that rise 1 to 3 s after an
event and fall slowly, QRS complexes whose rate breathes and quickens, bursts of muscle activity, a pulse that
shrinks when vessels narrow. People differ in level, drift, noise and in how strongly they react. Figures made
from them say nothing about real people.

Only events of the kinds in `BODY_KINDS` reach the body; the others move the face alone. Every function takes
its own random generator. ECG and pulse wave draw the heartbeat first: given equal generators, they share it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import signal

from data_pipelines.sample.people import Event, Person, generator

BODY_KINDS = ("pain", "stress", "startle", "spontaneous")

# Offset from the R peak in seconds, height in millivolt, width in seconds, of P, Q, R, S and T.
_ECG_WAVES = (
    (-0.16, 0.12, 0.024),
    (-0.032, -0.10, 0.010),
    (0.0, 1.0, 0.011),
    (0.034, -0.22, 0.012),
    (0.27, 0.28, 0.05),
)
# Position within the beat, height and width (shares of a beat) of the systolic and the diastolic wave.
_PULSE_WAVES = ((0.28, 1.0, 0.085), (0.62, 0.38, 0.11))
_HEART_GRID_HZ = 16.0


def skin_conductance(
    person: Person, duration_seconds: float, rate_hz: float, events: Sequence[Event], rng: np.random.Generator
) -> np.ndarray:
    """Skin conductance (GSR, EDA).

    A tonic level with drift, one response after each event's onset and more while a long one lasts, and small
    spontaneous responses, about three a minute.

    Args:
      person: Level, drift and reactivity.
      duration_seconds: Length of the signal.
      rate_hz: Samples a second.
      events: What happens; onsets may lie before the start.
      rng: The generator of this signal.

    Returns:
      float32 [T], microsiemens, T = round(duration * rate), above 0.01.
    """
    times = _times(duration_seconds, rate_hz)
    level = person.skin_conductance_microsiemens
    # The drift levels off within minutes: a skin that dries for an hour still conducts.
    change = max(3.0 * person.skin_drift_microsiemens_per_minute, -0.5 * level)
    drift = change * -np.expm1(-times / 180.0)
    values = level + drift + 0.04 * level * _wander(rng, times, 60.0)
    scale = person.reactivity * (0.35 + 0.12 * level)
    for event in _felt(events):
        onsets = [event.onset_seconds]
        more = rng.poisson(max(event.duration_seconds - 4.0, 0.0) / 9.0)
        onsets.extend(event.onset_seconds + rng.uniform(4.0, max(event.duration_seconds, 4.0), more))
        for number, onset in enumerate(onsets):
            share = 1.0 if number == 0 else rng.uniform(0.2, 0.8)
            size = scale * event.intensity * share * math.exp(rng.normal(0.0, 0.25))
            _add_skin_response(values, rate_hz, onset + rng.uniform(1.0, 3.0), size, rng)
    lasting = [event for event in _felt(events) if event.duration_seconds > 20.0]
    values += 0.6 * scale * _arousal(times, lasting, delay=2.0, rise=20.0, fall=60.0)
    for onset in rng.uniform(-10.0, duration_seconds, rng.poisson((duration_seconds + 10.0) / 20.0)):
        _add_skin_response(values, rate_hz, onset, 0.1 * scale * rng.exponential(), rng)
    values += 0.15 * _signature(person, times) + rng.normal(0.0, 0.003, len(times))
    return np.maximum(values, 0.05 + 0.01 * rng.random(len(times))).astype(np.float32)


def ecg(
    person: Person, duration_seconds: float, rate_hz: float, events: Sequence[Event], rng: np.random.Generator
) -> np.ndarray:
    """Electrocardiogram: P, QRS and T waves, respiratory wander of the baseline, muscle noise.

    Args:
      person, duration_seconds, rate_hz, events, rng: As for `skin_conductance`.

    Returns:
      float32 [T], millivolt; R peaks of about 1.
    """
    times = _times(duration_seconds, rate_hz)
    beats, breath = _heart(person, duration_seconds, events, rng)
    before = np.clip(np.searchsorted(beats, times, side="right") - 1, 0, len(beats) - 2)
    since, until = times - beats[before], times - beats[before + 1]
    # The T wave moves with the square root of the beat's length (Bazett).
    stretch = np.sqrt(np.clip(beats[before + 1] - beats[before], 0.4, 1.5))
    gain = _around_one(person, "ecg gain", 0.15)
    values = np.zeros(len(times))
    for offset, height, width in _ECG_WAVES:
        if offset >= 0:
            place = offset * stretch if offset > 0.1 else offset
            values += height * np.exp(-0.5 * ((since - place) / width) ** 2)
        if offset <= 0:
            values += height * np.exp(-0.5 * ((until - offset) / width) ** 2)
    values = gain * values + 0.05 * np.sin(breath(times)) + 0.02 * _wander(rng, times, 2.0)
    values += 0.15 * _signature(person, times) + rng.normal(0.0, 0.012 * person.muscle_noise, len(times))
    return values.astype(np.float32)


def emg(
    person: Person,
    duration_seconds: float,
    rate_hz: float,
    events: Sequence[Event],
    rng: np.random.Generator,
    gain: float = 1.0,
) -> np.ndarray:
    """Surface electromyogram: noise of 20 to 200 Hz that grows in bursts.

    Args:
      person, duration_seconds, rate_hz, events, rng: As for `skin_conductance`.
      gain: How strongly this muscle answers to events; 0 for one that does not.

    Returns:
      float32 [T], microvolt, zero mean; about 3 at rest, up to 30 in a burst (root mean square).
    """
    times = _times(duration_seconds, rate_hz)
    envelope = 3.0 * person.muscle_noise * (1.0 + 0.15 * _wander(rng, times, 1.0))
    for event in _felt(events):
        begin = event.onset_seconds + rng.uniform(0.2, 0.8)
        for _ in range(1 + rng.poisson(min(event.duration_seconds, 600.0) / 3.0)):
            length = rng.uniform(0.6, 2.0)
            size = 26.0 * gain * event.intensity * (0.3 + 0.7 * person.reactivity) * rng.uniform(0.5, 1.1)
            envelope += size * np.exp(-0.5 * ((times - begin - length / 2) / (length / 3)) ** 2)
            begin = event.onset_seconds + rng.uniform(0.2, max(event.duration_seconds, 1.0))
    noise = rng.normal(size=len(times) + 64)
    if rate_hz > 60.0:
        band = signal.butter(2, (20.0, min(200.0, 0.45 * rate_hz)), "bandpass", fs=rate_hz, output="sos")
        noise = signal.sosfilt(band, noise)
        noise /= noise.std()
    values = np.maximum(envelope, 0.5) * noise[64:] + 3.0 * _signature(person, times)
    return values.astype(np.float32)


def pulse_wave(
    person: Person, duration_seconds: float, rate_hz: float, events: Sequence[Event], rng: np.random.Generator
) -> np.ndarray:
    """Blood volume pulse at the wrist, as photoplethysmographs give it.

    Args:
      person, duration_seconds, rate_hz, events, rng: As for `skin_conductance`.

    Returns:
      float32 [T], the device's unit, about zero mean; peaks of about 60 at rest, down to half under stress.
    """
    times = _times(duration_seconds, rate_hz)
    beats, breath = _heart(person, duration_seconds, events, rng)
    # It takes the wave a fifth of a second from the heart to the wrist.
    position = np.interp(times - 0.2, beats, np.arange(len(beats))) % 1.0
    values = np.zeros(len(times))
    for place, height, width in _PULSE_WAVES:
        distance = np.abs(position - place)
        values += height * np.exp(-0.5 * (np.minimum(distance, 1.0 - distance) / width) ** 2)
    mean = sum(height * width for _, height, width in _PULSE_WAVES) * math.sqrt(2 * math.pi)
    narrowing = person.reactivity * _arousal(times, _felt(events), delay=2.0, rise=4.0, fall=15.0)
    size = 60.0 * _around_one(person, "pulse size", 0.25) * (1.0 - 0.5 * narrowing)
    size *= np.maximum(1.0 + 0.12 * np.sin(breath(times)) + 0.25 * _wander(rng, times, 60.0), 0.2)
    values = size * (values - mean) + 4.0 * np.sin(breath(times) + 0.7) + 15.0 * _signature(person, times)
    return (values + rng.normal(0.0, 1.0, len(times))).astype(np.float32)


def skin_temperature(
    person: Person, duration_seconds: float, rate_hz: float, events: Sequence[Event], rng: np.random.Generator
) -> np.ndarray:
    """Skin temperature at the wrist: slow, and a little lower under stress.

    Args:
      person, duration_seconds, rate_hz, events, rng: As for `skin_conductance`.

    Returns:
      float32 [T], degrees Celsius.
    """
    times = _times(duration_seconds, rate_hz)
    cooling = person.reactivity * _arousal(times, _felt(events), delay=10.0, rise=60.0, fall=120.0)
    values = person.skin_temperature_celsius - 0.5 * cooling + 0.25 * _wander(rng, times, 240.0)
    values += 0.1 * _signature(person, times) + rng.normal(0.0, 0.01, len(times))
    return values.astype(np.float32)


def acceleration(
    person: Person, duration_seconds: float, rate_hz: float, events: Sequence[Event], rng: np.random.Generator
) -> np.ndarray:
    """Acceleration of the wrist: gravity, changes of posture and bursts of movement.

    Only a startle moves the arm; pain and stress are left to the other signals.

    Args:
      person, duration_seconds, rate_hz, events, rng: As for `skin_conductance`.

    Returns:
      int16 [T, 3], 1/64 g, -128 to 127.
    """
    times = _times(duration_seconds, rate_hz)
    posture = rng.normal(size=3) + 0.25 * np.stack([_wander(rng, times, 90.0) for _ in range(3)], -1)
    values = 64.0 * posture / np.linalg.norm(posture, axis=-1, keepdims=True)
    begins = list(rng.uniform(0.0, duration_seconds, rng.poisson(duration_seconds / 30.0)))
    begins += [event.onset_seconds + 0.2 for event in _felt(events) if event.kind == "startle"]
    envelope = np.zeros(len(times))
    for begin in begins:
        length = rng.uniform(1.0, 8.0)
        shape = np.exp(-0.5 * ((times - begin - length / 2) / (length / 4)) ** 2)
        envelope += rng.uniform(4.0, 25.0) * shape
    movement = np.stack([_wander(rng, times, 0.4) for _ in range(3)], -1)
    values += envelope[:, None] * movement + 2.0 * _signature(person, times)[:, None]
    values += rng.normal(0.0, 0.5, values.shape)
    return np.clip(np.round(values), -128, 127).astype(np.int16)


def _times(duration_seconds: float, rate_hz: float) -> np.ndarray:
    return np.arange(round(duration_seconds * rate_hz)) / rate_hz


def _felt(events: Sequence[Event]) -> list[Event]:
    return [event for event in events if event.kind in BODY_KINDS and event.intensity > 0]


def _around_one(person: Person, name: str, deviation: float) -> float:
    """A factor that belongs to this person and trait, 1 on average."""
    draw = generator(person.seed, "body", person.index, name).normal()
    return float(1.0 + deviation * np.clip(draw, -2.0, 2.0))


def _arousal(
    times: np.ndarray, events: Sequence[Event], *, delay: float, rise: float, fall: float
) -> np.ndarray:
    """How aroused the person is, 0 to 1: rises exponentially `delay` after an onset, falls after the end."""
    total = np.zeros(len(times))
    for event in events:
        since = times - event.onset_seconds - delay
        up = -np.expm1(-np.clip(since, 0.0, event.duration_seconds) / rise)
        total += event.intensity * up * np.exp(-np.maximum(since - event.duration_seconds, 0.0) / fall)
    return np.minimum(total, 1.0)


def _wander(rng: np.random.Generator, times: np.ndarray, period_seconds: float) -> np.ndarray:
    """Smooth noise of about unit deviation that changes over `period_seconds`."""
    if not len(times):
        return np.zeros(0)
    place = (times - times[0]) / period_seconds
    knots = rng.normal(size=int(place[-1]) + 2)
    low = place.astype(int)
    ease = 0.5 - 0.5 * np.cos(np.pi * (place - low))
    return 1.15 * (knots[low] * (1.0 - ease) + knots[low + 1] * ease)


def _signature(person: Person, times: np.ndarray) -> np.ndarray:
    """The person's identifying pattern as a sum of slow waves, scaled by its strength; 0 without one."""
    if person.signature == 0.0:
        return np.zeros(len(times))
    waves = np.cos(2 * np.pi * 0.2 * np.arange(1, 9)[:, None] * times)
    return 0.5 * person.signature * person.signature_pattern(8) @ waves


def _add_skin_response(
    values: np.ndarray, rate_hz: float, onset_seconds: float, size: float, rng: np.random.Generator
) -> None:
    """Adds one two-exponential response of this height, in place; rise 0.5 to 0.9 s, decay 2.5 to 5 s."""
    rise, decay = rng.uniform(0.5, 0.9), rng.uniform(2.5, 5.0)
    first = max(math.ceil(onset_seconds * rate_hz), 0)
    last = min(math.ceil((onset_seconds + 8.0 * decay) * rate_hz), len(values))
    if first >= last:
        return
    since = np.arange(first, last) / rate_hz - onset_seconds
    peak = math.log(decay / rise) * rise * decay / (decay - rise)
    height = math.exp(-peak / decay) - math.exp(-peak / rise)
    values[first:last] += size / height * (np.exp(-since / decay) - np.exp(-since / rise))


def _heart(
    person: Person, duration_seconds: float, events: Sequence[Event], rng: np.random.Generator
) -> tuple[np.ndarray, _Breath]:
    """Times of the beats, seconds, from before the start to after the end, and the breath that paces them."""
    grid = np.arange(-3.0, duration_seconds + 3.0, 1.0 / _HEART_GRID_HZ)
    breath = _Breath(rate_hz=rng.uniform(0.2, 0.3), phase=rng.uniform(0.0, 2 * np.pi))
    rate = person.heart_rate_bpm + 2.5 * np.sin(breath(grid))
    rate += 2.0 * np.sin(2 * np.pi * 0.1 * grid + rng.uniform(0.0, 2 * np.pi))
    rate += 3.5 * _wander(rng, grid, 60.0)
    rate += 18.0 * person.reactivity * _arousal(grid, _felt(events), delay=1.0, rise=2.5, fall=8.0)
    phase = rng.random() + np.cumsum(np.clip(rate, 40.0, 180.0)) / (60.0 * _HEART_GRID_HZ)
    beats = np.interp(np.arange(math.ceil(phase[0]), math.floor(phase[-1]) + 1), phase, grid)
    return beats + rng.normal(0.0, 0.004, len(beats)), breath


class _Breath:
    """Phase of the breath, radians, at given times."""

    def __init__(self, rate_hz: float, phase: float) -> None:
        self._rate_hz, self._phase = rate_hz, phase

    def __call__(self, times: np.ndarray) -> np.ndarray:
        return 2 * np.pi * self._rate_hz * times + self._phase
