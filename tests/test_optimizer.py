"""Learning-rate schedules, and optimizers as torch has them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data_pipelines.errors import UsageError
from jmt_jax.optimizer import make_optimizer, make_schedule

PAPER = {
    "learning_rate": 1e-4,
    "learning_rate_floor": 1e-7,
    "schedule": "step",
    "decay_factor": 0.1,
    "decay_every_epochs": 40,
}


def _rates(options, epochs, steps_per_epoch=3, total_epochs=200):
    schedule = make_schedule(options, total_epochs * steps_per_epoch, steps_per_epoch)
    return [float(schedule(round(epoch * steps_per_epoch))) for epoch in epochs]


def test_steps_down_to_the_floor_are_the_papers():
    found = _rates(PAPER, [0, 39.6, 40, 79, 80, 120, 160, 199])
    np.testing.assert_allclose(found, [1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-7, 1e-7, 1e-7], rtol=1e-5)


def test_warm_up_comes_first():
    found = _rates({**PAPER, "warmup_epochs": 10}, [0, 5, 10, 49, 50])
    np.testing.assert_allclose(found, [1e-4 / 30, 1e-4 * 16 / 30, 1e-4, 1e-4, 1e-5], rtol=1e-5)


def test_cosine_ends_at_the_floor():
    options = {"learning_rate": 1e-2, "learning_rate_floor": 1e-4, "schedule": "cosine", "warmup_epochs": 10}
    found = _rates(options, [0, 10, 30, 50, 60], total_epochs=50)
    np.testing.assert_allclose(found, [1e-2 / 30, 1e-2, (1e-2 + 1e-4) / 2, 1e-4, 1e-4], rtol=1e-4)


@pytest.mark.parametrize("updates", [1, 2, 5])
def test_the_first_update_already_learns(updates):
    """A rate of 0 would make the first update a step that changes nothing."""
    options = {"learning_rate": 1.0, "schedule": "constant", "warmup_epochs": 1}
    schedule = make_schedule(options, 4 * updates, updates)
    found = [float(schedule(number)) for number in range(updates + 1)]
    np.testing.assert_allclose(found, [*(np.arange(1, updates + 1) / updates), 1.0], rtol=1e-6)


def test_an_unknown_schedule_is_a_sentence():
    with pytest.raises(UsageError, match="constant, cosine, step"):
        make_schedule({"learning_rate": 1.0, "schedule": "linear"}, 10, 1)


def test_sgd_with_nesterov_momentum_and_decay():
    options = {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
    optimizer = make_optimizer(options, optax.constant_schedule(0.1))
    weights = {"kernel": jnp.asarray([1.0, -2.0])}
    state, expected, momentum = optimizer.init(weights), np.array([1.0, -2.0]), np.zeros(2)
    for gradient in ([0.5, 0.1], [-0.2, 0.3], [0.4, 0.0]):
        change, state = optimizer.update({"kernel": jnp.asarray(gradient)}, state, weights)
        weights = optax.apply_updates(weights, change)
        decayed = np.array(gradient) + 0.01 * expected
        momentum = 0.9 * momentum + decayed
        expected = expected - 0.1 * (decayed + 0.9 * momentum)
    np.testing.assert_allclose(weights["kernel"], expected, rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_weight_decay_leaves_biases_norms_and_tokens_alone(optimizer):
    options = {"optimizer": optimizer, "weight_decay": 0.1}
    weights = {
        "norm": {"scale": jnp.ones(3), "bias": jnp.ones(3)},
        "gru": {"input_kernel": jnp.ones((2, 3)), "input_bias": jnp.ones(3)},
        "bottleneck": jnp.ones((1, 2, 3)),
    }
    made = make_optimizer(options, optax.constant_schedule(0.1))
    nothing = jax.tree.map(jnp.zeros_like, weights)
    change, _ = made.update(nothing, made.init(weights), weights)
    assert float(change["gru"]["input_kernel"].max()) < 0
    del change["gru"]["input_kernel"]
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(change))
