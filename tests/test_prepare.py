"""The preparation goes on where it was, gives the same bytes, and leaves out what is damaged."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import fake_reader
import numpy as np
import pytest

from data_pipelines import assemble, builder, prepare, progress, reader_options, storage, workers
from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.recording import Chunk, LeftOut, Source
from data_pipelines.source import PreparedSet, is_prepared

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


def test_killed_at_any_moment_gives_the_same_bytes(raw, tmp_path, decoded):
    run(raw, tmp_path / "whole")
    out = tmp_path / "out"
    process = start(raw, out, "--workers=2", "--pause_seconds=0.2")
    wait_for_sources(process, out, 3)
    orphans = children(process) if Path("/proc/self/task").exists() else []
    process.kill()
    process.communicate()
    give_up = time.monotonic() + 30
    while any(map(is_running, orphans)):
        assert time.monotonic() < give_up, "workers outlive their killed parent"
        time.sleep(0.01)
    reader = fake_reader.Fake(str(raw))
    _, sources, _ = reader.scan()
    finished = storage.find_finished(reader, sources, out / "sources")
    assert 3 <= len(finished) < SOURCES
    (out / "index.npz.0.partial").write_bytes(b"half")  # killed while it was written
    # What was not finished is decoded here, so that the programs to be killed need not start workers.
    for source in sources:
        if (source.stream, source.id) not in finished:
            storage.store_source(reader, source, out / "sources")
    for patch in (
        "progress.Progress.advance = lambda self: self._label != 'writing body' or die()",
        "assemble.write_recordings = die",
        "assemble.data_card.to_markdown = die",
        "prepare._remove_scaffolding = die",
    ):
        assert not is_prepared(out)
        process = start(raw, out, "--workers=1", patch=patch)
        _, said = process.communicate()
        assert process.returncode == -signal.SIGKILL, said
        assert f"{SOURCES} of {SOURCES} sources are decoded already" in said
    assert is_prepared(out)
    assert (out / "UNFINISHED").exists()
    said = []
    run(raw, out, said)
    assert "prepared already" in said[-1]
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_in_good_order(raw, tmp_path, decoded, number):
    out = tmp_path / "out"
    process = start(raw, out, "--workers=1", "--pause_seconds=0.2")
    wait_for_sources(process, out, 2)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert "run the same command again" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert not list(out.rglob("*.partial"))
    done = len(list(out.rglob("sources/*/*.npz")))
    assert 2 <= done < SOURCES
    run(raw, out)
    assert len(decoded) == SOURCES - done


def test_stopping_while_the_chunks_are_written(raw, tmp_path, decoded, monkeypatch):
    out = tmp_path / "out"
    advance = progress.Progress.advance

    def interrupt(self, amount=1):
        advance(self, amount)
        if self._label == "writing camera":
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(progress.Progress, "advance", interrupt)
        with pytest.raises(prepare.Interrupted, match="run the same command again") as stopped:
            run(raw, out)
    assert stopped.value.exit_code == 75
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    run(raw, out)
    run(raw, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_a_dying_worker_names_what_it_was_decoding(raw, tmp_path):
    (raw / "camera" / "v7.txt").write_text("crash")
    out = tmp_path / "out"
    with pytest.raises(BadDataError, match="ended abruptly.*camera v7.*--workers") as died:
        run(raw, out, workers=1)
    assert str(raw) not in str(died.value)
    assert len(list(out.rglob("sources/*/*.npz"))) >= SOURCES - 3
    assert not list(out.rglob("*.partial"))
    (raw / "camera" / "v7.txt").write_text(FILES["camera_v7"])
    assert run(raw, out, workers=1)["counts"]["recordings"] == 8


def test_again_says_so_and_changes_nothing(raw, tmp_path, decoded):
    out, said = tmp_path / "out", []
    card = run(raw, out)
    before = contents(out)
    assert run(raw, out, said) == card
    assert said == [f"{out} is prepared already, from the same files with the same settings: nothing to do"]
    os.utime(raw / "camera" / "v1.txt", (1, 1))
    assert run(raw, out, said) == card
    changed = {name for name, content in contents(out).items() if content != before[name]}
    assert changed == {"inputs_modified_ns.npy"}
    assert len(decoded) == SOURCES


def test_a_finished_folder_of_something_else_is_refused(raw, tmp_path, decoded):
    out = tmp_path / "out"
    run(raw, out)
    with pytest.raises(UsageError, match="scale was 1.0, now 2.0; choose another --out, or delete"):
        run(raw, out, scale=2.0)
    (raw / "body" / "b1.txt").write_text("702 1")
    with pytest.raises(UsageError, match=r"other files: body/b1\.txt changed"):
        run(raw, out)
    (raw / "body" / "b1.txt").write_text(FILES["body_b1"])
    people = raw / "people.txt"
    people.write_text(people.read_text().replace("r0 p0 0", "r0 p0 1"))
    with pytest.raises(UsageError, match="other recordings or labels"):
        run(raw, out)


def test_only_what_changed_is_decoded_again(raw, tmp_path, decoded):
    out = tmp_path / "out"
    (raw / "camera" / "v0.txt").write_text("broken")
    with pytest.raises(BadDataError, match="1 of 8"):
        run(raw, out)
    with pytest.raises(BadDataError, match="1 of 8"):
        run(raw, out)
    assert len(decoded) == SOURCES
    (raw / "camera" / "v0.txt").write_text(FILES["camera_v0"])
    run(raw, out)
    assert decoded[SOURCES:] == ["v0"]
    run(raw, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_other_settings_in_an_unfinished_folder_decode_again(raw, tmp_path, decoded):
    out = tmp_path / "out"
    (raw / "camera" / "v0.txt").write_text("broken")
    with pytest.raises(BadDataError):
        run(raw, out)
    run(raw, out, scale=3.0, max_damaged_share=0.5)
    run(raw, tmp_path / "whole", scale=3.0, max_damaged_share=0.5)
    assert contents(out) == contents(tmp_path / "whole")


def test_damaged_recordings_are_left_out_and_listed(raw, tmp_path, decoded):
    (raw / "body" / "b1.txt").write_text("900 1 then broken")
    (raw / "camera" / "v7.txt").unlink()
    with (raw / "people.txt").open("a") as people:
        people.write("r8 p0 gone - -\n")
    out = tmp_path / "out"
    with pytest.raises(BadDataError) as refused:
        run(raw, out)
    sentence = str(refused.value)
    assert "3 of 8 recordings are damaged or lack a file, more than the 5.0% allowed" in sentence
    assert "r2: body: body/b1.txt is cut short after 900" in sentence
    assert "--max_damaged=0.38" in sentence
    card = run(raw, out, max_damaged_share=0.38)
    assert len(decoded) == SOURCES
    assert card["counts"] == {
        "recordings": 5,
        "subjects": 3,
        "groups": {"train": 5},
        "left_out": 4,
        "damaged": 3,
    }
    assert card["left_out"] == [
        {"id": "r8", "reason": "is not part of this copy", "damaged": False},
        {"id": "r2", "reason": "body: body/b1.txt is cut short after 900", "damaged": True},
        {"id": "r3", "reason": "body: body/b1.txt is cut short after 900", "damaged": True},
        {"id": "r7", "reason": "camera: there is no file camera/v7.txt", "damaged": True},
    ]
    found = PreparedSet.open(out)
    assert [r.id for r in found.recordings] == ["r0", "r1", "r4", "r5", "r6"]
    # Nor is what only they used stored.
    assert found.table("body").source_ids == ("b0", "b2", "b3")
    assert found.table("camera").source_ids == ("v0", "v1", "v4", "v5", "v6")


def test_nothing_sound_is_an_error_whatever_is_allowed(raw, tmp_path, decoded):
    for path in (raw / "body").iterdir():
        path.write_text("broken")
    with pytest.raises(BadDataError, match="all 8 recordings are damaged"):
        run(raw, tmp_path / "out", max_damaged_share=1.0)


def test_what_the_scan_found_damaged_counts(raw, tmp_path, decoded, monkeypatch):
    scan = fake_reader.Fake.scan

    def scan_with_damage(self):
        recordings, sources, left_out = scan(self)
        return recordings, sources, [*left_out, LeftOut("r9", f"{self.root}/r9 is empty", damaged=True)]

    monkeypatch.setattr(fake_reader.Fake, "scan", scan_with_damage)
    with pytest.raises(BadDataError, match="1 of 9"):
        run(raw, tmp_path / "out")
    card = run(raw, tmp_path / "out", max_damaged_share=0.2)
    assert card["left_out"][-1]["reason"] == "r9 is empty"


def test_the_card_tells_what_is_in(raw, tmp_path, decoded):
    (raw / "SAMPLE.json").write_text("{}")
    people = raw / "people.txt"
    people.write_text(people.read_text().replace("v3 b1", "- b1").replace("p0 0", "p0 0,?,1"))
    out = tmp_path / "out"
    card = run(raw, out)
    assert card["sample"] is True
    assert "say nothing about" in card["warning"]
    assert card["counts"]["subjects"] == 4
    assert card["labels"]["pain"] == {"annotated": 10, "not_annotated": 2, "values": {"0": 4, "1": 6}}
    camera, body = card["streams"]["camera"], card["streams"]["body"]
    assert (camera["recordings"], camera["sources"]) == (7, 7)
    assert camera["frames"] == sum(30 + 20 * n for n in range(8)) - 90
    assert (body["recordings"], body["sources"], body["chunks"]) == (8, 4, 8)
    assert body["samples"] == 2806
    assert body["hours"] == pytest.approx(2806 / fake_reader.RATE_HZ / 3600, abs=1e-4)
    assert body["units"] == ["microsiemens", "millivolt"]
    assert camera["bytes"] == sum(
        p.stat().st_size for p in (out / "chunks" / "camera").rglob("*.*record*")
    ) + sum(p.stat().st_size for p in (out / "chunks" / "camera").rglob("*.json"))
    assert card["fingerprints"]["settings"] == {"scale": 1.0, "order": ["a", "b"]}
    assert card["fingerprints"]["input_files"] == 11
    assert card["versions"]["numpy"] == np.__version__
    assert not (out / "sources").exists()
    assert not (out / "UNFINISHED").exists()
    text = (out / "data_card.md").read_text()
    assert "**Warning:**" in text
    assert "8 recordings of 4 subjects" in text
    for name, content in contents(out).items():
        assert str(tmp_path).encode() not in content, name


def test_the_result_does_not_depend_on_the_place(raw, tmp_path, decoded):
    run(raw, tmp_path / "one")
    moved = tmp_path / "elsewhere" / "raw"
    shutil.copytree(raw, moved)
    run(moved, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_stream_that_nobody_has_is_left_out(raw, tmp_path, decoded):
    (raw / "people.txt").write_text("r1 anna 0 - b1\n")
    card = run(raw, tmp_path / "out")
    assert list(card["streams"]) == ["body"]
    assert "no recording has the stream camera" in card["notes"]["without_camera"]
    assert list(PreparedSet.open(tmp_path / "out").streams) == ["body"]


def test_many_files_a_stream(raw, tmp_path, decoded, monkeypatch):
    run(raw, tmp_path / "one")
    monkeypatch.setattr(builder, "SHARD_BYTES", 20_000)
    run(raw, tmp_path / "many")
    assert len(list((tmp_path / "many" / "chunks" / "camera" / "1.0.0").glob("*array_record*"))) > 2
    one, many = PreparedSet.open(tmp_path / "one"), PreparedSet.open(tmp_path / "many")
    rows = np.random.default_rng(0).permutation(len(one.table("camera")))
    for found, expected in zip(many.read("camera", rows), one.read("camera", rows), strict=True):
        assert found.frames == expected.frames


def test_folders_that_cannot_be(raw, tmp_path, decoded):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(UsageError, match="did not write"):
        run(raw, tmp_path / "mine")
    with pytest.raises(UsageError, match="is a file"):
        run(raw, tmp_path / "mine" / "thesis.txt")
    with pytest.raises(UsageError, match="lies in the raw folder"):
        run(raw, raw / "out")
    with pytest.raises(UsageError, match="--workers=0"):
        run(raw, tmp_path / "out", workers=0)
    with pytest.raises(UsageError, match="--max_damaged=5"):
        run(raw, tmp_path / "out", max_damaged_share=5)
    with pytest.raises(BadDataError, match="has no people.txt"):
        run(tmp_path / "mine", tmp_path / "out")
    (raw / "people.txt").write_text("r1 anna gone - -\n")
    with pytest.raises(BadDataError, match="no recording.*r1: is not part of this copy"):
        run(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_a_sentence(raw, tmp_path, decoded, monkeypatch):
    def refuse(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(assemble, "write_recordings", refuse)
        with pytest.raises(UsageError, match="No space left.*run the same command again"):
            run(raw, tmp_path / "out")
    run(raw, tmp_path / "out")


def test_a_second_process_waits_and_finds_it_prepared(raw, tmp_path, decoded, monkeypatch):
    out, waits = tmp_path / "out", threading.Event()

    class Listener(list):
        def append(self, sentence):
            super().append(sentence)
            if "waiting" in sentence:
                waits.set()

    said = Listener()
    other = threading.Thread(target=run, args=(raw, out, said))
    write = assemble.write_recordings

    def write_when_somebody_waits(*arguments):
        other.start()
        assert waits.wait(30)
        write(*arguments)

    monkeypatch.setattr(assemble, "write_recordings", write_when_somebody_waits)
    run(raw, out)
    other.join()
    assert "prepared already" in said[-1]
    assert len(decoded) == SOURCES


BODY = Source("body", "b", ("body/b.txt",))
_, BODY_SPEC = fake_reader.Fake("").streams()


def chunk(index=0, start=0.0, values=None, **changes) -> Chunk:
    values = np.zeros((500, 2), np.float32) if values is None else values
    return dataclasses.replace(Chunk("body", "b", index, np.array([start]), 50.0, (), values), **changes)


@pytest.mark.parametrize(
    ("chunks", "problem"),
    [
        ([], "nothing could be decoded"),
        ([chunk(index=1)], "its key is"),
        ([chunk(source="c")], "its key is"),
        ([chunk(), chunk(1, 9.9)], "not after 10.0"),
        ([chunk(), chunk(1, 10.0, rate_hz=60.0)], "the first chunk's 50.0 Hz"),
        ([chunk(values=np.zeros((0, 2), np.float32))], "is empty"),
        ([chunk(values=np.zeros((501, 2), np.float32))], "more than 10.0 s"),
        ([chunk(values=np.zeros((5, 2)))], "float64"),
        ([chunk(values=np.zeros((5, 3), np.float32))], r"not float32 \(N, 2\)"),
        ([chunk(values=np.full((5, 2), np.inf, np.float32))], "infinite"),
        ([chunk(start=np.nan)], "not finite"),
        ([chunk(rate_hz=0.0)], "does not fit samples"),
    ],
)
def test_chunks_against_the_contract_are_damage(chunks, problem):
    with pytest.raises(BadDataError, match=rf"body/b\.txt.*{problem}"):
        list(storage.checked_chunks(BODY_SPEC, BODY, chunks))


def test_chunks_may_leave_gaps_and_touch():
    chunks = [chunk(), chunk(1, 10.0 - 1e-9), chunk(2, 40.0)]
    assert list(storage.checked_chunks(BODY_SPEC, BODY, chunks)) == chunks


def test_source_files_have_safe_and_distinct_names():
    ids = ["a/b", "a_b", "A_b", "../a", ".a", "x" * 300, "x" * 301, "ä", "ö", ""]
    paths = [storage.source_path(Path("f"), "s", name) for name in ids]
    assert len({str(path).lower() for path in paths}) == len(ids)
    assert all(path.parent == Path("f/s") and len(path.name) < 120 for path in paths)


def test_a_cut_source_file_is_not_taken_for_finished(raw, tmp_path):
    reader = fake_reader.Fake(str(raw))
    _, sources, _ = reader.scan()
    storage.store_source(reader, sources[0], tmp_path)
    path = storage.source_path(tmp_path, sources[0].stream, sources[0].id)
    assert len(storage.find_finished(reader, sources, tmp_path)) == 1
    path.write_bytes(path.read_bytes()[:-20])
    assert storage.find_finished(reader, sources, tmp_path) == {}


def test_an_unknown_beam_or_none_is_a_sentence(raw, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UsageError, match=r"pip install 'jmt-jax\[beam\]'"):
        run(raw, tmp_path / "out", beam_runner="DirectRunner")


def test_beam_gives_the_same_bytes(raw, tmp_path, decoded):
    pytest.importorskip("apache_beam", reason="apache-beam is not installed")
    (raw / "camera" / "v0.txt").write_text("broken")
    run(raw, tmp_path / "whole", max_damaged_share=0.2)
    arguments = ("--direct_num_workers=1",)
    options = {"beam_runner": "DirectRunner", "beam_args": arguments, "max_damaged_share": 0.2}
    run(raw, tmp_path / "out", **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    with pytest.raises(UsageError, match="NoSuchRunner"):
        run(raw, tmp_path / "other", beam_runner="NoSuchRunner")


def test_nobody_is_asked_about_a_data_set_of_our_own(raw, tmp_path, decoded, monkeypatch):
    from tensorflow_datasets.core.utils import gcs_utils

    def asked(name):
        raise AssertionError(f"Google was asked about {name}")

    monkeypatch.setattr(gcs_utils, "gcs_dataset_info_files", asked)
    run(raw, tmp_path / "out")


@pytest.fixture
def fake_on_the_command_line(monkeypatch):
    monkeypatch.setattr(reader_options, "READERS", {"fake": "fake_reader:Fake"})


def test_command_line(raw, tmp_path, decoded, fake_on_the_command_line, capsys):
    command = ["--dataset=fake", f"--raw={raw}", f"--out={tmp_path / 'out'}"]
    assert prepare.main([*command, "--workers=1", "--scale=2"]) == 0
    card = json.loads((tmp_path / "out" / "data_card.json").read_text())
    assert card["fingerprints"]["settings"]["scale"] == 2.0
    assert "8 recordings of 4 subjects" in capsys.readouterr().err
    assert prepare.main(command) == 2
    assert "scale was 2.0" in capsys.readouterr().err
    assert prepare.main(["--dataset=fake", f"--raw={tmp_path / 'no'}", f"--out={tmp_path / 'x'}"]) == 3
    assert "has no people.txt" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--dataset=nothing"], ["--dataset=fake", "--out=x"]])
def test_command_line_says_what_is_missing(arguments, fake_on_the_command_line, capsys):
    with pytest.raises(SystemExit) as stopped:
        prepare.main(arguments)
    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_help_lists_every_readers_options(capsys):
    with pytest.raises(SystemExit) as stopped:
        prepare.main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for option in (
        "--biosignals",
        "--channels",
        "--size",
        "--crop",
        "--classes",
        "--labels",
        "--beam_runner",
    ):
        assert option in text
    assert "75 interrupted" in " ".join(text.split())


def test_reader_options_are_read_by_their_types(tmp_path):
    parser = prepare.make_parser()
    given = parser.parse_args(
        ["--dataset=biovid", "--raw=x", "--out=y", "--size=64", "--classes=0,4", "--channels=gsr, ecg"]
    )
    assert reader_options.chosen(given) == {"size": 64, "classes": (0, 4), "channels": ("gsr", "ecg")}
    assert prepare.make_reader("biovid", tmp_path, **reader_options.chosen(given)).size == 64


def test_unknown_reader_or_option_names_the_nearest(tmp_path):
    with pytest.raises(UsageError, match="it is one of affwild2, biovid, e4"):
        prepare.make_reader("bivid", tmp_path)
    with pytest.raises(UsageError, match="did you mean biosignals"):
        prepare.make_reader("biovid", tmp_path, biosignal="raw")


def test_progress_writes_few_plain_lines_to_a_log(monkeypatch):
    clock = iter(np.arange(0, 1000, 1.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    log = io.StringIO()
    with progress.Progress(60, "decoding", "sources", done=10, file=log) as shown:
        for _ in range(50):
            shown.advance()
    lines = log.getvalue().splitlines()
    assert 3 <= len(lines) <= 7
    assert lines[0].startswith("decoding: 20/60 sources, 0.")
    assert lines[0].endswith(" left")
    assert lines[-1].startswith("decoding: 60/60 sources")
    assert "\r" not in log.getvalue()


def test_progress_is_a_bar_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    with progress.Progress(3, "decoding", "sources", file=terminal) as shown:
        shown.advance(3)
    assert "100%" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (18420, "5 h 07 min")]
)
def test_durations_are_readable(seconds, text):
    assert progress.format_seconds(seconds) == text


def test_a_reader_that_contradicts_itself_is_a_defect(raw, tmp_path, decoded, monkeypatch):
    scan = fake_reader.Fake.scan

    def scan_twice(self):
        recordings, sources, left_out = scan(self)
        return [*recordings, *recordings], sources, left_out

    with monkeypatch.context() as patch:
        patch.setattr(fake_reader.Fake, "scan", scan_twice)
        with pytest.raises(ValueError, match="alike"):
            run(raw, tmp_path / "out")

    def scan_without_sources(self):
        recordings, _, left_out = scan(self)
        return recordings, [], left_out

    monkeypatch.setattr(fake_reader.Fake, "scan", scan_without_sources)
    with pytest.raises(ValueError, match="no source for a stream of recording 'r0'"):
        run(raw, tmp_path / "out")


def test_shards_in_any_order_give_the_same_bytes(raw, tmp_path, decoded):
    run(raw, tmp_path / "whole")
    del decoded[:]
    out, said = tmp_path / "parts", []
    for index in (2, 0, 1):
        prepare.prepare_shard(fake_reader.Fake(str(raw), 1.0), out, (index, 3), workers=1, log=said.append)
        half_written = next(out.glob("sources/*")) / "of_another_shard.npz.0.partial"
        half_written.touch()
    assert half_written.exists() and not is_prepared(out)
    assert len(decoded) == len(set(decoded)) and "shard 1/3" in said[-1]
    del decoded[:]
    run(raw, out)
    assert not decoded and contents(out) == contents(tmp_path / "whole")
    prepare.prepare_shard(fake_reader.Fake(str(raw), 1.0), out, (0, 3), workers=1, log=said.append)
    assert "prepared already" in said[-1]


@pytest.mark.parametrize("shard", ["3/3", "1", "-1/2", "a/b"])
def test_what_is_no_shard_is_a_sentence(raw, tmp_path, fake_on_the_command_line, capsys, shard):
    command = ["--dataset=fake", f"--raw={raw}", f"--out={tmp_path / 'x'}", f"--shard={shard}"]
    assert prepare.main(command) == 2
    assert "part I of N" in capsys.readouterr().err
