"""Speed and memory of a preparing worker on clips of BioVid's real size, beside PyAV's bare decode.

Makes a few clips as the release has them (1388x1038, H.264, 25 Hz, 138 frames, a moving face under camera
noise, with their tables of signals), then, in one process on one core, decodes the same files in turn: bare
(every frame decoded and dropped) and as a worker does (decode, crop, shrink to 112, JPEG). Prints one table:
medians over the rounds; the ratio is the median of the ratios of neighbouring runs. Nothing is asserted.

    python benchmarks/prepare.py --clips=3 --rounds=5
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.memory import peak_mib  # noqa: E402
from data_pipelines import command_line, storage  # noqa: E402
from data_pipelines.media import video  # noqa: E402
from data_pipelines.media.video_writing import write_video  # noqa: E402
from data_pipelines.readers.biovid import BioVid  # noqa: E402
from data_pipelines.sample import biovid as sample  # noqa: E402
from data_pipelines.sample.face import face_clip  # noqa: E402
from data_pipelines.sample.people import Person, generator  # noqa: E402

WIDTH, HEIGHT, FRAMES = 1388, 1038, 138
RELEASE_CLIPS = 8700


def make_release(root: Path, clips: int, crf: int) -> None:
    """Writes clips of the release's size, with their signals, in its layout."""
    spec = sample.BioVidSampleSpec(
        subjects=clips, clips_per_class=1, classes=(4,), frames=1, both=1.0, face_only=0.0, body_only=0.0
    )
    sample.write_biovid(root, spec, workers=1)
    for index in range(clips):
        person, plans = sample.plan_subject(spec, index)
        path = root / "video" / sample.subject_name(person) / f"{plans[0].name}.mp4"
        pictures = filmed(person, plans[0], generator(0, "benchmark", index))
        write_video(path, pictures, rate_hz=25, preset="fast", crf=crf)


def filmed(person: Person, plan: sample.ClipPlan, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The person's face before a wide camera with noise of its own in each frame."""
    noise = rng.normal(0.0, 3.0, (HEIGHT + 64, WIDTH + 64, 1)).astype(np.float32)
    left = (WIDTH - HEIGHT) // 2
    sides = ((0, 0), (left, WIDTH - HEIGHT - left), (0, 0))
    for face in face_clip(person, plan.face_events, np.arange(FRAMES) / 25.0, rng, HEIGHT):
        down, right = rng.integers(0, 64, 2)
        picture = np.pad(face, sides, "edge") + noise[down : down + HEIGHT, right : right + WIDTH]
        yield np.clip(picture, 0, 255).astype(np.uint8)


def measure(root: Path, rounds: int) -> dict[str, float]:
    """Runs in a process of its own, so that its peak memory is a worker's."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    reader = BioVid(root)
    _, sources, _ = reader.scan()
    videos = [root / source.files[0] for source in sources if source.stream == "visual"]
    bare, ours, ratios, whole = [], [], [], []
    stored_bytes = 0
    for _ in range(rounds):
        for path in videos:
            start = time.perf_counter()
            frames = video.count_frames(path)
            middle = time.perf_counter()
            chunks = video.read_chunks(path, stream="visual", source="clip", size=112)
            frames_seen = sum(len(chunk) for chunk in chunks)
            end = time.perf_counter()
            bare.append(frames / (middle - start))
            ours.append(frames_seen / (end - middle))
            ratios.append((middle - start) / (end - middle))
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            for source in sources:
                storage.store_source(reader, source, Path(folder))
            whole.append((time.perf_counter() - start) / len(videos))
            stored_bytes = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    return {
        "bare": statistics.median(bare),
        "ours": statistics.median(ours),
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "peak_mib": peak_mib(),
        "raw_bytes": statistics.mean(path.stat().st_size for path in videos),
        "stored_bytes": stored_bytes / len(videos),
        "seconds": statistics.median(whole),
    }


def main() -> None:
    """Makes the clips, measures in a process of its own, prints the table."""
    parser = command_line.Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clips", type=command_line.whole(1), default=3, help="clips to make (default: 3)")
    parser.add_argument(
        "--rounds", type=command_line.whole(1), default=5, help="times that each is decoded both ways (5)"
    )
    parser.add_argument(
        "--crf",
        type=command_line.whole(0, 51),
        default=23,
        help="x264's quality, lower is larger (default: 23)",
    )
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.rounds)))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(f"making {arguments.clips} clips of {WIDTH}x{HEIGHT} ...", file=sys.stderr, flush=True)
        make_release(Path(folder), arguments.clips, arguments.crf)
        command = [sys.executable, __file__, f"--measure={folder}", f"--rounds={arguments.rounds}"]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = json.loads(output)
    hours = found["seconds"] * RELEASE_CLIPS / 3600
    spread = f"{found['ratio_low']:.2f} to {found['ratio_high']:.2f}"
    rows = [
        ("clips, rounds", f"{arguments.clips}, {arguments.rounds}"),
        ("bytes of a clip's video", f"{found['raw_bytes']:,.0f}"),
        ("PyAV bare decode, frames/s", f"{found['bare']:.0f}"),
        ("decode + crop + JPEG, frames/s", f"{found['ours']:.0f}"),
        ("ratio (smallest to largest)", f"{found['ratio']:.2f} ({spread})"),
        ("peak memory of the worker, MiB", f"{found['peak_mib']:.0f}"),
        ("stored bytes a clip, all streams", f"{found['stored_bytes']:,.0f}"),
        ("seconds a clip, all streams", f"{found['seconds']:.2f}"),
        (f"{RELEASE_CLIPS} clips, GB stored", f"{found['stored_bytes'] * RELEASE_CLIPS / 1e9:.1f}"),
        (f"{RELEASE_CLIPS} clips, hours on 2 cores", f"{hours / 2:.2f}"),
        (f"{RELEASE_CLIPS} clips, hours on 64 cores", f"{hours / 64:.3f}"),
    ]
    width = max(len(name) for name, _ in rows)
    print(f"One core, one process; {os.cpu_count()} cores in this machine.")
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    print("Hours are those of the sources' files; their assembly reads and writes these bytes once more.")


if __name__ == "__main__":
    main()
