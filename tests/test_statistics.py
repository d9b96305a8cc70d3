"""Metrics over subjects with their intervals: against slow loops, paired, and where there is no interval."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from jmt_jax import intervals, metrics, statistics
from jmt_jax.statistics import (
    Predictions,
    classification_metric,
    estimate,
    join,
    paired_difference,
    per_subject,
    regression_metric,
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


def table_arrays(table):
    return table.labels, table.outputs, table.mask


def rows_of(table, rows):
    return Predictions(
        [table.subjects[i] for i in rows],
        [table.recordings[i] for i in rows],
        table.labels[rows],
        table.outputs[rows],
        table.mask[rows],
    )


def test_the_interval_is_that_of_left_out_subjects():
    runs = [make_table(0), make_table(1)]
    found = estimate(classification_metric, runs)
    names = np.array(runs[0].subjects)

    def mean_over_runs(kept):
        tables = [rows_of(run, np.flatnonzero(kept)) for run in runs]
        each = [metrics.classification(t.labels, t.outputs, t.mask)["balanced_accuracy"] for t in tables]
        return np.mean(each)

    def logit(share):
        return np.log(share / (1 - share))

    subjects = sorted(set(names))
    whole = logit(mean_over_runs(names != ""))
    pseudo = np.array([8 * whole - 7 * logit(mean_over_runs(names != one)) for one in subjects])
    half = scipy.stats.t.ppf(0.975, 7) * pseudo.std(ddof=1) / np.sqrt(8)
    expected = 1 / (1 + np.exp(-np.array([whole - half, whole + half])))
    np.testing.assert_allclose(found["balanced_accuracy"].ci95, expected)
    assert found["balanced_accuracy"].value == pytest.approx(mean_over_runs(names != ""))
    assert found["balanced_accuracy"][2:] == (8, "pooled", 8, "jackknife_t", None)
    assert set(found) == {*metrics.CLASSIFICATION_NAMES, "auroc_pooled"}


def test_the_auroc_is_each_subjects_own_averaged_and_the_pooled_one_has_its_name():
    table = make_table(0)
    rare = np.where(np.isin(table.subjects, ["s1", "s2"]), 0, table.labels)
    table = Predictions(table.subjects, table.recordings, rare, table.outputs, table.mask)
    found = estimate(classification_metric, [table])
    own = [
        metrics.classification(*(rows[np.array(table.subjects) == one] for rows in table_arrays(table)))[
            "auroc"
        ]
        for one in ("s0", "s3", "s4", "s5", "s6", "s7")
    ]
    assert found["auroc"].value == pytest.approx(np.mean(own))
    assert found["auroc"][2:5] == (8, "subject", 6)
    assert found["auroc_pooled"].value == pytest.approx(metrics.classification(*table_arrays(table))["auroc"])
    assert found["auroc_pooled"].averaged_over == "pooled"
    mean = subject_mean(classification_metric, [table])["auroc"]
    assert mean.ci95 == pytest.approx(found["auroc"].ci95) and mean.units == 6


def test_subjects_of_one_class_are_ranked_within_their_fold():
    folds = []
    for fold in range(3):
        table = make_table(fold, prefix=f"{fold}-")
        classes = np.repeat([0, 1] * 4, 12)
        # Each fold's model has its own threshold.
        moved = np.clip(table.outputs[:, 1] * 0.2 + 0.4 * (fold == 1) + 0.3 * classes, 0, 1)
        outputs = np.stack([1 - moved, moved], axis=1)
        folds.append(Predictions(table.subjects, table.recordings, classes, outputs, table.mask))
    each = [metrics.classification(*table_arrays(fold))["auroc"] for fold in folds]
    found = estimate(classification_metric, [join(folds)])
    assert found["auroc"].value == pytest.approx(np.mean(each))
    assert found["auroc"][2:5] == (24, "fold", 3) and found["auroc"].ci95 is None
    assert found["auroc_pooled"].value < found["auroc"].value
    alone = join([rows_of(fold, np.flatnonzero(fold.labels == 0)) for fold in folds])
    assert estimate(classification_metric, [alone])["auroc"].value is None


def test_noise_in_leave_one_out_is_at_chance_but_for_the_pooled_ranking():
    found = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        folds, labels = [], rng.integers(0, 2, (12, 20))
        for left in range(12):
            # Knows the share of the class among the others, and nothing else.
            one = (labels.sum() - labels[left].sum()) / 220 + 0.001 * rng.normal(size=20)
            outputs = np.stack([1 - one, one], axis=1)
            folds.append(Predictions([f"s{left}"] * 20, ["r"] * 20, labels[left], outputs, np.full(20, True)))
        found.append(statistics.values(classification_metric, join(folds)))
    assert np.mean([one["auroc"] for one in found]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([one["auroc_pooled"] for one in found]) < 0.43


def test_it_is_deterministic_and_blind_to_the_order_of_rows():
    table = make_table(0)
    shuffled = rows_of(table, np.random.default_rng(0).permutation(len(table.labels)))
    first = estimate(classification_metric, [table])
    assert first == estimate(classification_metric, [table])
    again = estimate(classification_metric, [shuffled])
    assert [name for name, interval in first.items() if not interval.ci95] == ["auroc_pooled"]
    for name, interval in first.items():
        np.testing.assert_allclose(again[name].value, interval.value)
        assert not interval.ci95 or np.allclose(again[name].ci95, interval.ci95)
    frames, metric = make_frames(0, videos=31), regression_metric(("valence", "arousal"))
    first = estimate(metric, [frames], 100, seed=1)
    assert first == estimate(metric, [frames], 100, seed=1)
    assert first["ccc_mean"].ci95 != estimate(metric, [frames], 100, seed=2)["ccc_mean"].ci95


def test_blocks_change_nothing(monkeypatch):
    table = make_table(0)
    whole = estimate(classification_metric, [table])
    monkeypatch.setattr(statistics, "_CELLS_AT_ONCE", 7 * len(table.labels))
    parts = estimate(classification_metric, [table])
    np.testing.assert_allclose(parts["accuracy"].ci95, whole["accuracy"].ci95)


def test_rows_of_one_person_do_not_narrow_the_interval():
    table = make_table(0)
    tenfold = join([table] * 10)
    one, ten = (estimate(classification_metric, [t]) for t in (table, tenfold))
    np.testing.assert_allclose(one["accuracy"].ci95, ten["accuracy"].ci95)


def test_one_subject_has_a_value_and_no_interval():
    found = estimate(classification_metric, [make_table(0, subjects=1)])
    assert found["accuracy"].ci95 is None
    assert found["accuracy"].value is not None
    assert found["accuracy"].subjects == 1


def test_unlabelled_subjects_are_not_counted():
    table = make_table(0)
    mask = table.mask & (np.array(table.subjects) != "s0")
    found = estimate(classification_metric, [table])
    assert found["accuracy"].subjects == 8
    masked = Predictions(table.subjects, table.recordings, table.labels, table.outputs, mask)
    found = estimate(classification_metric, [masked])
    assert found["accuracy"].subjects == 7
    assert "s0" not in per_subject(classification_metric, [masked])


def test_folds_are_joined_not_averaged():
    folds = [make_table(s, subjects=1, prefix=f"p{s}") for s in range(4)]
    with pytest.raises(ValueError, match="one of 4 subjects"):
        estimate(classification_metric, folds)
    joined = join(folds)
    assert estimate(classification_metric, [joined])["accuracy"].subjects == 4


def test_seeds_that_test_other_subjects():
    runs = [make_table(0, prefix="a"), make_table(1, prefix="b")]
    found = estimate(classification_metric, runs)["accuracy"]
    each = [estimate(classification_metric, [run])["accuracy"].value for run in runs]
    assert found.value == pytest.approx(np.mean(each))
    assert found.subjects == 16
    assert found.ci95[0] < found.value < found.ci95[1]


def test_an_undefined_metric_is_none():
    table = make_table(0)
    one_class = Predictions(
        table.subjects, table.recordings, np.zeros_like(table.labels), table.outputs, table.mask
    )
    found = estimate(classification_metric, [one_class])
    assert found["auroc"][:3] == (None, None, 8) and found["auroc"].reason == "undefined"
    assert found["accuracy"].ci95 is not None
    # Only one of eight subjects has class 1: nothing is known of how others would be ranked.
    rare = np.where(np.array(table.subjects) == "s0", table.labels, 0)
    found = estimate(
        classification_metric,
        [Predictions(table.subjects, table.recordings, rare, table.outputs, table.mask)],
    )
    assert found["auroc"].value is not None and found["auroc"].averaged_over == "fold"
    assert found["auroc"].ci95 is None and "was measured to hold" in found["auroc"].reason
    assert "needs 87" in found["auroc_pooled"].reason


@pytest.mark.parametrize("unit", ["pooled", "subject"])
def test_paired_differences_are_over_people_and_seeds(unit):
    good, bad = ([make_table(seed, skill=skill) for seed in range(3)] for skill in (2.0, 0.2))
    better = paired_difference(classification_metric, good, bad, unit)["accuracy"]
    assert better.ci95[0] > 0
    assert better.ci95[0] < better.value < better.ci95[1]
    worse = paired_difference(classification_metric, bad, good, unit)["accuracy"]
    np.testing.assert_allclose(worse.ci95, (-better.ci95[1], -better.ci95[0]))
    values = [estimate(classification_metric, side)["accuracy"].value for side in (good, bad)]
    if unit == "pooled":
        assert better.value == pytest.approx(values[0] - values[1])
    else:
        per = [per_subject(classification_metric, side) for side in (good, bad)]
        mean = np.mean([per[0][s]["accuracy"] - per[1][s]["accuracy"] for s in per[0]])
        assert better.value == pytest.approx(mean)
    once = paired_difference(classification_metric, good[:1], bad, unit)["accuracy"]
    assert once.ci95 is None and once.reason.startswith("one seed")
    same = paired_difference(classification_metric, good, good, unit)["accuracy"]
    assert same.value == 0 and same.ci95[0] < 0 < same.ci95[1]


@pytest.mark.parametrize("unit", ["pooled", "subject"])
@pytest.mark.parametrize(("seeds", "subjects", "reason"), [(1, 1, "one seed"), (3, 1, "1 subject")])
def test_a_difference_without_an_interval_says_what_is_true(unit, seeds, subjects, reason):
    sides = [[make_table(seed, subjects=subjects) for seed in range(k, k + seeds)] for k in (0, 10)]
    found = paired_difference(classification_metric, *sides, unit)["accuracy"]
    assert found.ci95 is None and found.reason.startswith(reason)


def test_a_control_without_chance_has_one_table_for_all_seeds():
    good, control = [make_table(seed, skill=2.0) for seed in range(3)], make_table(9, skill=0.2)
    found = paired_difference(classification_metric, good, [control] * 3)["accuracy"]
    assert found.ci95[0] > 0 and found.method == "person_and_seed_t"


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
    found = estimate(regression_metric(["valence", "arousal"]), [table])
    expected = metrics.regression(labels, outputs, mask)
    assert {name: interval.value for name, interval in found.items()} == pytest.approx(expected)
    low, high = found["sagr_mean"].ci95
    assert low < found["sagr_mean"].value < high and found["rmse_mean"].reason == intervals.UNMEASURED
    # Below 28 no interval of a pooled correlation held; the mean over subjects has one.
    assert found["ccc_mean"].ci95 is None
    assert found["ccc_mean"].reason == "6 subjects: an interval needs 28 to hold its 95 %"
    assert subject_mean(regression_metric(["valence", "arousal"]), [table])["ccc_mean"].ci95 is not None


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match="equal lengths"):
        Predictions(["a"], ["r"], np.zeros(2, int), np.zeros((2, 2)), np.ones(2, bool))
    with pytest.raises(ValueError, match="no runs"):
        estimate(classification_metric, [])


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

    for of in (estimate, subject_mean):
        found, expected = of(metric, runs), of(by_rows, runs)
        assert found.keys() == expected.keys() and found["ccc_mean"].subjects == 5
        for name, interval in expected.items():
            assert found[name].value == pytest.approx(interval.value, rel=1e-9)
            assert (found[name].ci95 or ()) == pytest.approx(interval.ci95 or (), rel=1e-9)
    each = per_subject(metric, runs)
    mean = np.mean([values["ccc_valence"] for values in each.values()])
    assert subject_mean(metric, runs)["ccc_valence"].value == pytest.approx(mean)


def test_many_videos_have_an_interval_of_the_pooled_ccc():
    metric, runs = regression_metric(("valence", "arousal")), [make_frames(s, videos=31) for s in range(2)]
    found = estimate(metric, runs)["ccc_mean"]
    assert found.ci95[0] < found.value < found.ci95[1] and found.method == "bootstrap_t"
    again = estimate(metric, [join([run, run]) for run in runs])["ccc_mean"]
    np.testing.assert_allclose(again.ci95, found.ci95)


def test_nothing_labelled_is_no_number():
    table = make_frames(0)
    table.mask[:] = False
    metric = regression_metric(("valence", "arousal"))
    for found in (estimate(metric, [table]), subject_mean(metric, [table])):
        assert found["ccc_mean"][:3] == (None, None, 0)
    assert per_subject(metric, [table]) == {}
