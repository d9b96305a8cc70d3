"""Metrics: hand-made cases, weights as repetition, and what is undefined."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from jmt_jax import metrics


def test_regression_against_other_formulas():
    rng = np.random.default_rng(0)
    labels = rng.normal(size=(80, 2))
    predictions = 0.5 * labels + 0.3 + rng.normal(size=labels.shape)
    mask = rng.random(labels.shape) < 0.6
    dirty = np.where(mask, labels, np.nan)
    values = metrics.regression(dirty, predictions, mask)
    for a, name in enumerate(["valence", "arousal"]):
        x, y = predictions[mask[:, a], a], labels[mask[:, a], a]
        np.testing.assert_allclose(values[f"pcc_{name}"], scipy.stats.pearsonr(x, y).statistic)
        np.testing.assert_allclose(values[f"rmse_{name}"], np.sqrt(np.mean((x - y) ** 2)))
        np.testing.assert_allclose(values[f"sagr_{name}"], np.mean(np.sign(x) == np.sign(y)))
    np.testing.assert_allclose(values["rmse_mean"], (values["rmse_valence"] + values["rmse_arousal"]) / 2)
    assert set(values) == {
        f"{m}_{n}" for m in metrics.REGRESSION_NAMES for n in ("valence", "arousal", "mean")
    }


@pytest.mark.parametrize(
    "labels, predictions, ccc, pcc",
    [
        ([0.1, 0.5, 0.9], [0.3, 0.3, 0.3], 0.0, None),
        ([0.3, 0.3, 0.3], [0.1, 0.5, 0.9], 0.0, None),
        ([0.3, 0.3], [0.3, 0.3], None, None),
        ([0.3, 0.3], [0.7, 0.7], 0.0, None),
        ([0.1, 0.7], [0.1, 0.7], 1.0, 1.0),
        ([], [], None, None),
    ],
)
def test_constants(labels, predictions, ccc, pcc):
    values = metrics.regression(np.reshape(labels, (-1, 1)), np.reshape(predictions, (-1, 1)), names=["pain"])
    assert values["ccc_pain"] == (ccc if ccc is None else pytest.approx(ccc))
    assert values["pcc_pain"] == (pcc if pcc is None else pytest.approx(pcc))


def test_classification_by_hand():
    labels = np.array([0, 0, 0, 1, 1])
    scores = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.4, 0.6], [0.2, 0.8]])
    values = metrics.classification(labels, scores)
    assert values["confusion_matrix"] == [[2, 1], [0, 2]]
    assert values["accuracy"] == pytest.approx(4 / 5)
    assert values["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert values["f1_macro"] == pytest.approx((2 * 2 / 5 + 2 * 2 / 5) / 2)
    assert values["auroc"] == pytest.approx(5 / 6)
    assert metrics.classification(labels, np.log(scores))["auroc"] == pytest.approx(5 / 6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 4))
def test_auroc_counts_pairs_and_ties(seed, classes):
    rng = np.random.default_rng(seed)
    labels = np.r_[np.arange(classes), rng.integers(0, classes, 20)]
    scores = rng.integers(0, 4, (len(labels), classes)) / 4.0
    margins = [scores[:, 1] - scores[:, 0]] if classes == 2 else list(scores.T)
    expected = []
    for k, margin in zip([1] if classes == 2 else range(classes), margins, strict=True):
        pairs = margin[labels == k][:, None] - margin[labels != k][None]
        expected.append(np.mean((pairs > 0) + 0.5 * (pairs == 0)))
    np.testing.assert_allclose(metrics.classification(labels, scores)["auroc"], np.mean(expected))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_weight_is_a_repetition(seed):
    rng = np.random.default_rng(seed)
    weights = rng.integers(0, 3, (3, 30))
    labels, scores, mask = rng.integers(0, 3, 30), rng.random((30, 3)), rng.random(30) < 0.8
    batched = metrics.weighted_classification(labels, scores, mask, weights)
    targets, predictions = rng.normal(size=(30, 1)), rng.normal(size=(30, 1))
    batched |= metrics.weighted_regression(targets, predictions, mask[:, None], ["pain"], weights)
    for r, weight in enumerate(weights):
        rows = np.repeat(np.arange(30), weight)
        single = metrics.classification(labels[rows], scores[rows], mask[rows])
        single |= metrics.regression(targets[rows], predictions[rows], mask[rows][:, None], ["pain"])
        weighted = metrics.classification(labels, scores, mask, weight)
        weighted |= metrics.regression(targets, predictions, mask[:, None], ["pain"], weight)
        assert single.pop("confusion_matrix") == weighted.pop("confusion_matrix")
        for name, value in single.items():
            expected = np.nan if value is None else value
            np.testing.assert_allclose(batched[name][r], expected, atol=1e-12)
            np.testing.assert_allclose(
                np.nan if weighted[name] is None else weighted[name], expected, atol=1e-12
            )


def test_masked_rows_do_not_count():
    labels = np.array([0, 1, -1])
    scores = np.array([[1, 0], [0, 1], [np.nan, np.nan]])
    assert metrics.classification(labels, scores, labels >= 0)["accuracy"] == 1.0


def test_what_is_undefined_is_none():
    scores = np.array([[0.8, 0.2], [0.4, 0.6]])
    values = metrics.classification(np.array([0, 0]), scores)
    assert values["auroc"] is None
    assert values["accuracy"] == values["balanced_accuracy"] == 0.5
    nothing = metrics.classification(np.array([0, 0]), scores, np.zeros(2, bool))
    assert {name: nothing[name] for name in metrics.CLASSIFICATION_NAMES} == dict.fromkeys(
        metrics.CLASSIFICATION_NAMES
    )
    three = np.array([[0.8, 0.1, 0.1], [0.4, 0.6, 0.0]])
    assert metrics.classification(np.array([0, 1]), three)["auroc"] is None


def test_wrong_input_is_named():
    scores = np.array([[0.8, 0.2], [0.4, 0.6]])
    with pytest.raises(ValueError, match=r"expected 0\.\.1"):
        metrics.classification(np.array([0, 2]), scores)
    with pytest.raises(ValueError, match="finite"):
        metrics.classification(np.array([0, 1]), scores * np.nan)
    with pytest.raises(ValueError, match="weight"):
        metrics.classification(np.array([0, 1]), scores, weights=np.array([1, -1]))
    with pytest.raises(ValueError, match="names"):
        metrics.regression(scores, scores, names=["pain"])


def test_running_sums_add_up():
    rng = np.random.default_rng(0)
    logits, labels, mask = rng.normal(size=(8, 3)), rng.integers(0, 3, 8), np.arange(8) % 3 > 0
    total = None
    for rows, loss in ((slice(0, 5), 2.0), (slice(5, 8), 4.0)):
        part = metrics.running_sums(
            jnp.float32(loss), jnp.asarray(logits[rows]), jnp.asarray(labels[rows]), jnp.asarray(mask[rows])
        )
        total = part if total is None else metrics.merge_sums(total, part)
    values = metrics.compute_sums(total)
    counts = mask[:5].sum(), mask[5:].sum()
    assert values["loss"] == pytest.approx((2 * counts[0] + 4 * counts[1]) / sum(counts))
    assert values["accuracy"] == pytest.approx(np.mean((logits.argmax(1) == labels)[mask]))
    none = metrics.running_sums(
        jnp.float32(jnp.nan), jnp.zeros((2, 1)), jnp.ones((2, 1)), jnp.zeros((2, 1), bool)
    )
    assert metrics.compute_sums(none) == {"loss": None, "sagr": None}
