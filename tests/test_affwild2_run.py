"""The Affwild2 configuration, shrunk: from nothing to results of validation, and the test videos' files."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
import tiny

from jmt_jax import challenge, compare, results, study
from jmt_jax.experiment import make_experiment, open_data
from jmt_jax.optimizer import make_optimizer, make_schedule
from jmt_jax.runtime import Runtime
from jmt_jax.steps import make_train_step
from jmt_jax.train_state import TrainState

STAGES = ("visual", "audio", "fusion")


@pytest.fixture(scope="module")
def finished(cache_dir, tmp_path_factory):
    """A finished run: (config, folder, results)."""
    # A fusion that compiles at once; the JMT is built in test_study.
    config = tiny.shrunk("affwild2", cache_dir, model__fusion="concat", model__concat__dim=8)
    workdir = tmp_path_factory.mktemp("run")
    return config, workdir, study.run(config, workdir)


def test_from_nothing_to_results_of_validation(finished):
    config, workdir, written = finished
    assert json.loads((workdir / "results_validation.json").read_text()) == written
    assert not (workdir / "results.json").exists()
    assert written["protocol"] == "official" and written["sample"] and written["unit"] == "recording"
    assert written["split"]["selection"] == "set_aside" and not written["split"]["selected_on_reported"]
    assert written["split"]["parts"][0]["set_aside"]["subjects"]
    for name in ("ccc_valence", "ccc_arousal", "ccc_mean", "rmse_mean", "sagr_mean"):
        assert np.isfinite(written["metrics"][name]["value"])
    assert {"unsmoothed", "mean_over_recordings"} <= set(written["variants"])
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert tuple(dict.fromkeys(row["stage"] for row in rows)) == STAGES
    table, names = results.load_predictions(workdir / "predictions" / "validation.csv")
    assert names == ("valence", "arousal") and np.isfinite(table.outputs).all()
    recordings = [r for r in open_data(config).prepared.recordings if r.group == "validation"]
    assert len(table.labels) == sum(len(r.annotation.values) for r in recordings)


def test_runs_by_frame_are_compared_over_videos(finished):
    _, workdir, written = finished
    run = compare.load(workdir, "validation")
    lines = compare.table([run, run]).splitlines()
    assert "ccc_mean | first minus this, per recording" in lines[0]
    assert f"{written['metrics']['ccc_mean']['value']:.3f} [" in lines[2]
    assert lines[3].endswith("0.000 [-] |")  # one seed marks nothing
    assert any("2 recordings, 1 seed a run" in line for line in lines)
    linear = written["controls"]["linear"]["metrics"]["ccc_mean"]["value"]
    assert any(line.startswith(f"| control: linear |  |  |  | {linear:.3f}") for line in lines)


def test_the_same_command_again_repeats_nothing(finished):
    config, workdir, written = finished
    before = (workdir / "metrics.jsonl").read_bytes()
    assert study.run(config, workdir) == written
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_the_test_videos_have_challenge_files_with_every_frame(finished):
    config, workdir, _ = finished
    config = config.copy_and_resolve_references()
    config.eval.split = "test"
    written = study.run_evaluation(config, workdir)
    assert written["metrics"]["ccc_mean"]["value"] is None
    recordings = [r for r in open_data(config).prepared.recordings if r.group == "test"]
    assert len(list((workdir / "evaluations" / "test_best" / "challenge").iterdir())) == len(recordings) == 1
    for recording in recordings:
        values = challenge.read(workdir / "evaluations" / "test_best" / "challenge" / f"{recording.id}.txt")
        assert len(values) == len(recording.annotation.values) and np.abs(values).max() <= 1


def test_a_streams_own_stage_loads_that_stream_alone(finished):
    config, _, _ = finished
    experiment = make_experiment(config, open_data(config), fold=0, seed=0)
    assert set(experiment.of_stage("audio").loader.streams) == {"audio"}
    assert experiment.of_stage("fusion").loader is experiment.loader
    train = experiment.rows["train"]
    assert experiment.data.items.label_mask[train].any((1, 2)).all()
    groups = [experiment.data.prepared.recordings[n].group for n in experiment.data.items.recording[train]]
    assert set(groups) == {"train"}


@pytest.mark.slow
def test_the_papers_networks_take_two_steps_from_files(cache_dir):
    """R(2+1)D-18 and ResNet18, frozen; 16 tokens of 8 crops and 45,599 samples; self-attention."""
    config = tiny.load("affwild2", "paper")
    with config.unlocked():
        config.data.cache_dir = str(cache_dir)
        # The paper's schedule makes sequences of 512 frames.
        config.data.sample.update(train=2, validation=1, test=1, seconds=24.0, without_face=0.0)
        config.training.fusion.global_batch_size = 2
    experiment = make_experiment(config, open_data(config), fold=0, seed=0)
    runtime = Runtime.create("jit", jax.devices()[:1])
    model, options = experiment.model("fusion"), config.training.fusion
    rows = experiment.rows["train"]
    batches = experiment.loader.train(rows, global_batch_size=options.global_batch_size, seed=0)
    batch = next(batches)
    assert {stream: values.shape for stream, values in batch["inputs"].items()} == {
        "visual": (2, 16, 8, 112, 112, 3),
        "audio": (2, 16, 64, 104),
    }

    def init(batch):
        return model.init(jax.random.key(0), batch["inputs"], batch["masks"], train=False)

    variables = runtime.compile_once(init)(runtime.put_batch(batch))
    trainable = experiment.trainable("fusion", variables["params"])
    assert not any(name.startswith("backbone_") for name in trainable)
    optimizer = make_optimizer(options, make_schedule(options, 2, 2))
    state = TrainState.create(variables, optimizer=optimizer, trainable=trainable)
    before = jax.device_get(state.params["fusion"])
    step = runtime.compile(
        make_train_step(model, experiment.loss, optimizer, trainable=trainable, seed=0), donate_state=True
    )
    for one in (batch, next(batches)):
        state, measured = step(state, runtime.put_batch(one))
        assert np.isfinite(measured["loss"]) and not measured["skipped"]
    assert int(state.step) == 2
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, jax.device_get(state.params["fusion"]))
    assert all(jax.tree.leaves(moved["attention_visual"]["value"])), moved
    assert all(jax.tree.leaves(moved["token_attention"]["out"])), moved
