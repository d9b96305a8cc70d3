"""The controls of a run: on the model's own rows, in every grid, learnt from training people alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny

from data_pipelines import simple_numbers
from data_pipelines.errors import UsageError
from data_pipelines.stream_windows import Moment
from jmt_jax import control_models, controls, evaluate, metrics, one_answer
from jmt_jax.experiment import make_experiment, open_data
from jmt_jax.statistics import Predictions

GRIDS = {"biovid": "test", "stress": "test", "affwild2": "validation"}


@pytest.fixture(scope="module")
def experiments(cache_dir):
    found = {}
    for name in GRIDS:
        config = tiny.shrunk(name, cache_dir)
        if name == "affwild2":  # one of the two training videos has no sound, so none is set aside
            config.protocol.selection = "validation"
        found[name] = make_experiment(config, open_data(config), fold=0, seed=0)
    return found


def predict(experiment, name):
    return control_models.predict_controls(experiment, experiment.rows[GRIDS[name]])


@pytest.mark.parametrize("name", GRIDS)
def test_every_control_predicts_the_models_rows(experiments, name):
    experiment = experiments[name]
    rows = experiment.rows[GRIDS[name]]
    shape = (
        len(rows),
        *([experiment.data.grid.tokens] if name == "affwild2" else []),
        experiment.num_outputs,
    )
    model = evaluate.make_table(experiment.config, experiment.data, rows, np.zeros(shape, np.float32))
    for control in predict(experiment, name).values():
        assert control.table.recordings == model.recordings
        np.testing.assert_array_equal(control.table.labels, model.labels)
        np.testing.assert_array_equal(control.table.mask, model.mask)
        assert np.isfinite(control.table.outputs).all()
        assert control.facts["fold"] == control.facts["seed"] == 0


@pytest.mark.parametrize("name", GRIDS)
def test_controls_need_no_certain_stream(experiments, name):
    experiment = experiments[name]
    for stream in experiment.data.streams:
        loader = dataclasses.replace(experiment.loader, streams={stream: experiment.loader.streams[stream]})
        found = predict(dataclasses.replace(experiment, loader=loader), name)
        assert all(number.startswith(stream) for number in found["one_number"].facts["each"])


@pytest.mark.parametrize("name", GRIDS)
def test_what_is_tested_teaches_nothing(experiments, name):
    """Other labels of the tested part change no prediction and no choice."""
    experiment = experiments[name]
    plain, data = predict(experiment, name), experiment.data
    items = data.items
    if name == "affwild2":
        recordings = [
            r
            if r.group == "train"
            else dataclasses.replace(
                r, annotation=dataclasses.replace(r.annotation, values=-r.annotation.values)
            )
            for r in items.recordings
        ]
        items = dataclasses.replace(items, recordings=recordings)
    else:
        labels = items.labels.copy()
        labels[experiment.rows["test"]] = 1 - labels[experiment.rows["test"]]
        items = dataclasses.replace(items, labels=labels)
    other = predict(dataclasses.replace(experiment, data=dataclasses.replace(data, items=items)), name)
    for kind, control in plain.items():
        np.testing.assert_array_equal(control.table.outputs, other[kind].table.outputs)
        for fact in ("chosen", "penalty"):
            assert control.facts.get(fact) == other[kind].facts.get(fact)


def test_the_majority_is_of_training(experiments):
    experiment = experiments["stress"]
    said = predict(experiment, "stress")["majority"]
    counts = np.bincount(experiment.data.items.labels[experiment.rows["train"]], minlength=2)
    assert said.facts["chosen"] == {"class": ("rest", "stress")[counts.argmax()]}
    np.testing.assert_allclose(
        said.table.outputs, np.tile(counts / counts.sum(), (len(said.table.labels), 1))
    )
    assert metrics.classification(said.table.labels, said.table.outputs, said.table.mask)["auroc"] == 0.5
    frames = predict(experiments["affwild2"], "affwild2")["majority"].table
    assert len(np.unique(frames.outputs, axis=0)) == 1


def test_a_centred_signal_keeps_its_level_for_simple_models(cache_dir, experiments):
    experiment = experiments["biovid"]
    stream, items = experiment.loader.streams["physio"], experiment.data.items
    config = tiny.shrunk("biovid", cache_dir)
    config.data.streams.physio.normalise = "none"
    raw = make_experiment(config, open_data(config), fold=0, seed=0).loader.streams["physio"]
    assert stream._normalise.mode == "centred"
    for row in experiment.rows["test"]:
        recording, moment = (
            items.recordings[items.recording[row]],
            Moment(int(items.recording[row]), 0.0, None),
        )
        np.testing.assert_array_equal(stream.level(recording, moment), raw.level(recording, moment))
        assert abs(np.nanmean(raw.level(recording, moment))) > 0.1


def test_loudness_and_brightness_are_of_what_ends_at_a_frame(experiments):
    experiment = experiments["affwild2"]
    data, streams = experiment.data, experiment.loader.streams
    number = int(data.items.recording[experiment.rows["train"][0]])
    recording = data.items.recordings[number]
    found = simple_numbers.of_frames(data.prepared, streams, recording)
    row = len(found.values) - 5
    waves, heard = streams["audio"].waves(recording, np.array([row]))
    assert heard.all()
    hops = waves[0][len(waves[0]) % 80 :].reshape(-1, 80).astype(np.float64) / 32768
    decibels = 10 * np.log10((hops**2).mean(1) + 2.0**-30)
    at = found.names.index("audio loudness, mean")
    assert found.values[row, at] == pytest.approx(decibels.mean(), abs=1.0)
    assert found.values[row, at + 1] == pytest.approx(decibels.std(), abs=1.0)
    pictures, mask = streams["visual"].read(
        recording, Moment(number, 0.0, None, np.full(data.grid.tokens, row, np.int32))
    )
    assert mask.all()
    at = found.names.index("visual brightness")
    assert found.values[row, at] == pytest.approx(pictures[0].mean(), abs=25)


def test_unknown_controls_and_clips_without_a_clock_are_named(experiments):
    experiment = experiments["biovid"]
    for wanted, message in (("linaer", "majority, one_number, linear, time"), ("time", "sliding or frames")):
        config = experiment.config.copy_and_resolve_references()
        config.controls = wanted
        with pytest.raises(UsageError, match=message):
            control_models.names(dataclasses.replace(experiment, config=config))


def test_the_penalty_is_that_which_carries_over_to_other_people():
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(10), 12)
    y = np.tile([0, 1], 60)
    noise = rng.normal(size=(120, 60))
    of_noise = controls.penalised_logistic_regression(noise, y, subjects, noise, 2)[1]
    clear = y[:, None] + 0.01 * noise[:, :1]
    of_clear = controls.penalised_logistic_regression(clear, y, subjects, clear, 2)[1]
    assert of_noise == max(controls.PENALTIES) and of_clear == min(controls.PENALTIES)
    alone = controls.penalised_logistic_regression(noise, y, np.zeros(120), noise, 2)[1]
    assert alone == 1e-2


def test_ridge_finds_a_line_and_its_penalty_without_the_tested_rows():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 5))
    y = 3 + x @ [1.0, -2.0, 0.0, 0.5, 0.0] + 0.1 * rng.normal(size=300)
    subjects = np.repeat(np.arange(10), 30)
    found, penalty = controls.ridge(x[:200], y[:200], subjects[:200], x[200:])
    more, _ = controls.ridge(x[:200], y[:200], subjects[:200], np.concatenate([x[200:], 1e6 + x[:5]]))
    np.testing.assert_allclose(more[:100], found)
    assert metrics.regression(y[200:, None], found[:, None], names=("x",))["ccc_x"] > 0.99
    assert penalty == min(controls.PENALTIES)
    noise = rng.normal(size=(200, 1))
    spread, penalty = controls.ridge(noise, y[:200], subjects[:200], noise)
    assert penalty == max(controls.PENALTIES)
    assert spread.std() == pytest.approx(y[:200].std())
    constant, _ = controls.ridge(np.ones((200, 1)), y[:200], subjects[:200], np.ones((3, 1)))
    np.testing.assert_allclose(constant, y[:200].mean())


def test_one_number_is_drawn_onto_the_labels():
    x = np.array([1.0, 2.0, 3.0, np.nan])
    y = np.array([30.0, 20.0, 10.0, 20.0])
    np.testing.assert_allclose(controls.line(x, y, np.array([4.0, np.nan])), [0.0, 20.0])
    np.testing.assert_allclose(controls.line(np.ones(3), y[:3], np.array([5.0])), [20.0])


def test_a_model_that_says_the_same_of_everybody_is_named():
    def table(outputs, labels):
        people = tuple("abc"[: len(outputs)])
        mask = np.ones(np.shape(labels), bool)
        return Predictions(people, people, np.array(labels), np.array(outputs), mask)

    some = table([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], [0, 1, 0])
    same = table([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]], [0, 1, 0])
    classes = ("rest", "stress")
    assert one_answer.sentence("RUN", [some], classes) is None
    assert one_answer.sentence("RUN", [same], classes) == "RUN gives one class only: rest."
    assert (
        one_answer.sentence("RUN", [some, same], classes) == "RUN gives one class only in 1 of 2 seeds: rest."
    )
    values = table([[0.25], [0.25], [np.nan]], [[0.1], [0.2], [0.3]])
    assert one_answer.sentence("RUN", [values]) == "RUN gives one value only: 0.250."
    assert one_answer.of_table(table([[0.2], [0.25]], [[0.1], [0.2]])) is None
