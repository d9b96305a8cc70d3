"""The bootstrap over subjects: against a loop that copies rows, paired, and where there is no interval."""

from __future__ import annotations

import numpy as np
import pytest

from jmt_jax import metrics, statistics
from jmt_jax.statistics import (
    Interval,
    Predictions,
    classification_metric,
    join,
    paired_difference,
    per_subject,
    regression_metric,
    subject_bootstrap,
    subject_mean,
)


def make_table(seed, subjects=8, rows=12, skill=1.0, prefix="s"):
    rng = np.random.default_rng(seed)
    names = [f"{prefix}{s}" for s in range(subjects) for _ in range(rows)]
    labels = np.arange(subjects * rows) % 2
    each = np.repeat(rng.normal(size=subjects), rows)
    logit = skill * (2 * labels - 1) + each + rng.normal(size=len(labels))
    chance = 1 / (1 + np.exp(-logit))
    return Predictions(
        names,
        [f"{n}-{i}" for i, n in enumerate(names)],
        labels,
        np.stack([1 - chance, chance], axis=1),
        rng.random(len(labels)) < 0.9,
    )


def rows_of(table, rows):
    return Predictions(
        [table.subjects[i] for i in rows],
        [table.recordings[i] for i in rows],
        table.labels[rows],
        table.outputs[rows],
        table.mask[rows],
    )


def test_the_interval_is_that_of_copied_rows():
    runs = [make_table(0), make_table(1)]
    found = subject_bootstrap(classification_metric, runs, num_resamples=50, seed=3)
    names = runs[0].labelled_subjects()
    counts = np.random.default_rng(3).multinomial(len(names), [1 / len(names)] * len(names), size=50)
    values = []
    for count in counts:
        each = []
        for run in runs:
            rows = [
                i for name, n in zip(names, count, strict=True) for _ in range(n)
                for i, subject in enumerate(run.subjects) if subject == name
            ]  # fmt: skip
            copied = rows_of(run, np.array(rows))
            each.append(metrics.classification(copied.labels, copied.outputs, copied.mask)["auroc"])
        values.append(np.mean(each))
    np.testing.assert_allclose(found["auroc"].ci95, np.percentile(values, [2.5, 97.5]))
    expected = [metrics.classification(r.labels, r.outputs, r.mask)["auroc"] for r in runs]
    assert found["auroc"].value == pytest.approx(np.mean(expected))
    assert found["auroc"].subjects == 8
    assert set(found) == set(metrics.CLASSIFICATION_NAMES)


def test_it_is_deterministic_and_blind_to_the_order_of_rows():
    table = make_table(0)
    shuffled = rows_of(table, np.random.default_rng(0).permutation(len(table.labels)))
    first = subject_bootstrap(classification_metric, [table], 100, seed=1)
    assert first == subject_bootstrap(classification_metric, [table], 100, seed=1)
    again = subject_bootstrap(classification_metric, [shuffled], 100, seed=1)
    np.testing.assert_allclose(again["auroc"].ci95, first["auroc"].ci95)
    assert first != subject_bootstrap(classification_metric, [table], 100, seed=2)


def test_blocks_change_nothing(monkeypatch):
    table = make_table(0)
    whole = subject_bootstrap(classification_metric, [table], 40)
    monkeypatch.setattr(statistics, "_CELLS_AT_ONCE", 7 * len(table.labels))
    parts = subject_bootstrap(classification_metric, [table], 40)
    np.testing.assert_allclose(parts["accuracy"].ci95, whole["accuracy"].ci95)


def test_rows_of_one_person_do_not_narrow_the_interval():
    table = make_table(0)
    tenfold = join([table] * 10)
    one, ten = (subject_bootstrap(classification_metric, [t], 200) for t in (table, tenfold))
    np.testing.assert_allclose(one["accuracy"].ci95, ten["accuracy"].ci95)


def test_one_subject_has_a_value_and_no_interval():
    found = subject_bootstrap(classification_metric, [make_table(0, subjects=1)])
    assert found["accuracy"].ci95 is None
    assert found["accuracy"].value is not None
    assert found["accuracy"].subjects == 1


def test_unlabelled_subjects_are_not_counted():
    table = make_table(0)
    mask = table.mask & (np.array(table.subjects) != "s0")
    found = subject_bootstrap(classification_metric, [table])
    assert found["accuracy"].subjects == 8
    masked = Predictions(table.subjects, table.recordings, table.labels, table.outputs, mask)
    found = subject_bootstrap(classification_metric, [masked])
    assert found["accuracy"].subjects == 7
    assert "s0" not in per_subject(classification_metric, [masked])


def test_folds_are_joined_not_averaged():
    folds = [make_table(s, subjects=1, prefix=f"p{s}") for s in range(4)]
    with pytest.raises(ValueError, match="one of 4 subjects"):
        subject_bootstrap(classification_metric, folds)
    joined = join(folds)
    assert subject_bootstrap(classification_metric, [joined])["accuracy"].subjects == 4


def test_seeds_that_test_other_subjects():
    runs = [make_table(0, prefix="a"), make_table(1, prefix="b")]
    found = subject_bootstrap(classification_metric, runs, 200)["accuracy"]
    each = [subject_bootstrap(classification_metric, [run])["accuracy"].value for run in runs]
    assert found.value == pytest.approx(np.mean(each))
    assert found.subjects == 16
    assert found.ci95[0] < found.value < found.ci95[1]


def test_an_undefined_metric_is_none():
    table = make_table(0)
    one_class = Predictions(
        table.subjects, table.recordings, np.zeros_like(table.labels), table.outputs, table.mask
    )
    found = subject_bootstrap(classification_metric, [one_class], 50)
    assert found["auroc"] == Interval(None, None, 8)
    assert found["accuracy"].ci95 is not None
    # Only one of eight subjects has class 1: a third of the draws lacks it.
    rare = np.where(np.array(table.subjects) == "s0", table.labels, 0)
    found = subject_bootstrap(
        classification_metric,
        [Predictions(table.subjects, table.recordings, rare, table.outputs, table.mask)],
    )
    assert found["auroc"].value is not None
    assert found["auroc"].ci95 is None


@pytest.mark.parametrize("unit", ["pooled", "subject"])
def test_paired_differences_share_their_draws(unit):
    good, bad = make_table(0, skill=2.0), make_table(0, skill=0.2)
    same = paired_difference(classification_metric, [good], [good], 100, unit=unit)
    assert same["accuracy"] == Interval(0.0, (0.0, 0.0), 8)
    better = paired_difference(classification_metric, [good], [bad], 300, unit=unit)["accuracy"]
    assert better.ci95[0] > 0
    assert better.ci95[0] < better.value < better.ci95[1]
    worse = paired_difference(classification_metric, [bad], [good], 300, unit=unit)["accuracy"]
    np.testing.assert_allclose(worse.ci95, (-better.ci95[1], -better.ci95[0]))
    per = [per_subject(classification_metric, [t]) for t in (good, bad)]
    if unit == "subject":
        mean = np.mean([per[0][s]["accuracy"] - per[1][s]["accuracy"] for s in per[0]])
        assert better.value == pytest.approx(mean)


def test_paired_differences_want_the_same_subjects():
    with pytest.raises(ValueError, match="A holds 8 subjects, B 7, 1 not in both"):
        paired_difference(classification_metric, [make_table(0)], [make_table(0, subjects=7)])


def test_per_subject_is_each_subjects_own_metric():
    runs = [make_table(0), make_table(1)]
    found = per_subject(classification_metric, runs)
    assert list(found) == sorted(set(runs[0].subjects))
    mine = [rows_of(run, np.flatnonzero(np.array(run.subjects) == "s3")) for run in runs]
    expected = [metrics.classification(t.labels, t.outputs, t.mask)["accuracy"] for t in mine]
    assert found["s3"]["accuracy"] == pytest.approx(np.mean(expected))


def test_regression():
    rng = np.random.default_rng(0)
    labels = rng.uniform(-1, 1, (60, 2))
    mask = rng.random(labels.shape) < 0.8
    outputs = labels + 0.2 * rng.normal(size=labels.shape)
    table = Predictions(
        [f"s{i % 6}" for i in range(60)], ["r"] * 60, np.where(mask, labels, np.nan), outputs, mask
    )
    found = subject_bootstrap(regression_metric(["valence", "arousal"]), [table], 100)
    expected = metrics.regression(labels, outputs, mask)
    assert {name: interval.value for name, interval in found.items()} == pytest.approx(expected)
    low, high = found["ccc_mean"].ci95
    assert low < found["ccc_mean"].value < high


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match="equal lengths"):
        Predictions(["a"], ["r"], np.zeros(2, int), np.zeros((2, 2)), np.ones(2, bool))
    with pytest.raises(ValueError, match="no runs"):
        subject_bootstrap(classification_metric, [])


def make_frames(seed, videos=6, frames=40):
    rng = np.random.default_rng(seed)
    names = np.repeat([f"v{v}" for v in range(videos)], frames)
    labels = rng.normal(size=(videos, 1, 2)) + 0.3 * rng.normal(size=(videos, frames, 2))
    outputs = 0.8 * labels + 0.1 + 0.4 * rng.normal(size=labels.shape)
    mask = rng.random(labels.shape) < 0.8
    mask[-1] = False
    rows = videos * frames
    return Predictions(
        tuple(names), tuple(names), np.where(mask, labels, np.nan).reshape(rows, 2),
        outputs.reshape(rows, 2), mask.reshape(rows, 2),
    )  # fmt: skip


def test_weights_of_whole_videos_are_weights_of_their_rows():
    metric, runs = regression_metric(("valence", "arousal")), [make_frames(0), make_frames(1)]

    def by_rows(table, weights):
        return metric(table, weights)

    for found, expected in (
        (subject_bootstrap(metric, runs, 60), subject_bootstrap(by_rows, runs, 60)),
        (subject_mean(metric, runs, 60), subject_mean(by_rows, runs, 60)),
    ):
        assert found.keys() == expected.keys() and found["ccc_mean"].subjects == 5
        for name, interval in expected.items():
            assert found[name].value == pytest.approx(interval.value, rel=1e-9)
            assert found[name].ci95 == pytest.approx(interval.ci95, rel=1e-9)
    each = per_subject(metric, runs)
    mean = np.mean([values["ccc_valence"] for values in each.values()])
    assert subject_mean(metric, runs, 10)["ccc_valence"].value == pytest.approx(mean)


def test_nothing_labelled_is_no_number():
    table = make_frames(0)
    table.mask[:] = False
    metric = regression_metric(("valence", "arousal"))
    for found in (subject_bootstrap(metric, [table], 5), subject_mean(metric, [table], 5)):
        assert found["ccc_mean"] == Interval(None, None, 0)
    assert per_subject(metric, [table]) == {}
