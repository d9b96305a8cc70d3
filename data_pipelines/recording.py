"""What a recording, a stream, an annotation and a chunk are: the contract of the whole program.

A *recording* is one person in one clip or video. It has *streams*, each with its own clock, and an
*annotation* with a clock of its own. A data set differs from another one only in the *reader* that
finds these things; everything behind the reader handles these classes and nothing else.

All times are float64 seconds since the recording's start; streams of one recording share that origin.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np

MAX_CHUNK_FRAMES = 512
MAX_CHUNK_SECONDS = 10.0

StreamKind = Literal["frames", "samples", "features"]


@dataclasses.dataclass(frozen=True)
class StreamSpec:
    """What one stream is, for all recordings of a data set.

    Attributes:
      name: The stream's name, e.g. ``visual``, ``audio``, ``physio``, ``pulse``.
      kind: ``frames`` (encoded images with timestamps), ``samples`` (a regularly sampled signal with one
        or more channels) or ``features`` (ready-made vectors with timestamps).
      channels: Names of the channels, e.g. ``("gsr", "ecg")``; ``("red", "green", "blue")`` for images.
      units: The unit of each channel, e.g. ``("microsiemens", "millivolt")``.
      rate_hz: The nominal rate; ``None`` where only the timestamps tell.
      height, width: Size of the stored images in pixels; 0 for other kinds.
      dtype: Stored type of the samples, ``float32`` (missing samples are NaN) or ``int16`` (PCM).
    """

    name: str
    kind: StreamKind
    channels: tuple[str, ...]
    units: tuple[str, ...]
    rate_hz: float | None = None
    height: int = 0
    width: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if len(self.channels) != len(self.units):
            raise ValueError(
                f"stream {self.name!r} has {len(self.channels)} channels but {len(self.units)} units"
            )


@dataclasses.dataclass(frozen=True)
class Source:
    """What is decoded once: the raw files behind one stream of one or more recordings.

    Attributes:
      stream: Name of the stream.
      id: Unique among the sources of this stream.
      files: Paths relative to the raw folder, with forward slashes; their content decides the result. A
        folder stands for the files in it.
    """

    stream: str
    id: str
    files: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Annotation:
    """Labels with a clock.

    Attributes:
      names: One name a label column, length A, e.g. ``("valence", "arousal")``.
      times_seconds: float64 [N], ascending; ``None`` for one label of the whole recording (then N = 1).
      values: float32 [N, A].
      mask: bool [N, A]; False where nobody annotated (the value there means nothing).
    """

    names: tuple[str, ...]
    times_seconds: np.ndarray | None
    values: np.ndarray
    mask: np.ndarray


@dataclasses.dataclass(frozen=True)
class Recording:
    """One person in one clip or video.

    Attributes:
      id: Unique in the data set.
      subject: Who it is; splits never put one subject on both sides.
      sources: Stream name to source id. A stream that this recording lacks is not in it.
      annotation: Its labels.
      attributes: Facts kept for reports, e.g. ``{"age": 21, "sex": "w"}``; plain str, int or float.
      group: Name of an official partition (``train``, ``validation``, ``test``), or "".
    """

    id: str
    subject: str
    sources: Mapping[str, str]
    annotation: Annotation
    attributes: Mapping[str, str | int | float] = dataclasses.field(default_factory=dict)
    group: str = ""


@dataclasses.dataclass(frozen=True)
class Chunk:
    """The stored unit: at most 512 frames or 10 s of one source.

    Attributes:
      stream, source, index: Its key; ``index`` counts from 0 within the source, without gaps, in time order.
      times_seconds: float64 [N], one a frame (or feature vector), strictly ascending. For samples: [1],
        the time of the first sample.
      rate_hz: Rate of the samples; 0.0 for frames and features.
      frames: The encoded images (JPEG), length N; empty for other kinds.
      values: [N, C] in the stream's dtype (float32 with NaN = missing, or int16); None for frames.
      left_out: What of the source could not be used and is not in the chunks so far, a sentence each.
    """

    stream: str
    source: str
    index: int
    times_seconds: np.ndarray
    rate_hz: float = 0.0
    frames: tuple[bytes, ...] = ()
    values: np.ndarray | None = None
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.frames) if self.values is None else len(self.values)


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """Something that the raw folder should hold and that no recording, or no stream of one, was made of.

    Attributes:
      id: The recording, subject, file, or stream and source.
      reason: A sentence.
      damaged: True if its files are there but bad, or one that it needs is missing; False for what is simply
        not part of this copy.
    """

    id: str
    reason: str
    damaged: bool


class Reader(Protocol):
    """Knows one raw layout. Picklable: worker processes get a copy.

    Attributes:
      name: Name of the data set, e.g. ``biovid``.
      version: Goes up when the same raw files would give another result.
      root: The raw folder.
    """

    name: str
    version: str
    root: str

    def settings(self) -> Mapping[str, object]:
        """Every option that changes the result, as JSON values; part of the fingerprint."""

    def notes(self) -> Mapping[str, str]:
        """Sentences for the data card, by topic (e.g. ``{"face_crop": "..."}``)."""

    def is_sample(self) -> bool:
        """True if the raw folder was made by this software (it holds a ``SAMPLE.json``)."""

    def streams(self) -> tuple[StreamSpec, ...]:
        """What the streams are."""

    def scan(self) -> tuple[list[Recording], list[Source], list[LeftOut]]:
        """Finds everything without decoding media.

        Returns:
          The recordings in a stable order, their sources (each once, stable order), and what was left out.

        Raises:
          BadDataError: The folder is missing or is not of this layout; the message says what is missing.
        """

    def decode(self, source: Source) -> Iterator[Chunk]:
        """Decodes one source, holding at most a chunk or so in memory.

        Raises:
          BadDataError: The source is damaged (truncated, empty, NaN): a sentence that names the file.
        """


@runtime_checkable
class Remembering(Protocol):
    """A reader whose `Reader.scan` takes long, and less so where it is told what an earlier one found."""

    def recall(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes in what `remembered` gave at another time; what changed since is read again."""

    def remembered(self) -> Mapping[str, np.ndarray]:
        """What is to be kept for the next scan; empty for nothing."""


@runtime_checkable
class Cautious(Protocol):
    """A reader that has something to say that whoever uses the data should look at."""

    def warnings(self) -> Sequence[str]:
        """A sentence each, for the data card and the log."""
