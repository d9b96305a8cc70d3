"""Affwild2 windows: our loader beside the obvious one, what the real release takes, and peak memory.

``loader``: the built-in sample in the release's layout, in the paper's sizes (16 tokens of 8 crops of 112x112
and one second of sound at 44.1 kHz as 64 x 104 log-mel; the default schedule; nothing augmented). The obvious
loader opens one image a frame and token and one wav file a token (cut out beforehand, as the paper's authors
do) and makes one spectrogram a token, with the very log-mel routine of ours. Both load the same sequences, in
batches of 32, on one core and one thread, in turn; that they give the same bits is checked first. All files
are in the page cache; times are of the processor. ``steady_loader``: the same of a video of
30 frames a second. ``plan``: rates of preparation, and hours and gigabytes of the release at these rates.
``extraction``: an epoch of the paper's fusion on extracted features beside one that
computes the frozen backbones again, and what extracting the release takes (on all cores, some minutes).
``memory``: peak memory of preparing and of loading a video of 1 and one of 30 minutes (some minutes; not run
unless asked for). Every row runs in a process of its own. Nothing is asserted.

    python benchmarks/affwild2.py --rounds=5 --hosts=16
    python benchmarks/affwild2.py --row=memory
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.affwild2_files import (  # noqa: E402
    BATCH,
    LOG_MEL,
    RELEASE_RATE_HZ,
    Files,
    make_loader,
    open_prepared,
    write_long,
)
from benchmarks.memory import peak_mib  # noqa: E402
from benchmarks.shares import Shares  # noqa: E402
from data_pipelines import command_line, frame_windows, prepare, storage, windows  # noqa: E402
from data_pipelines.loader import PADDING, BlockOrder, Loader  # noqa: E402
from data_pipelines.media import audio, spectrogram, video  # noqa: E402
from data_pipelines.readers.affwild2 import Affwild2  # noqa: E402
from data_pipelines.readers.affwild2_files import CROPS_FOLDER  # noqa: E402
from data_pipelines.shared_spectra import SharedSpectra  # noqa: E402
from data_pipelines.source import PreparedSet  # noqa: E402
from data_pipelines.stream_windows import StoredSignal  # noqa: E402

LONG_MINUTES, LONG_BATCHES = (1, 30), 16
# The release (reference facts B1).
RELEASE_FRAMES = 2_990_000

Table = list[tuple[str, str]]


# --- our loader and the obvious one ---


class Obvious:
    """Opens a file for whatever a token needs.

    Args:
      loader: Whose sequences it loads.
      rows: Which of them; their sound is cut out, a file a token.
      files: The raw sample, and where the sound is put.
    """

    def __init__(self, loader: Loader, rows: np.ndarray, files: Files) -> None:
        self._images: dict[int, np.ndarray] = {}
        self._sounds: dict[int, list[Path | None]] = {}
        self._names = loader.items.recordings
        self._recording, self._files, self._items = loader.items.recording, files, loader.items
        for row in rows:
            self._plan(int(row))
        self._cut(loader.streams["audio"])

    def _plan(self, row: int) -> None:
        """Which files a sequence needs: what a list made beforehand would say."""
        recording, targets = self._names[self._recording[row]], self._items.targets[row]
        folder = self._files.raw / CROPS_FOLDER / recording.id
        stored = np.array(sorted(int(path.stem) for path in folder.glob("*.jpg")))
        self._images[row] = windows.paper_token_frames(targets.astype(np.int64) + 1, stored)
        sounds = self._files.folder / "wav" / recording.id
        self._sounds[row] = [None if t == PADDING else sounds / f"{t + 1:05d}.wav" for t in targets]

    def _cut(self, stream: frame_windows.LogMelWindows) -> None:
        for row, paths in self._sounds.items():
            recording, targets = self._names[self._recording[row]], self._items.targets[row]
            waves, heard = stream.waves(recording, targets[targets != PADDING])
            for path, sound, is_heard in zip(filter(None, paths), waves, heard, strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                with wave.open(str(path), "wb") as file:
                    file.setparams((1, 2, audio.PAPER_RATE_HZ, 0, "NONE", ""))
                    file.writeframes(sound.tobytes() if is_heard else b"")

    def load(self, row: int, shares: Shares) -> dict[str, np.ndarray]:
        """One sequence."""
        read_image = shares.timed("images", _read_image)
        read_sound = shares.timed("sound", _read_sound)
        log_mel = shares.timed("log-mel", spectrogram.log_mel)
        folder = self._files.raw / CROPS_FOLDER / self._names[self._recording[row]].id
        frames = self._images[row]
        visual = np.zeros((*frames.shape, 112, 112, 3), np.uint8)
        sound = np.zeros((len(frames), 64, 104), np.float32)
        for token, numbers in enumerate(frames):
            for place, number in enumerate(numbers):
                if number != windows.NO_FRAME:
                    visual[token, place] = read_image(folder / f"{number:05d}.jpg")
            path = self._sounds[row][token]
            if path is not None and len(pcm := read_sound(path)):
                padded = spectrogram.left_pad(pcm, audio.PAPER_CLIP_SAMPLES)
                sound[token] = log_mel(padded, audio.PAPER_RATE_HZ, **LOG_MEL)
        return {"visual": visual, "audio": sound}

    def epoch(self, rows: np.ndarray, shares: Shares) -> Iterator[dict[str, np.ndarray]]:
        """Batches of these sequences."""
        for first in range(0, len(rows), BATCH):
            items = [self.load(int(row), shares) for row in rows[first : first + BATCH]]
            yield {name: np.stack([item[name] for item in items]) for name in items[0]}


def _read_image(path: Path) -> np.ndarray:
    return video.decode_jpeg(path.read_bytes())


def _read_sound(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


def measure_loader(files: Files, arguments: argparse.Namespace) -> Table:
    """Sequences a second of both, and where their time goes: of the sample, whose frame rates vary."""
    return compare(files, arguments)


def measure_steady_loader(files: Files, arguments: argparse.Namespace) -> Table:
    """The same of a video of 30 frames a second, whose windows have spectra in common."""
    steady = Files(files.folder / "steady")
    return compare(steady, arguments, minutes=1)


def compare(files: Files, arguments: argparse.Namespace, minutes: int = 0) -> Table:
    """Both loaders on the same files, in turn."""
    files.make(minutes)
    prepared = open_prepared(files.prepared)
    loader = make_loader(prepared)
    items = loader.items
    with_both = np.array([len(r.sources) == 2 for r in items.recordings])[items.recording]
    blocks = np.unique(items.block[with_both])[: arguments.blocks]
    rows = np.flatnonzero(with_both & np.isin(items.block, blocks))
    rows = BlockOrder(rows, items.block[rows], seed=0, mixed_blocks=loader.mixed_blocks).epoch(0)
    obvious = Obvious(loader, rows, files)
    for row in rows[:: max(1, len(rows) // 8)]:
        ours, theirs = loader.load_item(int(row))["inputs"], obvious.load(int(row), Shares())
        if any(not np.array_equal(ours[name], theirs[name]) for name in ours):
            raise SystemExit(f"the loaders differ in sequence {row}: this benchmark compares nothing")
    rates: dict[str, list[float]] = {"ours": [], "obvious": []}
    shares = {"ours": Shares(), "obvious": Shares()}
    for _ in range(arguments.rounds):
        prepared = open_prepared(files.prepared)
        for stream in prepared.streams:
            prepared.read(stream, [0])  # opens its files
        loader = make_loader(prepared)
        with shares["ours"].watching(
            ("images", frame_windows, "decode_picture"),
            ("sound", StoredSignal, "gather_trailing"),
            ("chunks", PreparedSet, "read"),
            ("log-mel", SharedSpectra, "power"),
            ("log-mel", spectrogram.MelPower, "__call__"),
            ("log-mel", spectrogram, "normalise"),
        ):
            start = time.process_time()
            for _ in loader.evaluate(rows, global_batch_size=BATCH):
                pass
            rates["ours"].append(len(rows) / (time.process_time() - start))
        start = time.process_time()
        for _ in obvious.epoch(rows, shares["obvious"]):
            pass
        rates["obvious"].append(len(rows) / (time.process_time() - start))
    ratios = [a / b for a, b in zip(rates["ours"], rates["obvious"], strict=True)]
    table = [("sequences, blocks, rounds", f"{len(rows)}, {len(blocks)}, {arguments.rounds}")]
    for name, label in (("ours", "our loader"), ("obvious", "the obvious one")):
        whole = sum(len(rows) / rate for rate in rates[name])
        table.append((f"{label}, sequences/s", f"{statistics.median(rates[name]):.1f}"))
        table.append((f"{label}, ms a sequence", f"{1000 / statistics.median(rates[name]):.1f}"))
        table.append((f"{label}, shares", shares[name].describe(whole)))
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    return [
        *table,
        ("ratio (smallest to largest), goal >= 1.8", f"{statistics.median(ratios):.2f} ({spread})"),
    ]


# --- what the release takes ---


@dataclasses.dataclass(frozen=True)
class Rate:
    """What a step takes for each frame of the release, its second of sound and all.

    Attributes:
      seconds: Of one core.
      bytes: That are kept.
      spreads: False if one process does it alone, however many hosts there are.
    """

    seconds: float
    bytes: float
    spreads: bool = True


def measure_preparation(files: Files) -> dict[str, Rate]:
    """Rates of the preparation's steps."""
    reader = Affwild2(files.raw)
    start = time.perf_counter()
    recordings, sources, _ = reader.scan()
    scan_seconds = time.perf_counter() - start
    frames = sum(recording.attributes["video_frames"] for recording in recordings)
    crops = sum(recording.attributes["crops"] for recording in recordings)
    seconds, stored = {"visual": 0.0, "audio": 0.0}, {"visual": 0, "audio": 0}
    with tempfile.TemporaryDirectory(dir=files.folder) as folder:
        for source in sources:
            start = time.perf_counter()
            storage.store_source(reader, source, Path(folder))
            seconds[source.stream] += time.perf_counter() - start
        for stream in stored:
            stored[stream] = sum(p.stat().st_size for p in Path(folder, stream).rglob("*") if p.is_file())
    assembling = Shares(time.perf_counter)
    with (
        tempfile.TemporaryDirectory(dir=files.folder) as folder,
        assembling.watching(("assemble", prepare, "assemble")),
    ):
        prepare.prepare(reader, Path(folder), workers=1, log=lambda _: None)
    heard = open_prepared(files.prepared).table("audio").length.sum() / audio.PAPER_RATE_HZ
    a_frame = 1 / RELEASE_RATE_HZ / heard
    return {
        "scanning": Rate(scan_seconds / frames, 0, spreads=False),
        "crops": Rate(seconds["visual"] / crops, stored["visual"] / crops),
        "sound": Rate(seconds["audio"] * a_frame, stored["audio"] * a_frame),
        "assembling": Rate(
            assembling.seconds["assemble"]
            / sum(stored.values())
            * (stored["visual"] / crops + stored["audio"] * a_frame),
            0,
            spreads=False,
        ),
    }


def plan(files: Files, arguments: argparse.Namespace) -> Table:
    """Hours and gigabytes of the release, step by step, on this machine and on all hosts."""
    files.make()
    cores = os.cpu_count() or 1
    steps = {"prepare": measure_preparation(files)}
    table = [("frames of the release", f"{RELEASE_FRAMES:,}")]
    for step, rates in steps.items():
        for name, rate in rates.items():
            table.append((f"{step}: {name}, frames/s of a core", f"{1 / rate.seconds:,.0f}"))
        size = sum(rate.bytes for rate in rates.values()) * RELEASE_FRAMES / 1e9
        table.append((f"{step}: GB kept", f"{size:.1f}"))
        for hosts in dict.fromkeys((1, arguments.hosts)):
            seconds = sum(rate.seconds / (hosts * cores if rate.spreads else 1) for rate in rates.values())
            where = "this machine" if hosts == 1 else f"{hosts} hosts like this one"
            table.append((f"{step}: hours on {where}", f"{seconds * RELEASE_FRAMES / 3600:.2f}"))
    return table


def measure_extraction(files: Files, arguments: argparse.Namespace) -> Table:
    """An epoch on extracted features beside one without, and the release's hours."""
    from benchmarks import extract  # here, so that the other rows' memory holds no JAX

    return extract.extraction_table(files.folder, RELEASE_FRAMES, arguments.hosts)


# --- memory ---


def prepare_long(files: Files, arguments: argparse.Namespace) -> Table:
    """Peak memory of preparing what was written: of the program, and of its decoding process."""
    prepare.prepare(Affwild2(files.raw), files.prepared, workers=1, log=lambda _: None)
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
    return [("program", f"{peak_mib():.0f}"), ("worker", f"{worker:.0f}")]


def load_long(files: Files, arguments: argparse.Namespace) -> Table:
    """Peak memory of loading training batches."""
    loader = make_loader(open_prepared(files.prepared))
    batches = loader.train(np.arange(len(loader.items)), global_batch_size=BATCH, seed=0)
    for _ in range(LONG_BATCHES):
        next(batches)
    return [("loader", f"{peak_mib():.0f}")]


def measure_memory(files: Files, arguments: argparse.Namespace) -> Table:
    """MiB at 1 and 30 minutes."""
    found: dict[str, list[float]] = {}
    for minutes in LONG_MINUTES:
        long = Files(files.folder / f"{minutes}_minutes")
        write_long(long.raw, minutes)
        for row in ("prepare_long", "load_long"):
            output = run_row(row, long, arguments, capture=True)
            for line in output.strip().splitlines()[1:]:
                name, value = line.split()
                found.setdefault(name, []).append(float(value))
    few, many = LONG_MINUTES
    return [
        (f"{name}, MiB at {few} and {many} minutes", f"{a:.0f}, {b:.0f} ({b / a - 1:+.0%})")
        for name, (a, b) in found.items()
    ]


ROWS: dict[str, Callable[[Files, argparse.Namespace], Table]] = {
    "loader": measure_loader,
    "steady_loader": measure_steady_loader,
    "plan": plan,
    "extraction": measure_extraction,
    "memory": measure_memory,
}
"""What can be asked for; `DEFAULT_ROWS` are run where nothing is."""
DEFAULT_ROWS = ("loader", "steady_loader", "plan", "extraction")
PARTS = {"prepare_long": prepare_long, "load_long": load_long}


def run_row(row: str, files: Files, arguments: argparse.Namespace, *, capture: bool = False) -> str:
    """Runs a row in a process of its own."""
    options = [f"--rounds={arguments.rounds}", f"--blocks={arguments.blocks}", f"--hosts={arguments.hosts}"]
    command = [sys.executable, __file__, f"--row={row}", f"--files={files.folder}", *options]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE if capture else None, text=True)
    return found.stdout or ""


def main() -> None:
    """Runs each row in a process of its own, which makes its files where they are not there."""
    parser = command_line.Parser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--row", help=f"only this one: {', '.join(ROWS)} (default: {', '.join(DEFAULT_ROWS)})"
    )
    parser.add_argument(
        "--rounds", type=command_line.whole(1), default=5, help="times that both loaders run (default: 5)"
    )
    parser.add_argument(
        "--blocks", type=command_line.whole(1), default=3, help="blocks of 512 frames that they load (3)"
    )
    parser.add_argument(
        "--hosts", type=command_line.whole(1), default=16, help="hosts to plan for beside this one (16)"
    )
    parser.add_argument("--files", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row not in (None, *ROWS, *PARTS):
        parser.error(f"--row={arguments.row} is unknown; it is one of {', '.join(ROWS)}")
    if arguments.files:
        if hasattr(os, "sched_setaffinity") and arguments.row != "extraction":
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        table = (ROWS | PARTS)[arguments.row](Files(arguments.files), arguments)
        width = max(len(name) for name, _ in table)
        print(f"{arguments.row} ({len(os.sched_getaffinity(0))} of {os.cpu_count()} cores)")
        print("".join(f"{name:<{width}}  {value}\n" for name, value in table), flush=True)
        return
    rows = (arguments.row,) if arguments.row else DEFAULT_ROWS
    with tempfile.TemporaryDirectory() as folder:
        files = Files(Path(folder))
        for row in rows:
            run_row(row, files, arguments)


if __name__ == "__main__":
    main()
