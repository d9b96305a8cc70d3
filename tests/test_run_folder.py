"""A run's folder in an object store; another folder of this machine stands for the store."""

from __future__ import annotations

import pytest
from etils import epath

from data_pipelines.errors import UsageError
from jmt_jax import run_folder


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder.addresses, "path_of", lambda text: epath.Path(tmp_path / "store"))
    monkeypatch.setattr(run_folder, "_copies", {})
    return tmp_path / "store"


def test_a_folder_of_this_machine_is_itself(tmp_path):
    assert run_folder.open_folder(str(tmp_path)) == tmp_path
    assert run_folder.checkpoints(tmp_path, "fusion") == tmp_path / "checkpoints" / "fusion"
    run_folder.push(tmp_path), run_folder.fetch(tmp_path / "done"), run_folder.share(tmp_path)
    assert not any(tmp_path.iterdir())


def test_files_go_to_the_store_and_come_back(store):
    here = run_folder.open_folder("gs://bucket/run")
    (here / "metrics.jsonl").write_text("1\n")
    (here / "fold_0_seed_1" / "predictions").mkdir(parents=True)
    (here / "fold_0_seed_1" / "predictions" / "test.csv").write_text("a,b\n")
    (here / ".half.tmp").write_text("no")
    run_folder.push(here / "fold_0_seed_1")
    assert (store / "metrics.jsonl").read_text() == "1\n"
    assert (store / "fold_0_seed_1" / "predictions" / "test.csv").read_text() == "a,b\n"
    assert not (store / ".half.tmp").exists()
    # What the store has counts: a row that was not copied is gone after a kill.
    (here / "metrics.jsonl").write_text("1\n2\n")
    (store / "checkpoints" / "fusion" / "3").mkdir(parents=True)
    again = run_folder.open_folder("gs://bucket/run")
    assert again != here and (again / "metrics.jsonl").read_text() == "1\n"
    assert (again / "fold_0_seed_1" / "predictions" / "test.csv").exists()
    assert not (again / "checkpoints").exists()
    # What another process writes is fetched by name, and not sent back.
    (store / "done").write_text("yes\n")
    run_folder.fetch(here / "done")
    assert (here / "done").read_text() == "yes\n"
    (store / "done").write_text("changed\n")
    run_folder.push(here)
    assert (store / "done").read_text() == "changed\n"
    run_folder.fetch(here / "nothing")


def test_checkpoints_are_in_the_store_alone(store):
    here = run_folder.open_folder("gs://bucket/run")
    assert run_folder.checkpoints(here, "fusion") == store / "checkpoints" / "fusion"
    assert run_folder.named(here / "results.json") == str(store / "results.json")
    fold = run_folder.checkpoints(here / "fold_0_seed_1", "joint")
    assert fold == store / "fold_0_seed_1" / "checkpoints" / "joint"


def test_other_addresses_are_refused(monkeypatch):
    with pytest.raises(UsageError, match="no gs:// address"):
        run_folder.open_folder("s3://bucket/run")
    monkeypatch.setattr(run_folder.addresses.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"\.\[gcs\]"):
        run_folder.open_folder("gs://bucket/run")
