"""A small release of Affwild2 with synthetic people, as it lies on disk and prepared, for several tests."""

from __future__ import annotations

import hashlib
import shutil

import pytest

from data_pipelines.prepare import main
from data_pipelines.readers.affwild2 import Affwild2
from data_pipelines.sample.affwild2 import (
    Affwild2SampleSpec,
    plan_video,
    write_affwild2,
)
from data_pipelines.source import PreparedSet

SPEC = Affwild2SampleSpec(train=4, validation=1, test=1, seconds=2.5, size=32)
PAIR, SILENT, SHORT, LONG, VALIDATION, TEST = (plan_video(SPEC, index) for index in range(6))


@pytest.fixture(scope="session")
def affwild2_release(tmp_path_factory):
    """The release; nobody writes to it."""
    folder = tmp_path_factory.mktemp("affwild2") / "release"
    write_affwild2(folder, SPEC, workers=1)
    return folder


@pytest.fixture(scope="session")
def affwild2_prepared(affwild2_release, tmp_path_factory):
    """It prepared; nobody writes to it."""
    out = tmp_path_factory.mktemp("prepared") / "out"
    options = [f"--raw={affwild2_release}", f"--out={out}", "--size=32", "--workers=1"]
    assert main(["--dataset=affwild2", *options]) == 0
    return PreparedSet.open(out)


@pytest.fixture
def affwild2_root(affwild2_release, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(affwild2_release, tmp_path / "release")


def scan(root, **options):
    """What the reader finds: recordings, sources and what is left out, by their ids."""
    recordings, sources, left_out = Affwild2(root, size=32, **options).scan()
    return (
        {recording.id: recording for recording in recordings},
        {(source.stream, source.id): source for source in sources},
        {entry.id: entry for entry in left_out},
    )


def decode(root, source, **options):
    return list(Affwild2(root, **{"size": 32} | options).decode(source))


def annotation_file(root, plan, track=0):
    (path,) = root.glob(f"VA_Estimation_Challenge/*/{plan.tracks[track].name}.txt")
    return path


def digest(folder):
    """SHA-256 of each file by its path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }
