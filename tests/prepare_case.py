"""Raw folders of a made-up layout, prepared in this process or in one of their own, for several tests."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import fake_reader
import pytest

from data_pipelines import prepare, storage, workers

PEOPLE = tuple(f"r{n} p{n % 4} {n % 2} v{n} b{n // 2}" for n in range(8))
FILES = {f"camera_v{n}": f"{30 + 20 * n} {n}" for n in range(8)} | {
    f"body_b{n}": f"{700 + n} {n}" for n in range(4)
}
SOURCES = 12


PROGRAM = """
import os, signal, sys
from data_pipelines import assemble, prepare, progress, reader_options
reader_options.READERS = {"fake": "fake_reader:Fake"}
def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)
PATCH
sys.exit(prepare.main(sys.argv[1:]))
"""


@pytest.fixture
def raw(tmp_path) -> Path:
    return fake_reader.write_raw(tmp_path / "raw", PEOPLE, **FILES)


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """Decodes in this process (workers take a second to start); lists the sources decoded."""
    names = []

    def decode_here(reader, sources, folder, count, *, should_stop, on_done):
        for source in sources:
            on_done(storage.store_source(reader, source, folder, should_stop))
            names.append(source.id)

    monkeypatch.setattr(workers, "decode_with_processes", decode_here)
    return names


def run(raw: Path, out: Path, log: list[str] | None = None, *, scale: float = 1.0, **options) -> dict:
    said = [] if log is None else log
    reader = fake_reader.Fake(str(raw), scale)
    return prepare.prepare(reader, out, **({"workers": 1, "log": said.append} | options))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def start(raw: Path, out: Path, *arguments: str, patch: str = "") -> subprocess.Popen:
    repository = Path(__file__).resolve().parent.parent
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(repository), str(repository / "tests")]))
    command = [sys.executable, "-c", PROGRAM.replace("PATCH", patch), "--dataset=fake"]
    command += [f"--raw={raw}", f"--out={out}", *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for_sources(process: subprocess.Popen, out: Path, count: int) -> None:
    give_up = time.monotonic() + 60
    while len(list(out.rglob("sources/*/*.npz"))) < count:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < give_up
        time.sleep(0.01)


def children(process: subprocess.Popen) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
