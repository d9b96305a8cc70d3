"""A batch in micro-batches gives the undivided batch's gradient; averaged weights beside the trained."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jmt_jax import losses
from jmt_jax.checkpoint import Checkpoints
from jmt_jax.models.model import build_model
from jmt_jax.runtime import Runtime
from jmt_jax.steps import make_train_step
from jmt_jax.train_state import TrainState, moved_averages

ROWS, TOKENS, WIDTH = 8, 3, 5
LOSSES = {
    "cross_entropy": losses.cross_entropy(2),
    "ccc": losses.ccc(2),
}


def _model(axis_name=None, dropout=0.0, batch_norm=False):
    backbone = {"name": "identity"}
    if batch_norm:
        backbone = {"name": "conv1d", "channels": (3,), "kernel_sizes": (3,), "strides": (1,), "features": 4,
                    "normalization": "batch"}  # fmt: skip
    return build_model(
        ("features",),
        {"features": backbone},
        {"name": "concat", "dim": 6},
        {"name": "mlp", "outputs": 2, "hidden": (4,), "pooling": "none", "dropout": dropout},
        axis_name=axis_name,
    )


@functools.cache
def _batch(batch_norm=False):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((ROWS, TOKENS, *((16, 1) if batch_norm else (WIDTH,))))
    return {
        "inputs": {"features": features.astype(np.float32)},
        "masks": {"features": rng.random((ROWS, TOKENS)) > 0.2},
        "index": np.arange(ROWS, dtype=np.int32),
    }


@functools.cache
def _variables(batch_norm=False):
    model, batch = _model(batch_norm=batch_norm), _batch(batch_norm)
    init = jax.jit(lambda inputs, masks: model.init(jax.random.key(0), inputs, masks))
    return {"batch_stats": {}, **jax.device_get(init(batch["inputs"], batch["masks"]))}


def _labelled(name, batch_norm=False):
    rng = np.random.default_rng(1)
    labels = rng.uniform(-1, 1, (ROWS, TOKENS, 2)).astype(np.float32)
    # Unequal parts: the mean of the parts' losses would be another number.
    mask = (rng.random((ROWS, TOKENS, 2)) > 0.3) & (np.arange(ROWS) % 4 != 1)[:, None, None]
    if name == "cross_entropy":
        labels, mask = (labels[..., 0] > 0).astype(np.int32), mask[..., 0]
    return {**_batch(batch_norm), "labels": labels, "label_mask": mask}


def _step(name, parts, parallelism="jit", devices=1, *, dropout=0.0, batch_norm=False, ema=0.0):
    runtime = Runtime.create(parallelism, jax.devices()[:devices])
    model, batch = _model(runtime.axis_name, dropout, batch_norm), _labelled(name, batch_norm)
    variables = _variables(batch_norm)
    optimizer, trainable = optax.sgd(1.0), tuple(variables["params"])
    state = TrainState.create(variables, optimizer, trainable, averaged=ema > 0)
    body = make_train_step(
        model, LOSSES[name], optimizer, trainable=trainable, seed=1, axis_name=runtime.axis_name,
        accumulation_steps=parts, ema_decay=ema,
    )  # fmt: skip
    step, state = runtime.compile(body, donate_state=True), runtime.put_state(state)
    state, measured = step(state, runtime.put_batch(batch))
    return jax.device_get((runtime.single(state), runtime.single(measured)))


def _close(one, other, tolerance=1e-5):
    for (path, a), b in zip(jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True):
        error = np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-2)
        assert error < tolerance, (jax.tree_util.keystr(path), error)


@pytest.mark.parametrize("name", LOSSES)
def test_micro_batches_have_the_gradient_of_the_undivided_batch(name):
    # The learning rate is 1 and there is no momentum: parameters tell the gradient.
    whole, measured = _step(name, 1)
    assert measured["gradient_norm"] > 1e-3
    for parts, parallelism, devices in ((4, "jit", 2), (2, "pmap", 4)):
        state, again = _step(name, parts, parallelism, devices)
        _close(state.params, whole.params)
        for key, value in measured.items():
            np.testing.assert_allclose(again[key], value, rtol=1e-5, err_msg=key)


def test_both_passes_draw_the_same_dropout_whatever_the_devices():
    # Were the second pass to draw anew, the moments' cotangent would belong to other predictions.
    one, measured = _step("ccc", 2, dropout=0.5)
    other, again = _step("ccc", 2, "pmap", 4, dropout=0.5)
    _close(other.params, one.params)
    np.testing.assert_allclose(again["loss"], measured["loss"], rtol=1e-5)


def test_running_statistics_move_once_a_micro_batch():
    # A batch of two equal halves: two moves of a tenth towards the same statistics.
    batch = _labelled("ccc", batch_norm=True)
    halves = jax.tree.map(lambda x: np.repeat(x[:4], 2, axis=0), batch)
    moved = []
    for parts in (1, 2):
        model, variables, optimizer = _model(batch_norm=True), _variables(batch_norm=True), optax.sgd(0.0)
        state = TrainState.create(variables, optimizer, ("head",))
        step = make_train_step(
            model, LOSSES["ccc"], optimizer, trainable=("head",), seed=0, accumulation_steps=parts
        )
        state, _ = jax.jit(step)(state, halves)
        moved.append(jax.tree.leaves(state.batch_stats["backbone_features"])[0])
    np.testing.assert_allclose(moved[1], moved[0] * 1.9, rtol=1e-3)


def test_averages_follow_the_weights():
    state, _ = _step("ccc", 1, "pmap", 2, ema=0.9)
    # The first update keeps (1 + 0) / (10 + 0) of the old average.
    expected = jax.tree.map(lambda old, new: 0.1 * old + 0.9 * new, _variables()["params"], state.params)
    _close(state.averages["params"], expected)
    evaluated = state.evaluated_variables["params"]
    jax.tree.map(np.testing.assert_array_equal, evaluated, state.averages["params"])


def test_an_average_of_what_does_not_change_keeps_every_bit():
    values = {"a": np.float32([0.1, 1 / 3, 1e-8])}
    moved = moved_averages(values, values, 0.9, jnp.int32(50))
    np.testing.assert_array_equal(moved["a"], values["a"])
    moved = moved_averages({"a": jnp.float32(1)}, {"a": jnp.float32(2)}, 0.9, jnp.int32(1000))
    np.testing.assert_allclose(moved["a"], 1.1, rtol=1e-6)


def test_a_checkpoint_holds_both(tmp_path):
    state, _ = _step("ccc", 2, ema=0.9, batch_norm=True)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, {"best_step": 1})
    checkpoints.wait()
    restored, _ = checkpoints.restore(1, state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    variables = checkpoints.restore_variables(1, state.variables)
    jax.tree.map(np.testing.assert_array_equal, variables, state.evaluated_variables)
    checkpoints.close()
