"""Controls: features by other formulas, the optimum of the regression, and nothing learnt from test rows."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from data_pipelines.simple_numbers import signal_numbers
from jmt_jax import controls


def test_numbers_are_mean_deviation_slope_and_range():
    window = np.random.default_rng(0).normal(size=(50, 2))
    found = signal_numbers(window, rate_hz=10.0)
    np.testing.assert_allclose(found[:2], window.mean(0))
    np.testing.assert_allclose(found[2:4], window.std(0))
    slope = scipy.stats.linregress(np.arange(50) / 10.0, window[:, 1]).slope
    np.testing.assert_allclose(found[5], slope)
    np.testing.assert_allclose(found[6:], np.ptp(window, axis=0))


def test_missing_samples_do_not_count():
    rng = np.random.default_rng(0)
    mask = rng.random(40) < 0.5
    window = np.where(mask, rng.normal(size=40), np.nan)
    found = signal_numbers(window[:, None], rate_hz=1.0)
    fit = scipy.stats.linregress(np.flatnonzero(mask), window[mask])
    real = window[mask]
    np.testing.assert_allclose(found, [real.mean(), real.std(), fit.slope, np.ptp(real)])


def test_windows_without_samples_are_nan_not_zero():
    window = np.full((5, 1), np.nan)
    assert np.isnan(signal_numbers(window, 1.0)).all()
    window[2] = 1.0
    np.testing.assert_array_equal(signal_numbers(window, 1.0), [1.0, 0.0, np.nan, 0.0])


def make_classes(classes=3, rows=120, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % classes
    return 3 * rng.normal(size=(classes, 4))[y] + rng.normal(size=(rows, 4)) * 2 + 100, y


def test_logistic_regression_is_at_its_optimum():
    x, y = make_classes()
    probabilities = controls.logistic_regression(x, y, x, l2=2.0)
    np.testing.assert_allclose(probabilities.sum(1), 1.0)
    assert np.mean(probabilities.argmax(1) == y) > 0.8
    scaled = (x - x.mean(0)) / x.std(0)
    error = probabilities - np.eye(3)[y]
    np.testing.assert_allclose(error.sum(0), 0.0, atol=1e-3)
    # At the optimum the coefficients are -X'E / l2, so the logits that they give are the model's own.
    logits = scaled @ (-scaled.T @ error / 2.0)
    centred = np.log(probabilities) - logits
    centred -= centred.mean(1, keepdims=True)
    np.testing.assert_allclose(centred, np.broadcast_to(centred[:1], centred.shape), atol=1e-2)


def test_the_test_rows_teach_nothing():
    x, y = make_classes()
    one = controls.logistic_regression(x[:80], y[:80], x[80:90])
    more = controls.logistic_regression(x[:80], y[:80], np.concatenate([x[80:90], 1e6 + x[90:]]))
    np.testing.assert_allclose(more[:10], one)


def test_the_unit_of_a_feature_does_not_matter():
    x, y = make_classes()
    one = controls.logistic_regression(x, y, x)
    other = controls.logistic_regression(
        x * [1e-3, 1, 1e3, 1] + [0, 5, 0, 0], y, x * [1e-3, 1, 1e3, 1] + [0, 5, 0, 0]
    )
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_missing_and_constant_features():
    x, y = make_classes(classes=2)
    x = np.concatenate([x, np.full((len(x), 1), 7.0), np.full((len(x), 1), np.nan)], axis=1)
    missing = x.copy()
    missing[::7, 0] = np.nan
    found = controls.logistic_regression(missing, y, missing)
    assert np.isfinite(found).all()
    assert np.mean(found.argmax(1) == y) > 0.8
    # Where only the missing values differ by class, that they are missing is the evidence.
    tell = np.where(y[:, None] == 1, np.nan, 1.0)
    assert np.mean(controls.logistic_regression(tell, y, tell).argmax(1) == y) == 1.0


def test_absent_classes_get_no_probability():
    x, y = make_classes(classes=2)
    found = controls.logistic_regression(x, y * 2, x, num_classes=4)
    assert found.shape == (len(x), 4)
    assert (found[:, [1, 3]] == 0).all()
    only = controls.logistic_regression(x, np.ones(len(x), int), x, num_classes=2)
    np.testing.assert_array_equal(only, np.tile([0.0, 1.0], (len(x), 1)))


def test_balanced_classes_move_the_threshold():
    rng = np.random.default_rng(0)
    y = (np.arange(300) % 10 == 0).astype(int)
    x = y[:, None] + rng.normal(size=(300, 1))
    plain = controls.logistic_regression(x, y, x)
    balanced = controls.logistic_regression(x, y, x, class_weight="balanced")
    assert plain.mean(0)[1] == pytest.approx(0.1, abs=1e-3)
    assert balanced.mean(0)[1] > 0.3


def test_time_alone_can_tell_a_fixed_course():
    times = np.arange(0, 3000, 60.0)
    y = ((times > 900) & (times < 1800)).astype(int)
    bent, _ = controls.time_features(times, times)
    straight, _ = controls.time_features(times, times, num_knots=0)
    assert straight.shape == (50, 1)
    assert np.mean(controls.logistic_regression(bent, y, bent).argmax(1) == y) > 0.9
    assert np.mean(controls.logistic_regression(straight, y, straight).argmax(1) == y) < 0.75
    _, test = controls.time_features(times, times[:3] + 0.5)
    assert test.shape == (3, 9)


def test_wrong_input_is_named():
    x, y = make_classes()
    with pytest.raises(ValueError, match="N from 1 up"):
        controls.logistic_regression(x, y[:-1], x)
    with pytest.raises(ValueError, match=r"expected 0\.\.1"):
        controls.logistic_regression(x, y, x, num_classes=2)
