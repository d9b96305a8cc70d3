"""Intervals and differences: what they must not depend on, their derivatives, and what they cover."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import coverage, coverage_people
from jmt_jax import differences, intervals, statistics
from jmt_jax.statistics import Predictions, classification_metric, estimate, regression_metric

SHARE, CORRELATION = (0.0, 1.0), (-1.0, 1.0)


def of_means(own, bounds=SHARE, skewed=True):
    """The interval of the mean of people's own values."""
    own = np.asarray(own, np.float64)
    without = (own.sum() - own) / (len(own) - 1)
    return intervals.jackknife(own.mean(), without, bounds, skewed=skewed)


SHARES = st.lists(st.floats(0.01, 0.99), min_size=5, max_size=30).filter(lambda own: np.ptp(own) > 1e-3)


@settings(max_examples=50, deadline=None)
@given(own=SHARES, skewed=st.booleans(), seed=st.integers(0, 99))
def test_an_interval_holds_its_value_within_bounds_whatever_the_order(own, skewed, seed):
    low, high = found = of_means(own, skewed=skewed)
    assert 0 <= low < np.mean(own) < high <= 1
    shuffled = np.random.default_rng(seed).permutation(own)
    np.testing.assert_allclose(of_means(shuffled, skewed=skewed), found, rtol=1e-6)
    # Errors instead of hits: the same interval, seen from above.
    np.testing.assert_allclose(
        of_means(1 - np.array(own), skewed=skewed), 1 - found[::-1], rtol=1e-6, atol=1e-9
    )
    # A correlation that is the same share of its own range.
    np.testing.assert_allclose(
        of_means(2 * np.array(own) - 1, CORRELATION, skewed), 2 * found - 1, rtol=1e-6, atol=1e-9
    )


def test_what_tells_nothing_of_its_spread_has_no_interval():
    assert np.isnan(of_means([0.7] * 8)).all()  # All the same.
    assert np.isnan(of_means([1, 1, 1, 1, 1, 0.5])).all()  # Without the last one it is at its bound.
    assert np.isnan(intervals.jackknife(np.nan, np.full(6, 0.5), SHARE, skewed=True)).all()
    assert intervals.rule("made_up") is None and intervals.rule("rmse_valence") is None


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), people=st.integers(5, 12), seeds=st.integers(2, 5))
def test_a_difference_does_not_know_the_order_of_people_or_seeds(seed, people, seeds):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(seeds, people)), rng.normal(size=(seeds + 1, people))
    low, high = found = differences.interval(a, b)
    assert low < a.mean() - b.mean() < high
    order = rng.permutation(people)
    moved = differences.interval(rng.permutation(a)[:, order], rng.permutation(b)[:, order])
    np.testing.assert_allclose(moved, found)
    np.testing.assert_allclose(differences.interval(b, a), (-high, -low))
    # What people bring to both sides is none of the methods'.
    person = rng.normal(size=people)
    np.testing.assert_allclose(differences.interval(a + person, b + person), found)
    np.testing.assert_allclose(differences.interval(a + 3, b), (low + 3, high + 3))


def test_seeds_that_disagree_widen_a_difference_and_one_says_nothing():
    rng = np.random.default_rng(0)
    a, b = 0.01 * rng.normal(size=(2, 5, 20))
    calm = differences.interval(a, b)
    apart = differences.interval(a + 0.1 * rng.normal(size=(5, 1)), b)
    assert np.ptp(apart) > 5 * np.ptp(calm)
    assert differences.interval(a[:1], b) == differences.ONE_SEED
    assert "needs 5" in differences.interval(a[:, :4], b[:, :4])
    assert "same for every person" in differences.interval(np.ones((2, 6)), np.zeros((2, 6)))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_each_persons_own_auroc_does_not_know_how_high_a_person_scores(seed):
    rng = np.random.default_rng(seed)
    people, rows = 6, 12
    names = [f"s{i}" for i in range(people) for _ in range(rows)]
    labels, logits = np.tile([0, 1], people * rows // 2), rng.normal(size=people * rows)
    moved = (
        np.repeat(rng.normal(size=people) * 5, rows) + np.repeat(rng.uniform(0.1, 3, people), rows) * logits
    )

    def auroc(logits):
        one = 1 / (1 + np.exp(-logits))
        outputs = np.stack([1 - one, one], axis=1)
        return statistics.values(
            classification_metric, Predictions(names, names, labels, outputs, np.ones(len(labels), bool))
        )["auroc"]

    assert auroc(moved) == pytest.approx(auroc(logits))


def test_the_influence_of_a_video_is_the_derivative_to_its_weight():
    rng = np.random.default_rng(0)
    table = coverage_people.VIDEOS[0].table(rng, 6)
    metric, video = regression_metric(("value",)), np.array(table.subjects, np.int64)
    weights, step = rng.uniform(0.5, 2, (1, 6)), 1e-6
    for name, (value, slope) in metric.influence(table, video, weights).items():
        whole = metric.of_groups(table, video, weights)[name]
        np.testing.assert_allclose(value, whole, rtol=1e-9)
        moved = metric.of_groups(table, video, weights + step * np.eye(6))[name]
        back = metric.of_groups(table, video, weights - step * np.eye(6))[name]
        np.testing.assert_allclose(slope[0], (moved - back) / (2 * step), rtol=1e-4, atol=1e-8)
        assert (slope * weights).sum() == pytest.approx(0, abs=1e-9)


def test_the_pooled_ccc_does_not_know_the_order_or_length_of_videos_rows():
    table = coverage_people.VIDEOS[1].table(np.random.default_rng(1), 30)
    twice = statistics.join([table, table])
    metric = regression_metric(("value",))
    for name in ("ccc_value", "pcc_value"):
        one, two = (estimate(metric, [each], 200)[name] for each in (table, twice))
        np.testing.assert_allclose(two.ci95, one.ci95, rtol=1e-6)
        assert one.ci95[0] < one.value < one.ci95[1]


@pytest.mark.parametrize("case", [1, 3, 9], ids=["accuracy", "accuracy, heavy tail", "auroc"])
def test_intervals_cover_what_they_say(case, monkeypatch):
    monkeypatch.setattr(coverage, "NUMBERS", (5, 10, 28))
    monkeypatch.setattr(coverage, "_DRAWS", 50)
    rows = list(coverage.counted_rows(coverage_people.COUNTED[case], 2000, np.random.default_rng(0)))
    assert all(row.given > 0.8 and 0.92 < row.covered < 0.98 for row in rows)
    assert rows[0].others["percentile bootstrap"] < 0.85
    assert not any(row.misses() for row in rows) and all(row.line().count("|") == 8 for row in rows)


def test_a_method_rarely_differs_from_itself_and_often_from_a_worse_one():
    rng, trainings = np.random.default_rng(0), coverage_people.TRAININGS[1]
    same = [trainings.pair(rng, 5, 10, 0.0) for _ in range(300)]
    worse = [trainings.pair(rng, 5, 10, 1.0) for _ in range(50)]
    assert np.mean([coverage._differs(*pair) for pair in same]) <= 0.07
    assert np.mean([coverage._differs(*pair) for pair in worse]) > 0.8
    assert np.mean([coverage._differs_by_people(*pair) for pair in same]) > 0.1


def test_a_good_accuracy_of_few_people_has_an_interval_that_tells_something():
    # With the whole skewness of five people it was [.003, .995].
    own = np.array([0.95, 1.0, 1.0, 1.0, 0.9])
    for skewed, least in ((True, 0.5), (False, 0.7)):
        low, high = of_means(own, skewed=skewed)
        assert least < low < own.mean() < high < 1


def test_a_skewed_interval_ends_where_halls_transformation_of_t_is_students_quantile():
    own = np.array([0.2, 0.9, 0.8, 0.85, 0.7, 0.75, 0.95, 0.9])
    logit, n = scipy.special.logit, len(own)
    pseudo = n * logit(own.mean()) - (n - 1) * logit((own.sum() - own) / (n - 1))
    t = (logit(own.mean()) - logit(of_means(own))) / pseudo.std(ddof=1) * np.sqrt(n)
    skewness = np.clip(scipy.stats.skew(pseudo), -0.5, 0.5)
    straight = t + skewness / np.sqrt(n) * (t**2 / 3 + 1 / 6) + (skewness / 3) ** 2 * t**3 / (3 * n)
    np.testing.assert_allclose(straight, scipy.stats.t.ppf([0.975, 0.025], n - 1))
