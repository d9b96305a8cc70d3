"""Kills runs at random moments, starts them again until they are done, and compares them to the byte.

    python tests/faults/kill_and_resume.py --kills=20 --terms=10

Every loader-worker count gets its share of the kills (SIGKILL) and its own uninterrupted run to be compared
with. Every run begins with no compiled programs, is killed while it starts, compiles, trains, saves or
evaluates, and is started again by the same command; its loader workers have to end with it. With SIGTERM,
which goes to the workers as well, it has to leave by itself, with exit code 75, within the limit, having
saved. Exit code 1 on a miss.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import run_of

MOMENTS = ("start", "compile", "step", "save", "evaluation")
_LIMIT_SECONDS = 1800.0  # for one start; a run that takes longer hangs


class Trial:
    """One run that is hit again and again.

    Args:
      workdir: Its folder.
      cache_dir: With the data, and the programs that this run has compiled.
      loader_workers: Worker processes that load batches.
      rng: Draws the moments.
    """

    def __init__(self, workdir: Path, cache_dir: Path, loader_workers: int, rng: random.Random) -> None:
        self.workdir, self.cache_dir, self.loader_workers, self.rng = workdir, cache_dir, loader_workers, rng
        self.left_behind, self.started_at = 0, 0.0

    def hit(self, moment: str, number: int) -> tuple[bool, int, float]:
        """Starts the run and sends a signal at a moment, unless it is done before.

        Returns:
          Whether the signal was sent, the exit code, and the seconds from the signal to the end.
        """
        heard = len(run_of.said(self.workdir))
        process = run_of.start(self.workdir, self.cache_dir, self.loader_workers)
        begin, self.started_at = time.monotonic(), time.time()
        sent, wait = 0.0, self.rng.uniform(0.0, 4.0) if moment == "start" else None
        while process.poll() is None:
            if time.monotonic() - begin > _LIMIT_SECONDS:
                os.killpg(process.pid, signal.SIGKILL)
                raise SystemExit(f"a run did not end within {_LIMIT_SECONDS:.0f} s; see {self.workdir}.out")
            if not sent:
                if wait is None and self._is_at(moment, run_of.said(self.workdir)[heard:]):
                    wait = time.monotonic() - begin + self._delay(moment)
                if wait is not None and time.monotonic() - begin >= wait:
                    self._send(process, number)
                    sent = time.monotonic()
            time.sleep(0.005 if moment == "save" else 0.05)
        seconds = time.monotonic() - sent
        self._sweep(process)
        return bool(sent), process.returncode, seconds

    def _send(self, process: subprocess.Popen, number: int) -> None:
        # A scheduler asks all processes of a job; the kernel, short of memory, kills the one that has most.
        if number == signal.SIGTERM:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)

    def finish(self) -> None:
        """Runs it to its end, unhindered."""
        process = run_of.start(self.workdir, self.cache_dir, self.loader_workers)
        if process.wait(_LIMIT_SECONDS):
            raise SystemExit(f"an undisturbed start failed, see {self.workdir.with_suffix('.out')}")

    def _is_at(self, moment: str, said: str) -> bool:
        if moment == "compile":
            return "steps, " in said
        if moment == "step":
            return "first training step done" in said
        if moment == "save":
            return any(map(self._is_new, self.workdir.glob("checkpoints/*/*orbax-checkpoint-tmp*")))
        return self._is_new(self.workdir / "learning_curves.png")

    def _is_new(self, path: Path) -> bool:
        """Whether a file or folder was made since the last start."""
        try:
            return path.stat().st_mtime > self.started_at
        except FileNotFoundError:
            return False

    def _delay(self, moment: str) -> float:
        longest = {"compile": 3.0, "step": 2.0, "save": 0.02, "evaluation": 1.5}[moment]
        return self.rng.uniform(0.0, longest)

    def _sweep(self, process: subprocess.Popen) -> None:
        """Ends what the killed process has left behind (loader workers), if it does not end by itself."""
        for _ in range(100):
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.1)
        self.left_behind += 1
        os.killpg(process.pid, signal.SIGKILL)


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs in all")
    parser.add_argument("--terms", type=int, default=10, help="SIGTERMs in all")
    parser.add_argument("--workers", default="0,2", help="loader worker counts")
    parser.add_argument("--limit_seconds", type=float, default=30.0, help="from a SIGTERM to the end")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to work; a temporary one if not given"
    )
    arguments = parser.parse_args()
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="kill_and_resume_"))).resolve()
    counts = [int(text) for text in arguments.workers.split(",")]
    misses: list[str] = []
    for number, workers in enumerate(counts):
        rng = random.Random(arguments.seed + number)
        share = [total // len(counts) + (number < total % len(counts)) for total in _totals(arguments)]
        misses += _with_workers(folder, workers, share[0], share[1], arguments.limit_seconds, rng)
    for miss in misses:
        print("MISS:", miss)
    print("missed" if misses else "all held")
    return 1 if misses else 0


def _totals(arguments: argparse.Namespace) -> tuple[int, int]:
    return arguments.kills, arguments.terms


def _with_workers(
    folder: Path, workers: int, kills: int, terms: int, limit_seconds: float, rng: random.Random
) -> list[str]:
    """All kills and terms with one number of loader workers; what was missed."""
    whole = Trial(folder / f"whole_{workers}", folder / "cache", workers, rng)
    begin = time.monotonic()
    whole.finish()
    expected = run_of.left(whole.workdir)
    print(f"{workers} workers: uninterrupted run, {time.monotonic() - begin:.0f} s, {len(expected)} arrays "
          f"and files, {sum(array.nbytes for array in expected.values()):,} bytes", flush=True)  # fmt: skip
    misses: list[str] = []
    for name, number, wanted in (("kill", signal.SIGKILL, kills), ("term", signal.SIGTERM, terms)):
        done, runs, differing, longest, by_moment = 0, 0, 0, 0.0, collections.Counter()
        left_behind = 0
        while done < wanted:
            runs += 1
            workdir = folder / f"{name}_{workers}_{runs}"
            cache = run_of.share_data(folder / "cache", folder / f"cache_{workdir.name}")
            trial = Trial(workdir, cache, workers, rng)
            in_this_run = min(wanted - done, 10)
            for _ in range(in_this_run):
                moment = rng.choice(MOMENTS[1:] if number == signal.SIGTERM else MOMENTS)
                was_sent, code, seconds = trial.hit(moment, number)
                if not was_sent:
                    break
                done += 1
                by_moment[moment] += 1
                print(f"  {name} while: {moment}, exit code {code}, {seconds:.1f} s", flush=True)
                if number == signal.SIGTERM and code != 0:
                    longest = max(longest, seconds)
                    misses += _left_well(trial, code, seconds, limit_seconds)
            if not (workdir / "results.json").exists():
                trial.finish()
            count, places = run_of.differing_bytes(expected, run_of.left(workdir))
            differing += count
            left_behind += trial.left_behind
            if trial.left_behind:
                misses.append(f"{workdir.name}: its loader workers outlived it {trial.left_behind} times")
            if count:
                misses.append(f"{workdir.name}: {count} bytes differ, in {', '.join(places[:5])}")
        at = ", ".join(f"{moment} {count}" for moment, count in by_moment.items())
        slowest = f", slowest end {longest:.1f} s" if number == signal.SIGTERM else ""
        print(
            f"{workers} workers: {done} x {name} ({at}) of {runs} runs: {differing} differing bytes{slowest}"
            f"; {left_behind} times processes were left behind",
            flush=True,
        )
    return misses


def _left_well(trial: Trial, code: int, seconds: float, limit_seconds: float) -> list[str]:
    """What a run that was asked to stop did wrong."""
    found = []
    if code != 75:
        found.append(f"{trial.workdir.name}: exit code {code} after SIGTERM instead of 75")
    if seconds > limit_seconds:
        found.append(f"{trial.workdir.name}: {seconds:.1f} s from SIGTERM to the end, limit {limit_seconds}")
    last = run_of.said(trial.workdir).strip().splitlines()[-1]
    match = re.search(r"stage (\w+) is saved at step (\d+)", last)
    if match and not (trial.workdir / "checkpoints" / match[1] / match[2]).is_dir():
        found.append(f"{trial.workdir.name}: says {last!r}, but there is no such checkpoint")
    return found


if __name__ == "__main__":
    sys.exit(main())
