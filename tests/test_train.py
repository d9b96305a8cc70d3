"""Whole runs of the shipped configurations, shrunk: from files to results."""

from __future__ import annotations

import json

import jax
import jsonschema
import numpy as np
import pytest
import tiny

from data_pipelines.errors import BadDataError, UsageError
from jmt_jax import results, stage, study, train
from jmt_jax.checkpoint import Checkpoints
from jmt_jax.experiment import make_experiment, open_data
from jmt_jax.models.model import BACKBONES, FUSIONS

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
    jsonschema.validate(written, results.schema())
    assert written["sample"] and "say nothing about biovid" in written["warning"]
    assert written["protocol"] == "subject_kfold"
    assert set(written["metrics"]) == {"accuracy", "balanced_accuracy", "f1_macro", "auroc"}
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
    assert (workdir / "results_validation.json").exists()
    subjects = written["split"]["parts"][0]["validation"]["subjects"]
    assert sorted(validation["per_subject"]) == sorted(subjects)


def test_evaluation_without_a_checkpoint_is_a_sentence(finished, tmp_path):
    config, _, _ = finished
    with pytest.raises(BadDataError, match="no checkpoint of stage fusion"):
        study.run_evaluation(config, tmp_path)


def test_an_interrupted_run_ends_with_the_same_numbers(cache_dir, tmp_path, monkeypatch):
    averaged = {"training__fusion__ema_decay": 0.9}
    config = tiny.shrunk("biovid", cache_dir, **ONE_STREAM, training__stages="physio,fusion", **averaged)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    written = study.run(config, whole)
    saved = stage.Checkpoints.save

    def die_in_fusion(self, state, progress):
        saved(self, state, progress)
        if self._directory.name == "fusion":
            self.wait()
            raise KeyboardInterrupt

    monkeypatch.setattr(stage.Checkpoints, "save", die_in_fusion)
    with pytest.raises(KeyboardInterrupt):
        study.run(config, broken)
    monkeypatch.undo()
    again = study.run(config, broken)
    assert again["metrics"] == written["metrics"]
    assert _rows(broken) == _rows(whole)
    one, other = (Checkpoints(run / "checkpoints" / "fusion", read_only=True) for run in (whole, broken))
    assert one.steps() == other.steps() and one.best_step() == other.best_step()


def test_pmap_gives_the_results_of_jit(cache_dir, tmp_path):
    outputs = []
    for parallelism in ("jit", "pmap"):
        options = {**ONE_STREAM, "training__stages": "joint", "parallelism": parallelism}
        study.run(tiny.shrunk("biovid", cache_dir, **options), tmp_path / parallelism)
        table, _ = results.load_predictions(tmp_path / parallelism / "predictions" / "test.csv")
        outputs.append(table.outputs)
    np.testing.assert_allclose(*outputs, atol=2e-3)


def test_folds_and_seeds_make_one_result_with_controls(cache_dir, tmp_path):
    config = tiny.shrunk(
        "stress", cache_dir, protocol__folds=(0, 1), protocol__num_folds=2, seeds=(0, 1),
        model__streams="skin_conductance", training__stages="joint", model__fusion="concat",
    )  # fmt: skip
    written = study.run(config, tmp_path)
    assert len(written["split"]["parts"]) == 4
    assert written["metrics"]["auroc"]["subjects"] == 5
    assert set(written["controls"]) == {"logistic_regression", "time"}
    assert "model - time (subject)" in written["paired_differences"]
    assert written["data"]["normalisation"]["skin_conductance"] == {"mode": "subject", "looked_ahead": True}
    assert sorted(path.name for path in tmp_path.glob("fold_*")) == [
        f"fold_{fold}_seed_{seed}" for fold in (0, 1) for seed in (0, 1)
    ]


def test_regression_with_ccc(cache_dir, tmp_path):
    config = tiny.shrunk(
        "biovid", cache_dir, data__task="pain_intensity", model__streams="physio",
        training__stages="joint", model__fusion="concat",
    )  # fmt: skip
    written = study.run(config, tmp_path)
    assert {"ccc_pain_intensity", "ccc_mean", "pcc_mean", "rmse_mean", "sagr_mean"} <= set(written["metrics"])
    assert written["confusion_matrix"] is None


def test_the_papers_protocol_warns_of_both_leaks(cache_dir, tmp_path):
    config = tiny.shrunk(
        "biovid", cache_dir, protocol__name="clip_kfold_test_selected", model__streams="physio",
        training__stages="joint", model__fusion="concat",
    )  # fmt: skip
    written = study.run(config, tmp_path)
    assert written["split"]["selection"] == "test" and len(written["split"]["warnings"]) >= 2


def test_backbones_of_another_run_are_not_trained_again(finished, cache_dir, tmp_path):
    _, trained, written = finished
    options = {"training__label_smoothing": 0.1, "training__backbones_from": str(trained)}
    again = study.run(tiny.shrunk("biovid", cache_dir, **options), tmp_path / "same")
    assert again["metrics"] == written["metrics"]
    assert {row["stage"] for row in _rows(tmp_path / "same")} == {"fusion"}
    study.run(tiny.shrunk("biovid", cache_dir, **options, model__fusion="concat"), tmp_path / "concat")
    for changed, error, message in (
        ({"model__physio__features": 4}, UsageError, "model.physio.features"),
        ({"seeds": (1,)}, BadDataError, "seed 1"),
        ({"training__backbones_from": str(tmp_path)}, BadDataError, "config.json"),
    ):
        with pytest.raises(error, match=message):
            study.run(tiny.shrunk("biovid", cache_dir, **{**options, **changed}), tmp_path / message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"data__task": "nothing"}, "bl1_vs_pa4"),
        ({"data__task": "stress"}, "pain_class"),
        ({"data__name": "biovd"}, "biovid"),
        ({"model__streams": "visual,voice"}, "voice"),
        ({"model__fusion": "magic"}, "magic"),
        ({"training__stages": "visual"}, "fusion or joint"),
        ({"training__stages": "visual,fusoin"}, "fusoin"),
        ({"protocol__num_folds": 9}, "9"),
        ({"protocol__folds": (7,)}, "fold 7"),
        ({"training__joint__global_batch_size": 6, "training__stages": "joint"}, "multiple of 4"),
        ({"training__joint__accumulation_steps": 3}, "multiple of 12"),
        ({"training__joint__ema_decay": 1.0}, "below 1"),
        ({"training__loss": "mse"}, "cross_entropy"),
        ({"parallelism": "magic"}, "jit"),
        ({"eval__select": "ccc_mean"}, "accuracy"),
        ({"controls": "time"}, "sliding"),
        ({"data__shuffle_labels": "all"}, "within_subject"),
    ],
)
def test_impossible_configurations_are_sentences(cache_dir, tmp_path, override, message):
    config = tiny.shrunk("biovid", cache_dir, **{"training__stages": "joint", **override})
    with pytest.raises(UsageError, match=message):
        study.run(config, tmp_path)


def test_every_shipped_configuration_builds(cache_dir):
    for name, variant in (("biovid", "sample"), ("biovid", "paper"), ("stress", "")):
        config = tiny.load(name, *filter(None, [variant]))
        small = tiny.shrunk(name, cache_dir)
        with config.unlocked():
            config.data.cache_dir, config.data.sample = small.data.cache_dir, small.data.sample
            config.data.reader = small.data.reader
            config.protocol.num_folds = 5
        experiment = make_experiment(config, open_data(config), fold=0, seed=0)
        for stage_name in experiment.stages:
            model, batch = experiment.model(stage_name), experiment.loader.example_batch(2)
            shapes = jax.eval_shape(
                lambda batch, model=model: model.init_with_output(
                    jax.random.key(0), batch["inputs"], batch["masks"], train=False
                )[0],
                batch,
            )
            assert shapes.shape == (2, 2) and experiment.trainable(stage_name, {"head": 0}) == ("head",)
    assert {"r2plus1d", "r3d", "conv1d"} <= set(BACKBONES) and {"jmt", "concat"} <= set(FUSIONS)


@pytest.mark.slow
def test_the_papers_networks_run_from_files(cache_dir, tmp_path):
    """The paper's sizes: R3D-18, the CNN on 2816 samples, the 3072-wide encoder; a few steps a stage."""
    config = tiny.load("biovid", "paper")
    with config.unlocked():
        config.data.cache_dir = str(cache_dir)
        config.data.sample = {"subjects": 5, "clips_per_class": 1, "seed": 0}
        config.eval.global_batch_size = 4
        for name in ("visual", "physio", "fusion"):
            config.training[name].update(global_batch_size=4, epochs=1)
    run = train.train_and_evaluate(config, tmp_path)
    assert run.results["metrics"]["accuracy"]["subjects"] == 1
    assert sum(x.size for x in jax.tree.leaves(run.variables["params"])) > 80e6
