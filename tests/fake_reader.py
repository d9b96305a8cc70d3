"""A tiny data set on disk and its reader, for tests of what comes after readers.

Raw layout: ``camera/<id>.txt`` (a number of frames), ``body/<id>.txt`` (a number of samples), both with a
seed; ``people.txt`` with lines of ``recording subject label camera body``, "-" where a recording lacks a
stream. A file that says "broken" is damaged, one that says "crash" kills the decoding process.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np

from data_pipelines.errors import BadDataError
from data_pipelines.recording import Annotation, Chunk, LeftOut, Recording, Source, StreamSpec

RATE_HZ = 50.0
CHUNK_SAMPLES = 500
CHUNK_FRAMES = 40


@dataclasses.dataclass(frozen=True)
class Fake:
    """The reader.

    Attributes:
      root: The raw folder.
      scale: Multiplies the samples.
      pause_seconds: How long each chunk takes to decode; not a setting.
    """

    root: str
    scale: float = 1.0
    pause_seconds: float = 0.0

    name: ClassVar[str] = "fake"
    version: ClassVar[str] = "1"

    def settings(self) -> Mapping[str, object]:
        return {"scale": self.scale, "order": ("a", "b")}

    def notes(self) -> Mapping[str, str]:
        return {"origin": f"made from {self.root}/people.txt"}

    def is_sample(self) -> bool:
        return (Path(self.root) / "SAMPLE.json").is_file()

    def streams(self) -> tuple[StreamSpec, ...]:
        return (
            StreamSpec("camera", "frames", ("red", "green", "blue"), ("8 bit",) * 3, 25.0, 16, 16),
            StreamSpec("body", "samples", ("gsr", "ecg"), ("microsiemens", "millivolt"), RATE_HZ),
        )

    def scan(self) -> tuple[list[Recording], list[Source], list[LeftOut]]:
        recordings, sources, left_out = [], {}, []
        people = Path(self.root) / "people.txt"
        if not people.is_file():
            raise BadDataError(f"{self.root} has no people.txt")
        for line in people.read_text().splitlines():
            name, subject, label, *ids = line.split()
            if label == "gone":
                left_out.append(LeftOut(name, "is not part of this copy", damaged=False))
                continue
            present = {s: i for s, i in zip(("camera", "body"), ids, strict=True) if i != "-"}
            for stream, source in present.items():
                sources[stream, source] = Source(stream, source, (f"{stream}/{source}.txt",))
            recordings.append(Recording(name, subject, present, annotation(label), {"age": 30}, "train"))
        return recordings, list(sources.values()), left_out

    def decode(self, source: Source) -> Iterator[Chunk]:
        path = Path(self.root) / source.files[0]
        text = path.read_text().split()
        if not text or text[0] == "broken":
            raise BadDataError(f"{path} is cut short; get it again")
        if text[0] == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        count, seed = int(text[0]), int(text[1])
        yield from make_chunks(source.stream, source.id, count, seed, self.scale, self.pause_seconds)
        if len(text) > 2:
            raise BadDataError(f"{path} is cut short after {count}")


def annotation(label: str) -> Annotation:
    """A clip's label, or "a,b,c" for one a second; "?" is not annotated."""
    values = [label] if "," not in label else label.split(",")
    times = None if "," not in label else np.arange(len(values), dtype=np.float64)
    mask = np.array([[v != "?"] for v in values])
    numbers = np.array([[0 if v == "?" else float(v)] for v in values], np.float32)
    return Annotation(("pain",), times, numbers, mask)


def make_chunks(
    stream: str, source: str, count: int, seed: int, scale: float = 1.0, pause_seconds: float = 0.0
) -> Iterator[Chunk]:
    rng = np.random.default_rng(seed)
    size = CHUNK_FRAMES if stream == "camera" else CHUNK_SAMPLES
    for index, begin in enumerate(range(0, count, size)):
        time.sleep(pause_seconds)
        length = min(size, count - begin)
        if stream == "camera":
            times = (np.arange(begin, begin + length) + rng.uniform(0, 0.5, length)) / 25
            yield Chunk(stream, source, index, times, 0.0, make_frames(rng, length))
        else:
            values = (scale * rng.normal(size=(length, 2))).astype(np.float32)
            values[rng.random(values.shape) < 0.1] = np.nan
            yield Chunk(stream, source, index, np.array([begin / RATE_HZ]), RATE_HZ, (), values)


def make_frames(rng: np.random.Generator, length: int) -> tuple[bytes, ...]:
    noise = rng.integers(0, 256, (length, 16, 16, 3), np.uint8)
    return tuple(cv2.imencode(".jpg", frame)[1].tobytes() for frame in noise)


def write_raw(root: Path, people: Sequence[str], **files: str) -> Path:
    """Writes a raw folder; ``camera_x="100 1"`` is the content of ``camera/x.txt``."""
    for folder in ("camera", "body"):
        (root / folder).mkdir(parents=True)
    (root / "people.txt").write_text("\n".join(people) + "\n")
    for name, text in files.items():
        stream, _, source = name.partition("_")
        (root / stream / f"{source}.txt").write_text(text)
    return root
