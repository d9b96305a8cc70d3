"""Frozen backbones computed once: the results of computing them again, under a key of what decides them."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
import tiny

from data_pipelines import features, frame_windows
from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.loader import Shard
from jmt_jax import evaluate, extract, results, study
from jmt_jax.experiment import make_experiment, open_data
from jmt_jax.runtime import Runtime

# Backbones as they are initialised: what they say is all the same here, and no stage trains them.
# One of the two training videos has no sound, so none is set aside.
AFFWILD2 = {
    "protocol__selection": "validation",
    "model__fusion": "concat",
    "model__concat__dim": 8,
    "training__stages": "fusion",
    **{
        f"data__streams__visual__augment__{name}": 0.0
        for name in ("brightness", "contrast", "flip_probability", "shift")
    },
}


@pytest.fixture(scope="module")
def raw(cache_dir, tmp_path_factory):
    """A run whose fusion has the backbones compute everything again and again."""
    workdir = tmp_path_factory.mktemp("raw")
    study.run(tiny.shrunk("affwild2", cache_dir, training__extract=False, **AFFWILD2), workdir)
    return workdir


@pytest.fixture(scope="module")
def extracted(cache_dir, tmp_path_factory):
    """The same on features, which two jobs have extracted: (config, folder, what was computed)."""
    workdir, computed = tmp_path_factory.mktemp("features"), []
    plain = features.FeatureReader._encode_batch

    def counted(self, rows, found):
        computed.extend(
            (self._stream, row.recording, row.first + place) for row in rows for place in range(row.count)
        )
        return plain(self, rows, found)

    config = tiny.shrunk("affwild2", cache_dir, **AFFWILD2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features.FeatureReader, "_encode_batch", counted)
        # Features are mixed over more blocks than frames are; here both take the same batches.
        patch.setattr(extract, "_MIXED_BLOCKS", 4)
        for index in range(2):
            study.run_extraction(config, workdir, (index, 2))
        done = len(computed)
        study.run(config, workdir)
    assert len(computed) == done > 0
    return config, workdir, computed


def _rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_the_fusion_on_features_is_the_fusion_on_raw_streams(raw, extracted):
    _, workdir, _ = extracted
    ours, theirs = _rows(workdir), _rows(raw)
    assert len(ours) == len(theirs) > 1
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys() and one["step"] == other["step"]
        for name in other.keys() - {"stage", "part"}:
            assert one[name] == pytest.approx(other[name], abs=1e-4), name
    tables = [results.load_predictions(x / "predictions" / "validation.csv")[0] for x in (workdir, raw)]
    np.testing.assert_allclose(tables[0].outputs, tables[1].outputs, atol=1e-4)


def test_each_token_of_all_parts_is_computed_once(extracted):
    config, _, computed = extracted
    items = open_data(config).items
    wanted = {
        (stream, number, int(frame))
        for stream in ("visual", "audio")
        for number, frames in zip(items.recording, items.token_frames, strict=True)
        for frame in frames[frames >= 0]
        if stream in items.recordings[number].sources
    }
    assert len(computed) == len(set(computed)) and set(computed) == wanted


def test_evaluation_reads_the_features_that_are_there(extracted, monkeypatch):
    config, workdir, _ = extracted
    monkeypatch.setattr(features.FeatureReader, "_encode_batch", None)
    before = (workdir / "predictions" / "validation.csv").read_bytes()
    study.run_evaluation(config, workdir)
    assert (workdir / "predictions" / "validation.csv").read_bytes() == before


def test_a_watcher_reads_them_too(extracted, monkeypatch):
    config, workdir, _ = extracted
    monkeypatch.setattr(features.FeatureReader, "_encode_batch", None)
    # It would have to read the streams themselves.
    monkeypatch.setattr(frame_windows.TargetFrameWindows, "read", None)
    (published,) = study.run_watch(config, workdir)
    written = json.loads((workdir / "results_validation.json").read_text())
    assert published["metrics"] == written["metrics"]


def _frozen(config, change=0.0):
    """An experiment and variables: all weights are the same, but one of the first stream."""
    experiment = make_experiment(config, open_data(config), fold=0, seed=0)
    shapes = evaluate.abstract_variables(experiment, experiment.model("fusion"), Runtime.create("jit"))
    variables = jax.tree.map(lambda x: np.full(x.shape, 0.1, x.dtype), shapes)
    leaves = jax.tree.leaves(variables["params"][f"backbone_{experiment.data.streams[0]}"])
    leaves[0].flat[0] += change
    return experiment, variables


def _folders(config, change=0.0):
    return {(one.stream, one.draw): one.folder for one in extract.plan(*_frozen(config, change))}


def test_the_key_is_of_all_that_decides_the_features_and_of_nothing_else(cache_dir):
    def folders(change=0.0, **options):
        return _folders(tiny.shrunk("affwild2", cache_dir, **{**AFFWILD2, **options}), change)

    plain = folders()
    assert folders(change=1e-6)["visual", 0] != plain["visual", 0]
    assert folders(change=1e-6)["audio", 0] == plain["audio", 0]
    assert folders(data__streams__visual__reach_frames=6)["visual", 0] != plain["visual", 0]
    assert folders(model__visual__reduction="max")["visual", 0] != plain["visual", 0]
    for same in (
        {"data__grid__label_shift_seconds": 0.2},
        {"data__streams__visual__decoded_bytes": 10_000},
        {"data__streams__visual__augment__brightness": 0.3},
        {"model__concat__dim": 4, "training__fusion__learning_rate": 0.5, "seeds": (1,)},
    ):
        with_options = tiny.shrunk("affwild2", cache_dir, **AFFWILD2)
        with with_options.unlocked():
            with_options.update_from_flattened_dict({k.replace("__", "."): v for k, v in same.items()})
        assert _folders(with_options) == plain, same
    draws = folders(training__extract_draws=2)
    assert len(set(draws.values())) == 6 and plain.items() <= draws.items()
    other = folders(training__extract_draws=1, data__streams__visual__augment__brightness=0.3)
    assert other["visual", 1] != draws["visual", 1] and other["audio", 1] == draws["audio", 1]
    with pytest.raises(UsageError, match="extract_draws=-1"):
        folders(training__extract_draws=-1)


def test_clips_and_their_one_window_of_a_signal(cache_dir):
    """BioVid: a unit is an item; training draws from an augmented copy, evaluation reads the clean one."""
    options = {"model__streams": "physio", "training__extract_draws": 1, "data__cache_dir": str(cache_dir)}
    experiment, variables = _frozen(tiny.shrunk("biovid", cache_dir, **options))
    extractions = extract.plan(experiment, variables)
    for index in range(2):
        extract.run(extractions, Shard(index, 2))
    assert extract.finish(extractions)
    ready = extract.opened(experiment, extractions).features
    train = set(experiment.rows["train"].tolist())
    for row in range(len(experiment.data.items)):
        raw, item = experiment.loader.load_item(row), ready.load_item(row)
        np.testing.assert_array_equal(item["masks"]["physio"], raw["masks"]["physio"])
        padded = np.zeros((4, *raw["inputs"]["physio"].shape), np.float32)
        padded[0] = raw["inputs"]["physio"]
        wanted = extractions[0].reader._encode(padded, np.array([[True], [False], [False], [False]]))[0]
        np.testing.assert_allclose(item["inputs"]["physio"], wanted, rtol=1e-5)
        if row in train:
            drawn = ready.load_item(row, np.random.default_rng(row))["inputs"]["physio"]
            assert drawn.shape == wanted.shape and not np.allclose(drawn, wanted, rtol=1e-5)


def test_what_cannot_be_extracted_is_a_sentence(cache_dir, tmp_path):
    for options, error, message in (
        ({"training__extract": False}, UsageError, "training.extract"),
        ({"training__stages": "joint"}, UsageError, "no fusion"),
        ({"training__stages": "visual,audio,fusion"}, BadDataError, "at step None"),
    ):
        config = tiny.shrunk("affwild2", cache_dir, **{**AFFWILD2, **options})
        with pytest.raises(error, match=message):
            study.run_extraction(config, tmp_path / "run", (0, 2))
