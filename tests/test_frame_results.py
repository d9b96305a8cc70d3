"""A data set whose tokens are about frames: trained, stitched, and every file about frames written."""

from __future__ import annotations

import csv
import dataclasses
import json
import tempfile
from pathlib import Path

import jax
import jsonschema
import numpy as np
import pytest
import tiny
from matplotlib.image import imread

from data_pipelines import splits
from data_pipelines.errors import UsageError
from data_pipelines.grid import Grid
from data_pipelines.item_table import ItemTable
from data_pipelines.items import make_items
from data_pipelines.loader import Loader
from data_pipelines.recording import Annotation, Recording, StreamSpec
from data_pipelines.tasks import Task
from jmt_jax import (
    challenge,
    evaluate,
    frame_tables,
    frames,
    logging,
    losses,
    metrics,
    paper_facts,
    results,
    results_schema,
)
from jmt_jax.experiment import Data, Experiment
from jmt_jax.runtime import Runtime
from jmt_jax.stage import Stage

VIDEOS, FRAMES, TOKENS = 6, 40, 4
NAMES = ("valence", "arousal")
TASK = Task("affect", "regression", NAMES, NAMES)


class Prepared:
    """As much of a prepared set as results ask for."""

    def __init__(self, recordings):
        self.recordings, self.path = recordings, Path(tempfile.mkdtemp())
        (self.path / "inputs.jsonl").touch()
        self.card = {"sample": True, "dataset": "fake", "fingerprints": {}}
        self.streams = {"features": StreamSpec("features", "features", ("a", "b"), ("1", "1"))}


class Features:
    """The truth with noise; the token at frame 25 of video 0 sees nothing."""

    shape, dtype, mask_length = (TOKENS, 2), np.float32, TOKENS

    def read(self, recording, moment):
        frame = (int(moment.start_seconds) + 10 * np.arange(TOKENS)) % FRAMES
        noise = np.random.default_rng(frame).normal(size=(TOKENS, 2)) * 0.1
        values = recording.annotation.values[frame] + noise
        return values.astype(np.float32), ~((frame == 25) & (recording.id == "video0"))


def _data(labelled=True):
    recordings = []
    for number in range(VIDEOS):
        rng = np.random.default_rng(number)
        values = np.sin(np.linspace(0, rng.uniform(4, 9), FRAMES)[:, None] + rng.uniform(0, 6, 2)) * 0.8
        mask = rng.random((FRAMES, 2)) > 0.1
        if not labelled:
            mask[:] = False
        times = np.cumsum(rng.uniform(0.03, 0.05, FRAMES))
        annotation = Annotation(NAMES, times, values.astype(np.float32), mask)
        recordings.append(
            Recording(f"video{number}", f"person{number}", {"features": f"video{number}"}, annotation)
        )
    rows = [(number, start) for number in range(VIDEOS) for start in range(10)]
    recording = np.array([number for number, _ in rows], np.int32)
    token_frames = np.array([start + 10 * np.arange(TOKENS) for _, start in rows], np.int32)
    labels = np.stack(
        [recordings[n].annotation.values[f] for n, f in zip(recording, token_frames, strict=True)]
    )
    mask = np.stack([recordings[n].annotation.mask[f] for n, f in zip(recording, token_frames, strict=True)])
    token_frames[3, 1] = frames.NO_FRAME  # Frame 13 of video 0 is nobody's target.
    mask[3, 1] = False
    starts = np.array([start for _, start in rows], np.float64)
    items = ItemTable(recordings, recording, starts, labels, mask, token_frames)
    return Data(Prepared(recordings), TASK, Grid(tokens=TOKENS), items, ("features",))


def _experiment(data, **changes):
    config = tiny.load("biovid")
    with config.unlocked():
        config.model.streams, config.model.features = "features", {"name": "identity"}
        config.controls = "majority"
        config.model.fusion, config.model.concat.dim, config.model.concat.l2_norm = "concat", 8, False
        config.model.head = {"name": "mlp", "hidden": (8,), "pooling": "none", "dropout": 0.0}
        config.training.stages = "joint"
        config.training.joint.update(
            epochs=20, global_batch_size=8, learning_rate=0.02, accumulation_steps=2, ema_decay=0.5,
            eval_every_epochs=10.0,
        )  # fmt: skip
        config.eval.num_resamples, config.eval.global_batch_size = 40, 16
        config.eval.frames = {"smoothing": "centred", "smoothing_frames": (3, 5), **changes}
    items = [splits.Item(r.id, r.subject) for r in data.prepared.recordings]
    split = splits.make_split(items, "subject_kfold", folds=2, seed=1)
    number = {r.id: n for n, r in enumerate(data.prepared.recordings)}
    rows = {
        part: np.flatnonzero(np.isin(data.items.recording, [number[name] for name in getattr(split, part)]))
        for part in ("train", "validation", "test")
    }
    loader = Loader(data.items, {"features": Features()})
    return Experiment(config, data, split, rows, loader, losses.ccc(2), 0, 0)


def test_from_training_to_challenge_files(tmp_path):
    experiment = _experiment(_data())
    evaluate.check(experiment)
    runtime = Runtime.create("jit", jax.devices()[:1])
    metrics_file = logging.MetricsFile(tmp_path)
    variables = Stage(experiment, "joint", runtime, tmp_path, metrics_file).train({})
    metrics_file.close()
    everything = {**experiment.rows, "test": np.arange(len(experiment.data.items))}
    experiment = Experiment(**{**vars(experiment), "rows": everything})
    facts = paper_facts.of_run(experiment, variables, paper_facts.checkpoint(experiment, 1, None))
    written = evaluate.evaluate_run(experiment, runtime, variables, tmp_path, seconds={}, facts=facts)

    jsonschema.validate(written, results_schema.schema())
    assert written["unit"] == "recording" and len(written["per_subject"]) == VIDEOS
    assert set(written["variants"]) == {"mean_over_recordings", "unsmoothed", "smoothed_paper"}
    assert written["data"]["frames"]["smoothing"] == "centred"
    assert written["metrics"]["ccc_mean"]["value"] > 0.6
    assert written["metrics"]["ccc_mean"]["subjects"] == VIDEOS

    table, _ = results.load_predictions(tmp_path / "predictions" / "test.csv")
    assert len(table.outputs) == VIDEOS * FRAMES and table.subjects[0] == "person0"
    pooled = metrics.regression(table.labels, table.outputs, table.mask)
    unsmoothed = written["variants"]["unsmoothed"]["metrics"]
    assert unsmoothed["ccc_valence"]["value"] == pytest.approx(pooled["ccc_valence"], abs=1e-6)
    with (tmp_path / "predictions" / "test_interpolated.csv").open() as file:
        assert list(csv.reader(file))[1:] == [["video0", "14", "14"], ["video0", "26", "26"]]
    np.testing.assert_allclose(table.outputs[13], table.outputs[[12, 14]].mean(0), atol=0.05)

    files = sorted(path.name for path in (tmp_path / "challenge").iterdir())
    assert files == [f"video{number}.txt" for number in range(VIDEOS)]
    values = challenge.read(tmp_path / "challenge" / "video2.txt")
    span = slice(2 * FRAMES, 3 * FRAMES)
    np.testing.assert_allclose(values, frames.smooth(table.outputs[span], "centred", (3, 5)), atol=6e-6)
    assert imread(tmp_path / "over_time.png").ndim == 3
    assert json.loads((tmp_path / "results.json").read_text()) == written
    again = evaluate.summarise(
        experiment.config,
        experiment.data,
        [evaluate.load_outcome(experiment, tmp_path)],
        tmp_path,
        part="test",
    )
    assert again["metrics"]["ccc_mean"]["value"] == pytest.approx(written["metrics"]["ccc_mean"]["value"])


def test_a_part_without_labels_is_predicted_all_the_same(tmp_path):
    experiment = _experiment(_data(labelled=False), smoothing="paper")
    data, rows = experiment.data, experiment.rows["test"]
    logits = np.random.default_rng(0).normal(size=(len(rows), TOKENS, 2)).astype(np.float32)
    table = evaluate.make_table(experiment.config, data, rows, logits)
    assert not table.mask.any() and np.abs(table.outputs).max() <= 1
    outcome = evaluate.Outcome({**experiment.split.as_json(), "seed": 0}, table, {}, {})
    (tmp_path / "predictions").mkdir()
    frame_tables.write(experiment, rows, logits, table, tmp_path, "validation")
    written = evaluate.summarise(experiment.config, data, [outcome], tmp_path, part="validation")
    ccc = written["metrics"]["ccc_mean"]
    assert (ccc["value"], ccc["ci95"], ccc["subjects"], ccc["reason"]) == (None, None, 0, "undefined")
    assert "smoothed_centred" in written["variants"]
    assert len(list((tmp_path / "challenge_validation").iterdir())) == 3
    assert not (tmp_path / "over_time_validation.png").exists()


def test_wrong_options_are_found_before_training():
    with pytest.raises(UsageError, match="no option 'window'"):
        evaluate.check(_experiment(_data(), window=3))
    with pytest.raises(UsageError, match="centred, paper, none"):
        evaluate.check(_experiment(_data(), smoothing="median"))


@pytest.mark.parametrize("shift", [0.2, 0.4])
def test_a_perfect_predictor_of_shifted_labels_scores_1_on_those_that_are_not(tmp_path, shift):
    """What it says at a frame is of the label ``shift`` later, and goes there before it is scored."""
    recordings, clocks = [], []
    for number in range(2):
        rng = np.random.default_rng(number)
        times = np.cumsum(rng.uniform(0.03, 0.05, 600))
        values = 0.8 * np.sin(np.maximum(times - times[0] - shift - 0.1, 0)[:, None] * [1.3, 1.9])
        annotation = Annotation(NAMES, times, values.astype(np.float32), np.ones((600, 2), bool))
        recordings.append(Recording(f"video{number}", f"person{number}", {}, annotation))
        clocks.append(times)
    prepared = Prepared(recordings)
    grid = Grid("frames", TOKENS, label_shift_seconds=shift)
    items = make_items(prepared, TASK, grid)
    data = Data(prepared, TASK, grid, items, ("features",))
    said = np.where(items.label_mask, items.labels, np.nan)
    rows = np.arange(len(items))
    table = frame_tables.make_table(data, rows, said, frames.FrameOptions())
    found = metrics.regression(table.labels, table.outputs, table.mask)
    assert found["ccc_mean"] > 0.9999
    unmoved = Data(prepared, TASK, dataclasses.replace(grid, label_shift_seconds=0.0), items, ("features",))
    table = frame_tables.make_table(unmoved, rows, said, frames.FrameOptions())
    assert metrics.regression(table.labels, table.outputs, table.mask)["ccc_mean"] < 0.98
    _, stitched = frame_tables._stitch(data, rows, said)  # Nothing is said of what comes before the first.
    assert (~stitched.predicted[: np.searchsorted(clocks[0], clocks[0][0] + shift - 0.03)]).all()
