"""What the benchmark of Affwild2 works on: the sample, a video of any length, and our loader of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from data_pipelines import prepare, windows
from data_pipelines.datasets import make_stream_windows
from data_pipelines.grid import Grid
from data_pipelines.items import make_items
from data_pipelines.loader import Loader
from data_pipelines.media import audio, video
from data_pipelines.media.video_writing import write_film
from data_pipelines.readers.affwild2 import Affwild2
from data_pipelines.readers.affwild2_files import CROPS_FOLDER
from data_pipelines.sample.affwild2 import Affwild2SampleSpec, write_affwild2
from data_pipelines.source import BLOCK_CACHE_BYTES, PreparedSet, is_prepared
from data_pipelines.tasks import find_task

SAMPLE = Affwild2SampleSpec(train=3, validation=1, test=0, seconds=45.0)
GRID = Grid("frames", windows.PAPER_TOKENS)
LOG_MEL = {"mels": 64, "fft_samples": 1024, "window_samples": 882, "hop_samples": 441}
STREAMS = {
    "visual": {"frames": windows.PAPER_FRAMES_PER_TOKEN, "reach_frames": windows.PAPER_STEP_FRAMES},
    "audio": {
        "features": "log_mel",
        "window_seconds": audio.PAPER_CLIP_SAMPLES / audio.PAPER_RATE_HZ,
        "reach_frames": windows.PAPER_STEP_FRAMES,
        **LOG_MEL,
    },
}
BATCH = 32
RELEASE_RATE_HZ = 30.0


@dataclasses.dataclass(frozen=True)
class Files:
    """Where the benchmark's files are.

    Attributes:
      folder: Of all of them.
    """

    folder: Path

    @property
    def raw(self) -> Path:
        """The sample in the release's layout."""
        return self.folder / "raw"

    @property
    def prepared(self) -> Path:
        """The sample as `data_pipelines.prepare` makes it."""
        return self.folder / "prepared"

    def make(self, minutes: int = 0) -> None:
        """Makes both where they are not there; with minutes one steady video (`write_long`), no sample."""
        if is_prepared(self.prepared):
            return
        if minutes:
            write_long(self.raw, minutes)
        else:
            write_affwild2(self.raw, SAMPLE)
        prepare.prepare(Affwild2(self.raw), self.prepared, workers=1, log=lambda _: None)


def open_prepared(path: Path) -> PreparedSet:
    """As a run opens it."""
    return PreparedSet.open(path, max_cache_bytes=BLOCK_CACHE_BYTES)


def make_loader(prepared: PreparedSet) -> Loader:
    """Our loader on one thread, with nothing decoded yet."""
    task = find_task("valence_arousal")
    streams = {
        name: make_stream_windows(prepared, name, GRID, options, training=frozenset())
        for name, options in STREAMS.items()
    }
    return Loader(make_items(prepared, task, GRID), streams, num_threads=0)


def write_long(root: Path, minutes: int) -> None:
    """A release of one video that goes on for so long: a few pictures and ten seconds of sound, repeated."""
    rng = np.random.default_rng(0)
    frames, rate = round(minutes * 60 * RELEASE_RATE_HZ), audio.PAPER_RATE_HZ
    coarse = rng.integers(0, 256, (24, 14, 14, 3), np.uint8)
    pictures = coarse.repeat(8, axis=1).repeat(8, axis=2)
    crops_folder, annotations = root / CROPS_FOLDER / "long", root / "VA_Set" / "Train_Set"
    for folder in (crops_folder, annotations):
        folder.mkdir(parents=True)
    encoded = [video.encode_jpeg(picture) for picture in pictures]
    for number in range(frames):
        (crops_folder / f"{number + 1:05d}.jpg").write_bytes(encoded[number % len(encoded)])
    values = np.sin(np.arange(frames)[:, None] / [97, 71]).tolist()
    lines = "".join(f"{valence:.3f},{arousal:.3f}\n" for valence, arousal in values)
    (annotations / "long.txt").write_text(f"valence,arousal\n{lines}")
    small = [picture[:32, :32].copy() for picture in pictures]
    write_film(
        root / "long.mp4",
        (small[number % len(small)] for number in range(frames)),
        np.arange(frames) / RELEASE_RATE_HZ,
        sound=np.tile(rng.uniform(-0.3, 0.3, 10 * rate).astype(np.float32), minutes * 6),
        sound_rate_hz=rate,
    )
