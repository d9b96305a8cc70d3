"""Raw folders with spaces and accents, links, loops, only to be read, in locales that are not UTF-8."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from affwild2_case import digest

from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.prepare import main, make_reader, prepare
from data_pipelines.sample.biovid import BioVidSampleSpec, write_biovid
from data_pipelines.sample.e4 import E4SampleSpec, write_e4
from data_pipelines.source import PreparedSet

OPTIONS = {"biovid": {"size": 16}, "affwild2": {"size": 32}, "e4": {}}


@pytest.fixture(scope="module")
def raw_folders(tmp_path_factory, affwild2_release):
    root = tmp_path_factory.mktemp("raw")
    spec = BioVidSampleSpec(subjects=1, clips_per_class=1, classes=(0, 4), size=32, frames=3)
    write_biovid(root / "biovid", spec, workers=1)
    write_e4(root / "e4", E4SampleSpec(subjects=1, seconds=60.0, blocks=2))
    return {"biovid": root / "biovid", "e4": root / "e4", "affwild2": affwild2_release}


@pytest.fixture(params=sorted(OPTIONS))
def case(request, raw_folders, tmp_path):
    """Name of a layout, and a copy of a raw folder under a name as people give them."""
    return request.param, shutil.copytree(raw_folders[request.param], tmp_path / "Données d'été (1)")


def linked(raw, elsewhere):
    """All files and all folders in the raw folder become links, and one leads back to the beginning."""
    elsewhere.mkdir()
    for number, path in enumerate(sorted(p for p in raw.rglob("*") if p.is_file())):
        target = elsewhere / f"{number}{path.suffix}"
        path.rename(target)
        path.symlink_to(target)
    for folder in sorted(p for p in raw.iterdir() if p.is_dir()):
        folder.rename(elsewhere / folder.name)
        folder.symlink_to(elsewhere / folder.name)
    (raw / "again").symlink_to(raw)


def test_links_and_names_change_nothing(case, tmp_path):
    name, raw = case
    prepare(make_reader(name, raw, **OPTIONS[name]), tmp_path / "plain", workers=1)
    linked(raw, tmp_path / "anderswo ü")
    (tmp_path / "link").symlink_to(raw)
    out = tmp_path / "préparé (2)"
    prepare(make_reader(name, tmp_path / "link", **OPTIONS[name]), out, workers=1)
    plain, found = digest(tmp_path / "plain"), digest(out)
    assert {file for file in plain if plain[file] != found.get(file)} <= {"inputs_modified_ns.npy"}
    assert PreparedSet.open(out).recordings
    # Said to be done already under any of its names.
    lines = []
    prepare(make_reader(name, raw, **OPTIONS[name]), out, workers=1, log=lines.append)
    assert lines and "prepared already" in lines[-1]


@pytest.mark.parametrize("place", ["raw", "out"])
def test_a_link_that_leads_to_itself_is_one_sentence(raw_folders, tmp_path, capsys, place):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    folders = {"raw": raw_folders["biovid"], "out": tmp_path / "out"} | {place: loop}
    code = main(["--dataset=biovid", *(f"--{key}={path}" for key, path in folders.items()), "--workers=1"])
    lines = capsys.readouterr().err.splitlines()
    assert code in (2, 3) and len(lines) == 1 and str(loop) in lines[0]


def test_a_folder_that_cannot_be_written_is_named(raw_folders):
    reader = make_reader("biovid", raw_folders["biovid"])
    with pytest.raises(UsageError, match=r"the folder /proc/nowhere/out cannot be written \(.*name one"):
        prepare(reader, pathlib.Path("/proc/nowhere/out"), workers=1)


def run(arguments, tmp_path, **settings):
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    repository = pathlib.Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "data_pipelines.prepare", *arguments]
    return subprocess.run(
        command, cwd=repository, env=environment, capture_output=True, check=False, timeout=120, **settings
    )


def test_raw_folders_that_are_only_read_in_a_locale_of_ascii(raw_folders, tmp_path):
    raw = shutil.copytree(raw_folders["biovid"], tmp_path / "Mémoire (nur lesen)")
    for path in (*raw.rglob("*"), raw):
        path.chmod(0o555 if path.is_dir() else 0o444)
    out = tmp_path / "vorbereitet für später"
    done = run(["--dataset=biovid", f"--raw={raw}", f"--out={out}", "--size=16", "--workers=2"], tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert "vorbereitet für später: 2 recordings".encode() in done.stderr
    for path in (raw, *raw.rglob("*")):
        path.chmod(0o755)


def test_names_in_another_encoding_are_told(affwild2_root, tmp_path):
    latin = os.fsencode(tmp_path) + b"/m\xe4rz"
    done = run([b"--dataset=biovid", b"--raw=" + latin, b"--out=x"], tmp_path)
    assert done.returncode == 2 and b"is not UTF-8" in done.stderr and b"Traceback" not in done.stderr
    # A file that an annotation needs, and one that nobody needs.
    (annotation,) = affwild2_root.rglob("sample03*.txt")
    name = os.fsencode(annotation.parent) + b"/m\xe4rz.txt"
    shutil.copy(annotation, os.fsdecode(name))
    reader = make_reader("affwild2", affwild2_root, size=32)
    card = prepare(reader, tmp_path / "out", workers=1, max_damaged_share=0.5)
    assert [entry["id"] for entry in card["left_out"] if entry["damaged"]] == ["m\\xe4rz"]
    folder = os.fsencode(affwild2_root) + b"/batch1/m\xe4rz.mp4"
    shutil.copy(next(affwild2_root.rglob("sample03*.mp4")), os.fsdecode(folder))
    reader = make_reader("affwild2", affwild2_root, size=32)
    with pytest.raises(BadDataError, match=r"m\\xe4rz.* is not UTF-8"):
        prepare(reader, tmp_path / "out2", workers=1)
