"""Learning-rate schedules, and optimizers as torch has them."""

from __future__ import annotations

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
    np.testing.assert_allclose(found, [0, 5e-5, 1e-4, 1e-4, 1e-5], rtol=1e-5)


def test_cosine_ends_at_the_floor():
    options = {"learning_rate": 1e-2, "learning_rate_floor": 1e-4, "schedule": "cosine", "warmup_epochs": 10}
    found = _rates(options, [0, 10, 30, 50, 60], total_epochs=50)
    np.testing.assert_allclose(found, [0, 1e-2, (1e-2 + 1e-4) / 2, 1e-4, 1e-4], rtol=1e-4)


def test_an_unknown_schedule_is_a_sentence():
    with pytest.raises(UsageError, match="constant, cosine, step"):
        make_schedule({"learning_rate": 1.0, "schedule": "linear"}, 10, 1)


def test_sgd_with_nesterov_momentum_and_decay():
    options = {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
    optimizer = make_optimizer(options, optax.constant_schedule(0.1))
    weights = jnp.asarray([1.0, -2.0])
    state, expected, momentum = optimizer.init(weights), np.array([1.0, -2.0]), np.zeros(2)
    for gradient in ([0.5, 0.1], [-0.2, 0.3], [0.4, 0.0]):
        change, state = optimizer.update(jnp.asarray(gradient), state, weights)
        weights = optax.apply_updates(weights, change)
        decayed = np.array(gradient) + 0.01 * expected
        momentum = 0.9 * momentum + decayed
        expected = expected - 0.1 * (decayed + 0.9 * momentum)
    np.testing.assert_allclose(weights, expected, rtol=1e-5)
