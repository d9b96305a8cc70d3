"""Whole runs of other kinds: interrupted, over folds and seeds, of other tasks and protocols, impossible."""

from __future__ import annotations

import json
import os
import signal

import jax
import numpy as np
import pytest
import tiny

from data_pipelines.errors import Interrupted, UsageError
from jmt_jax import evaluate, result_words, results, stage, stop, study, train
from jmt_jax.checkpoint import Checkpoints
from jmt_jax.experiment import make_experiment, open_data
from jmt_jax.models.model import BACKBONES, FUSIONS

ONE_STREAM = {"model__streams": "physio", "model__fusion": "concat"}


def _rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def handlers():
    """Signals are heard as by the command line; afterwards as before."""
    before = {number: signal.getsignal(number) for number in stop.SIGNALS}
    stop.install()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    stop._asked = stop._Asked()


def test_an_interrupted_run_ends_with_the_same_numbers(cache_dir, tmp_path, monkeypatch, handlers):
    """Killed after a save, then asked to stop in an evaluation, then at a step without one."""
    options = {"training__stages": "physio,fusion", "training__fusion__epochs": 3}
    options["training__fusion__ema_decay"] = 0.9
    options["training__checkpoint_every_steps"] = 2
    config = tiny.shrunk("biovid", cache_dir, **ONE_STREAM, **options)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    written = study.run(config, whole)
    saved = stage.Checkpoints.save

    def die_in_fusion(self, state, progress):
        saved(self, state, progress)
        if self._directory.name == "fusion":
            self.wait()
            raise RuntimeError("killed")

    monkeypatch.setattr(stage.Checkpoints, "save", die_in_fusion)
    with pytest.raises(RuntimeError, match="killed"):
        study.run(config, broken)
    monkeypatch.undo()
    with (broken / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "fusion", "st')  # what a killed process may leave

    add, predict = stage.StepMonitor.add, evaluate.predict

    def add_and_ask(self, number, *args):
        add(self, number, *args)
        if number == 5:
            os.kill(os.getpid(), signal.SIGUSR1)

    def ask_and_predict(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return predict(*args)

    for place, name, function, at in (
        (evaluate, "predict", ask_and_predict, "fusion is saved at step 3 of 9"),
        (stage.StepMonitor, "add", add_and_ask, "fusion is saved at step 5 of 9"),
    ):
        monkeypatch.setattr(place, name, function)
        with pytest.raises(Interrupted, match=at):
            study.run(config, broken)
        monkeypatch.undo()
        stop._asked = stop._Asked()
        stop.install()
    again = study.run(config, broken)
    assert again["metrics"] == written["metrics"]
    assert _rows(broken) == _rows(whole)
    one, other = (Checkpoints(run / "checkpoints" / "fusion", read_only=True) for run in (whole, broken))
    assert one.steps() == other.steps() and one.best_step() == other.best_step()
    for name in ("predictions/test.csv", "metrics.jsonl"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow  # test_steps holds the steps to it
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
        "stress", cache_dir, protocol__folds=(0, 1), protocol__num_folds=2,
        model__streams="skin_conductance", training__stages="joint", model__fusion="concat",
    )  # fmt: skip
    written = study.run(config, tmp_path)
    assert len(written["split"]["parts"]) == 2
    assert written["metrics"]["auroc"]["subjects"] == 5
    assert set(written["controls"]) == {"majority", "one_number", "linear", "time"}
    assert "model - time (subject)" in written["paired_differences"]
    assert written["data"]["normalisation"]["skin_conductance"] == {"mode": "subject", "looked_ahead": True}
    assert written["sees_future_of_test_subjects"] is True
    said = result_words.sees_future(written)
    assert said.startswith("skin_conductance of the people who are evaluated was normalised with all")
    assert (tmp_path / "done").exists()
    # Killed just before its end: the same command says the same, and ends it.
    (tmp_path / "done").unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("fold_*/**/*.csv")}
    assert study.run(config, tmp_path)["metrics"] == written["metrics"] and (tmp_path / "done").exists()
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert sorted(path.name for path in tmp_path.glob("fold_*")) == [f"fold_{fold}_seed_0" for fold in (0, 1)]


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
    assert written["split"]["selection"] == "test" and written["split"]["selected_on_reported"]
    assert "recordings that are reported (the test part)" in written["split"]["warnings"][-1]


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
    variants = (("biovid", "sample"), ("biovid", "paper"), ("stress", ""))
    for name, variant in (*variants, ("affwild2", "sample"), ("affwild2", "paper")):
        config = tiny.load(name, *filter(None, [variant]))
        small = tiny.shrunk(name, cache_dir)
        with config.unlocked():
            config.data.cache_dir, config.data.sample = small.data.cache_dir, small.data.sample
            # The paper's windows of sound are of the stored rate.
            is_affwild2 = name == "affwild2"
            config.data.reader = {**config.data.reader, "size": 16} if is_affwild2 else small.data.reader
            if is_affwild2:
                # Videos this short give none of the paper's training sequences.
                config.data.grid.schedule = "every_frame"
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
            assert shapes.shape == ((2, 16, 2) if is_affwild2 else (2, 2))
            assert experiment.trainable(stage_name, {"head": 0}) == ("head",)
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
