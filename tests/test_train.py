"""Whole runs of the shipped configurations, shrunk: from files to results."""

from __future__ import annotations

import json
import shutil

import jax
import jsonschema
import numpy as np
import pytest
import tiny

from data_pipelines.errors import BadDataError, UsageError
from jmt_jax import results, results_schema, stage, study, watch, weights
from jmt_jax.checkpoint import Checkpoints
from jmt_jax.experiment import make_experiment, open_data
from jmt_jax.logging import MetricsFile
from jmt_jax.runtime import Runtime

ONE_STREAM = {"model__streams": "physio", "model__fusion": "concat"}


@pytest.fixture(scope="module")
def finished(cache_dir, tmp_path_factory):
    """A finished run of the BioVid configuration on the sample: (config, folder, results)."""
    config = tiny.shrunk("biovid", cache_dir, training__label_smoothing=0.1)
    workdir = tmp_path_factory.mktemp("run")
    return config, workdir, study.run(config, workdir)


def _rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_everything_it_promises(finished):
    _, workdir, written = finished
    for name in ("config.json", "metrics.jsonl", "results.json", "predictions/test.csv"):
        assert (workdir / name).stat().st_size > 0
    for name in ("learning_curves.png", "confusion_matrix.png"):
        assert (workdir / name).read_bytes().startswith(b"\x89PNG")
    assert json.loads((workdir / "results.json").read_text()) == written
    jsonschema.validate(written, results_schema.schema())
    assert written["sample"] and "say nothing about biovid" in written["warning"]
    assert written["protocol"] == "subject_kfold"
    part, log = written["split"]["parts"][0], _rows(workdir)
    one = part["checkpoint"]
    at = [
        row
        for row in log
        if (row["stage"], row["step"], row["part"]) == ("fusion", one["step"], "validation")
    ]
    assert one["stage"] == "fusion" and one["value"] == at[0][one["metric"]]
    assert (
        set(part["majority"]) == {"train", "validation", "test"} and part["majority"]["train"]["rate"] >= 0.5
    )
    parameters = written["parameters"]
    assert parameters["all"] == sum(parameters["parts"].values()) == parameters["stages"]["fusion"]["all"]
    trained = parameters["stages"]["fusion"]["trained"]
    assert trained == parameters["parts"]["fusion"] + parameters["parts"]["head"]
    assert parameters["stages"]["physio"]["all"] == parameters["stages"]["physio"]["trained"] > 0
    assert written["devices"] == [{"platform": "cpu", "kind": "cpu", "count": 4, "processes": 1}]
    assert written["metrics"]["auroc"]["rows"] == part["test"]["recordings"]
    assert set(written["metrics"]) == {"accuracy", "balanced_accuracy", "f1_macro", "auroc", "auroc_pooled"}
    table, names = results.load_predictions(workdir / "predictions" / "test.csv")
    part = written["split"]["parts"][0]
    assert names == ("BL1", "PA4") and set(table.subjects) == set(part["test"]["subjects"])
    assert len(table.labels) == part["test"]["recordings"]
    assert not set(part["test"]["subjects"]) & set(part["train"]["subjects"])
    assert {row["stage"] for row in _rows(workdir)} == {"visual", "physio", "fusion"}


def test_the_same_command_again_repeats_nothing(finished):
    config, workdir, written = finished
    before = (workdir / "metrics.jsonl").read_bytes()
    assert study.run(config, workdir) == written
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_another_configuration_in_the_same_folder_is_refused(finished, cache_dir):
    _, workdir, _ = finished
    other = tiny.shrunk("biovid", cache_dir, training__fusion__learning_rate=0.5)
    with pytest.raises(UsageError, match="training.fusion.learning_rate"):
        study.run(other, workdir)


def test_evaluation_of_the_checkpoint_gives_the_same_results(finished):
    config, workdir, written = finished
    again = study.run_evaluation(config, workdir)
    assert again["metrics"] == written["metrics"] and again["per_subject"] == written["per_subject"]
    with config.unlocked():
        config.eval.split, config.eval.checkpoint = "validation", "last"
        validation = study.run_evaluation(config, workdir)
        config.eval.checkpoint = "12345"
        with pytest.raises(UsageError, match="12345"):
            study.run_evaluation(config, workdir)
        config.eval.split, config.eval.checkpoint = "test", "best"
    assert again["split"]["parts"][0]["checkpoint"] == written["split"]["parts"][0]["checkpoint"]
    assert validation["split"]["parts"][0]["checkpoint"]["step"] == max(
        row["step"] for row in _rows(workdir) if row["stage"] == "fusion"
    )
    assert not (workdir / "results_validation.json").exists()
    assert (workdir / "evaluations" / "validation_last" / "results_validation.json").exists()
    subjects = written["split"]["parts"][0]["validation"]["subjects"]
    assert sorted(validation["per_subject"]) == sorted(subjects)


def test_a_watcher_evaluates_what_it_finds_once_and_publishes_the_best(finished, monkeypatch):
    config, workdir, written = finished
    folder = workdir / "watch"
    restore = Checkpoints.restore_variables
    steps = Checkpoints(workdir / "checkpoints" / "fusion", read_only=True).steps()
    (published,) = study.run_watch(config, workdir)
    assert published["metrics"] == written["metrics"]
    rows = _rows(folder)
    assert [row["step"] for row in rows] == steps
    last = [row for row in _rows(workdir) if row["stage"] == "fusion" and row["part"] == "validation"][-1]
    assert rows[-1] == last
    note = json.loads((folder / "best.json").read_text())
    assert (folder / "best.safetensors").exists() and note["step"] in steps and note["loss"] == last["loss"]

    def nothing(*args):
        raise AssertionError("evaluated again")

    monkeypatch.setattr(Checkpoints, "restore_variables", nothing)
    assert study.run_watch(config, workdir) == [published]
    monkeypatch.undo()

    def remove_and_restore(self, step, like):
        (self._directory / str(step)).rename(self._directory / "away")
        return restore(self, step, like)

    shutil.rmtree(folder)
    monkeypatch.setattr(Checkpoints, "restore_variables", remove_and_restore)
    experiment = make_experiment(config, open_data(config), fold=0, seed=0)
    watcher = watch.Watcher(experiment, Runtime.create("jit"), workdir)
    watcher.look()
    (workdir / "checkpoints" / "fusion" / "away").rename(workdir / "checkpoints" / "fusion" / str(steps[-1]))
    assert not watcher.is_done and _rows(workdir)[-1]["step"] == last["step"] and not watcher.published


def test_evaluation_of_a_folder_without_a_run_is_a_sentence(finished, tmp_path):
    config, _, _ = finished
    with pytest.raises(UsageError, match="there is no run in"):
        study.run_evaluation(config, tmp_path)


def test_backbones_of_another_run_are_not_trained_again(finished, cache_dir, tmp_path):
    _, trained, written = finished
    options = {"training__label_smoothing": 0.1, "training__backbones_from": str(trained)}
    again = study.run(tiny.shrunk("biovid", cache_dir, **options), tmp_path / "same")
    assert again["metrics"] == written["metrics"]
    assert {row["stage"] for row in _rows(tmp_path / "same")} == {"fusion"}
    for changed, error, message in (
        ({"model__physio__features": 4}, UsageError, "model.physio.features"),
        ({"seeds": (1,)}, BadDataError, "seed 1"),
        ({"training__backbones_from": str(tmp_path)}, BadDataError, "config.json"),
    ):
        with pytest.raises(error, match=message):
            study.run(tiny.shrunk("biovid", cache_dir, **{**options, **changed}), tmp_path / message)


def _stage(config, workdir):
    """The fusion's stage before it begins."""
    experiment = make_experiment(config, open_data(config), fold=0, seed=0)
    metrics_file = MetricsFile(workdir, is_main=False)
    return stage.Stage(experiment, "fusion", Runtime.create("jit"), workdir, metrics_file)


def test_a_run_starts_from_files_of_weights(finished, cache_dir, tmp_path):
    """Backbones, fusion and head out of files."""
    _, trained, _ = finished
    checkpoints = Checkpoints(trained / "checkpoints" / "fusion", read_only=True)
    variables = _stage(finished[0], tmp_path / "other")._initial_variables({"params": {}})
    variables = checkpoints.restore_variables(checkpoints.best_step(), variables)
    weights.save_weights(tmp_path / "all.safetensors", variables, {})
    file = str(tmp_path / "all.safetensors")
    options = {f"model__{name}": file for name in ("visual__weights", "physio__weights", "fusion_weights")}
    config = tiny.shrunk("biovid", cache_dir, **options, training__stages="fusion")
    loaded = _stage(config, tmp_path / "loaded")._initial_variables({"params": {}})
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    with pytest.raises(BadDataError, match="no part backbone"):
        head = {"head": variables["params"]["head"]}
        weights.save_weights(tmp_path / "some.safetensors", {"params": head}, {})
        config = tiny.shrunk("biovid", cache_dir, model__visual__weights=str(tmp_path / "some.safetensors"))
        _stage(config, tmp_path / "refused")._initial_variables({"params": {}})
