"""Shuffled labels tell nothing of the true ones, in every grid, and it is measured what is left."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines import label_draws, label_shuffle
from data_pipelines.errors import BadDataError
from data_pipelines.grid import Grid
from data_pipelines.item_table import ItemTable
from data_pipelines.label_shuffle import Labels, left_over, order_of
from data_pipelines.recording import Annotation, Recording
from data_pipelines.tasks import find_task
from jmt_jax.experiment import make_experiment, open_data

NAMES = ("valence", "arousal")


def blocks(rng, subjects, length=40, runs=6):
    """Classes of windows, in runs, as an experiment with tasks of some minutes has them."""
    labels = [
        np.repeat(np.arange(runs) % 2, rng.integers(3, 3 + length // runs, runs)) for _ in range(subjects)
    ]
    return Labels(
        np.concatenate(labels),
        np.ones(sum(map(len, labels)), bool),
        np.repeat(np.arange(subjects), [len(track) for track in labels]),
    )


def moods(rng, subjects, length=900, apart=0.3):
    """Values of frames: slow, and each subject's about a level of its own."""
    noise = rng.normal(size=(subjects, length + 200, 2))
    kernel = np.hanning(200) / np.hanning(200).sum()
    slow = np.apply_along_axis(lambda x: np.convolve(x, kernel, "valid")[:length], 1, noise)
    values = slow / slow.std() * 0.2 + apart * rng.normal(size=(subjects, 1, 2))
    mask = rng.random((subjects * length, 1)) > 0.1
    return Labels(
        values.reshape(-1, 2).astype(np.float32),
        np.repeat(mask, 2, axis=1),
        np.repeat(np.arange(subjects), length),
    )


def worst(labels, source):
    left = left_over(labels, labels.values[source], NAMES)["left"]
    return max(abs(value) for value in left.values())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), subjects=st.integers(4, 9))
def test_little_is_left_whatever_the_grid(seed, subjects):
    rng = np.random.default_rng(seed)
    clips = Labels(
        rng.permuted(np.tile(np.arange(20) % 2, (subjects, 1)), axis=1).ravel(),
        np.ones(20 * subjects, bool),
        np.repeat(np.arange(subjects), 20),
    )
    cases = [(clips, False), (blocks(rng, subjects), True), (moods(rng, subjects), True)]
    for labels, serial in cases:
        source, level = order_of(labels, serial=serial, names=("shuffle", seed))
        again, _ = order_of(labels, serial=serial, names=("shuffle", seed))
        assert np.array_equal(source, again)
        assert sorted(source) == list(range(len(labels.values)))
        assert np.array_equal(labels.mask[source], labels.mask)
        assert worst(labels, source) <= label_draws.LIMIT
        if level == "within_subject":
            assert np.array_equal(labels.subjects[source], labels.subjects)


def test_single_frames_in_another_order_would_leave_neighbours_what_they_were():
    """Rows of a serial track keep their neighbours: what overlaps stays consistent."""
    labels = moods(np.random.default_rng(0), 5, apart=0.0)
    labels = Labels(labels.values, np.ones_like(labels.mask), labels.subjects)
    source, level = order_of(labels, serial=True, names=(0,))
    assert level == "within_subject"
    steps = np.diff(source)
    assert np.mean(steps == 1) > 0.98


def test_people_with_one_label_each_are_exchanged_and_counted():
    subjects = np.repeat(np.arange(12), 10)
    labels = Labels(subjects % 2, np.ones(120, bool), subjects)
    source, level = order_of(labels, serial=False, names=(0,))
    assert level == "between_subjects"
    found = left_over(labels, labels.values[source], ())
    assert abs(found["left"]["phi"]) <= label_draws.LIMIT
    assert found["subjects_of_one_label"] == 12
    assert found["unchanged_by_chance"] == pytest.approx(0.5)
    assert found["unchanged"] == pytest.approx(0.5, abs=0.06)


def test_partly_annotated_rows_exchange_what_they_have():
    rng = np.random.default_rng(1)
    mask = rng.random((60, 2)) > 0.3
    values = np.where(mask, rng.normal(size=(60, 2)), np.nan)
    labels = Labels(values, mask, np.repeat(np.arange(3), 20))
    source, _ = order_of(labels, serial=False, names=(0,))
    assert np.isfinite(values[source][mask]).all()


def test_what_is_left_is_phi_and_ccc():
    one, other = np.array([0, 0, 1, 1, 1, 0]), np.array([0, 1, 1, 1, 0, 0])
    labels = Labels(one, np.ones(6, bool), np.zeros(6, int))
    phi = np.corrcoef(one, other)[0, 1]
    found = left_over(labels, other, ())
    assert found["left"]["phi"] == pytest.approx(phi)
    assert found["unchanged"] == pytest.approx(4 / 6)
    values = np.array([[0.0], [1.0], [2.0]])
    moved = np.array([[1.0], [2.0], [3.0]])
    found = left_over(Labels(values, np.ones((3, 1), bool), np.zeros(3, int)), moved, ("x",))
    assert found["left"]["ccc_x"] == pytest.approx(2 * 2 / 3 / (4 / 3 + 1))


@pytest.mark.parametrize("kind", ["clips", "blocks", "moods"])
def test_a_model_that_knows_the_truth_scores_at_chance(kind):
    """Of outputs that are the true labels themselves, over 20 seeds: no side is favoured."""
    rng = np.random.default_rng(7)
    make = {
        "clips": lambda: Labels(np.tile([0, 1], 60), np.ones(120, bool), np.repeat(np.arange(6), 20)),
        "blocks": lambda: blocks(rng, 6),
        "moods": lambda: moods(rng, 6),
    }
    labels = make[kind]()
    left = []
    for seed in range(20):
        source, _ = order_of(labels, serial=kind != "clips", names=("shuffle", seed))
        left.append(list(left_over(labels, labels.values[source], NAMES)["left"].values())[0])
    low, high = scipy.stats.t.interval(0.95, 19, np.mean(left), scipy.stats.sem(left) + 1e-12)
    assert low <= 1e-9 and high >= -1e-9, (np.mean(left), low, high)


@pytest.mark.parametrize("name", ["biovid", "stress", "affwild2"])
def test_a_run_reports_what_is_left(name, cache_dir):
    config = tiny.shrunk(name, cache_dir, data__shuffle_labels="within_subject")
    if name == "affwild2":
        config.data.sample.update(train=5, validation=3, seconds=6.0)
        config.protocol.selection = "validation"
    data = open_data(config)
    one, other = (make_experiment(config, data, fold=0, seed=seed) for seed in (0, 1))
    report = one.shuffled
    assert all(abs(value) <= label_draws.LIMIT for value in report["all"]["left"].values())
    assert "is left between" in label_shuffle.sentence(report)
    moved, true = one.data.items, data.items
    assert np.array_equal(moved.label_mask, true.label_mask)
    assert not np.array_equal(moved.labels, true.labels)
    assert not np.array_equal(moved.labels, other.data.items.labels), "every seed draws its own"
    if name == "affwild2":
        rows = moved.token_frames >= 0
        numbers = np.broadcast_to(moved.recording[:, None], rows.shape)
        for number in np.unique(moved.recording):
            values = moved.recordings[number].annotation.values
            at = rows & (numbers == number)
            mask = moved.label_mask[at]
            assert np.array_equal(moved.labels[at][mask], values[moved.token_frames[at]][mask])


@pytest.mark.parametrize(("labels", "sentence"), [([0, 1], "still tell 1.00"), ([1, 1], "do not vary")])
def test_what_cannot_be_shuffled_is_refused(labels, sentence):
    annotation = Annotation(("stress",), None, np.zeros((1, 1), np.float32), np.ones((1, 1), bool))
    items = ItemTable(
        [Recording(name, "a", {}, annotation) for name in "xy"],
        np.arange(2),
        np.zeros(2),
        np.array(labels),
        np.ones(2, bool),
    )
    with pytest.raises(BadDataError, match=f"{sentence}.*of all parts.*take more people"):
        label_shuffle.shuffle(None, find_task("stress"), Grid(), items, {"train": np.arange(2)}, (0,))
