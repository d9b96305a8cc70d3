"""The preparation goes on where it was, gives the same bytes, and leaves out what is damaged."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import fake_reader
import numpy as np
import pytest
from prepare_case import FILES, SOURCES, children, contents, is_running, run, start, wait_for_sources

from data_pipelines import assemble, builder, prepare, progress, storage
from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.source import PreparedSet, is_prepared


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
    with pytest.raises(BadDataError, match="ended abruptly.*camera v7.*fewer workers") as died:
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
    with pytest.raises(UsageError, match="scale was 1.0, now 2.0; choose another folder for the result"):
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


def test_the_result_does_not_depend_on_the_place(raw, tmp_path, decoded):
    run(raw, tmp_path / "one")
    moved = tmp_path / "elsewhere" / "raw"
    shutil.copytree(raw, moved)
    run(moved, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


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
    with pytest.raises(UsageError, match="^workers=0"):
        run(raw, tmp_path / "out", workers=0)
    with pytest.raises(UsageError, match="^max_damaged=5"):
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
