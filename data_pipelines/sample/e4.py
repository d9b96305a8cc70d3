"""Lays synthetic people out as wristband exports with labels by second, in the layout of Stress-Predict.

``Raw_data/Sxx/{BVP,EDA,TEMP,ACC}.csv`` and ``Processed_data/synthetic_labels.csv``, with what makes the real
files awkward: streams of slightly different length, a first skin conductance sample of 0, electrodes that
lift. Stress shows in the heart of some people and in the skin of others, and both also stir without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from data_pipelines.errors import UsageError
from data_pipelines.sample import body
from data_pipelines.sample.people import Event, Person, generator, make_person

_FIRST_START_UNIX_SECONDS = 1_700_000_000
# The published table starts this long after the recordings; the device measures no heart rate before.
_UNLABELLED_SECONDS = 9


@dataclasses.dataclass(frozen=True)
class E4SampleSpec:
    """What the sample is made of.

    Attributes:
      subjects: Number of persons, at least 1.
      seconds: Length of each recording, at least 60.
      seed: Another seed, other people.
      blocks: Rest and stress blocks in a recording, at least 2; every second one is stress, rounded down.
      mixed_order: Each person gets the blocks in an order of their own, so that the time since the start says
        nothing about the label. False: rest and stress take turns for everybody, as in the real study, and
        time alone predicts the label.
      stirs_per_hour: Responses of heart or skin that no label marks.
      lifts_per_hour: How often the electrodes lift off the skin for some seconds.
      signature: Strength of a pattern that identifies the person in every stream, 0 for none.
    """

    subjects: int = 10
    seconds: float = 1200.0
    seed: int = 0
    blocks: int = 8
    mixed_order: bool = True
    stirs_per_hour: float = 30.0
    lifts_per_hour: float = 2.0
    signature: float = 0.0

    def __post_init__(self) -> None:
        if self.subjects < 1 or self.seconds < 60 or self.blocks < 2:
            raise UsageError(
                f"a wristband sample of {self.subjects} subjects, {self.seconds:g} s and {self.blocks} "
                "blocks cannot be made; expected at least 1 subject, 60 s and 2 blocks"
            )


def write_e4(out: Path, spec: E4SampleSpec, progress: Callable[[int, int], None] | None = None) -> None:
    """Writes the sample.

    Args:
      out: The raw folder; made if need be.
      spec: What to make. The same spec gives the same bytes on every machine.
      progress: Called with (persons written, persons in all).
    """
    table = ["Participant,HR,respr,Time(sec),Label"]
    for index in range(spec.subjects):
        person = make_person(spec.seed, index, spec.signature)
        rng = generator(spec.seed, "e4", "session", index)
        start = _FIRST_START_UNIX_SECONDS + 86_400 * index + int(rng.integers(0, 36_000))
        blocks = _blocks(spec, rng)
        heart, skin = _events(spec, blocks, rng), _events(spec, blocks, rng)
        _write_person(out / "Raw_data" / f"S{index + 2:02d}", person, spec, start, heart, skin)
        for second in range(_UNLABELLED_SECONDS, int(spec.seconds)):
            label = next(label for begin, label in reversed(blocks) if second >= begin)
            # HR and respr come from the device's own analysis, which a sample does not have.
            table.append(f"{index + 2},,,{start + second},{label}")
        if progress is not None:
            progress(index + 1, spec.subjects)
    labels = out / "Processed_data" / "synthetic_labels.csv"
    labels.parent.mkdir(parents=True, exist_ok=True)
    labels.write_text("\n".join(table) + "\n")


def _blocks(spec: E4SampleSpec, rng: np.random.Generator) -> list[tuple[float, int]]:
    """Start, whole seconds, and label (1 = stress) of each block, in time order."""
    labels = np.arange(spec.blocks) % 2
    if spec.mixed_order:
        labels = rng.permutation(labels)
    length = spec.seconds / spec.blocks
    begins = np.round(length * (np.arange(spec.blocks) + 0.2 * rng.uniform(-1.0, 1.0, spec.blocks)))
    begins[0] = 0.0
    return [(float(begin), int(label)) for begin, label in zip(begins, labels, strict=True)]


def _events(spec: E4SampleSpec, blocks: list[tuple[float, int]], rng: np.random.Generator) -> list[Event]:
    """What one system of the body, heart or skin, answers to: the stress blocks, and stirs of its own."""
    ends = [begin for begin, _ in blocks[1:]] + [spec.seconds]
    answer = rng.uniform(0.1, 1.0)
    events = [
        Event(begin, end - begin, float(answer * rng.uniform(0.4, 1.0)), "stress")
        for (begin, label), end in zip(blocks, ends, strict=True)
        if label
    ]
    for onset in rng.uniform(0.0, spec.seconds, rng.poisson(spec.stirs_per_hour * spec.seconds / 3600.0)):
        duration, intensity = rng.uniform(5.0, 60.0), rng.uniform(0.1, 0.6)
        events.append(Event(float(onset), float(duration), float(intensity), "spontaneous"))
    return events


def _write_person(
    folder: Path, person: Person, spec: E4SampleSpec, start: int, heart: list[Event], skin: list[Event]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)

    def named(*names: str) -> np.random.Generator:
        return generator(spec.seed, "e4", *names, person.index)

    def length(stream: str) -> float:
        return spec.seconds + round(float(named("length", stream).uniform(-1.0, 3.0)), 1)

    pulse = body.pulse_wave(person, length("BVP"), 64.0, heart, named("BVP"))
    _write(folder / "BVP.csv", start, 64.0, map("{:.2f}".format, pulse.tolist()))
    conductance = body.skin_conductance(person, length("EDA"), 4.0, skin, named("EDA"))
    _lift_electrodes(conductance, spec, named("lift"))
    _write(folder / "EDA.csv", start, 4.0, map("{:.6f}".format, conductance.tolist()))
    temperature = body.skin_temperature(person, length("TEMP"), 4.0, skin, named("TEMP"))
    _write(folder / "TEMP.csv", start, 4.0, map("{:.2f}".format, temperature.tolist()))
    movement = body.acceleration(person, length("ACC"), 32.0, skin, named("ACC"))
    _write(folder / "ACC.csv", start, 32.0, ("{},{},{}".format(*row) for row in movement.tolist()), axes=3)


def _lift_electrodes(skin: np.ndarray, spec: E4SampleSpec, rng: np.random.Generator) -> None:
    """Puts in what lifted electrodes read, in place: 0, then hardly anything; the first sample is 0."""
    for _ in range(rng.poisson(spec.lifts_per_hour * spec.seconds / 3600.0)):
        first = int(rng.integers(1, len(skin)))
        zeros, low = int(rng.integers(1, 5)), int(rng.integers(2, 40))
        skin[first : first + zeros + low] = rng.uniform(0.01, 0.025, len(skin[first : first + zeros + low]))
        skin[first : first + zeros] = 0.0
    skin[0] = 0.0


def _write(path: Path, start: int, rate_hz: float, lines: Iterable[str], axes: int = 1) -> None:
    header = [", ".join([f"{number:.6f}"] * axes) for number in (start, rate_hz)]
    path.write_text("\n".join([*header, *lines]) + "\n")
