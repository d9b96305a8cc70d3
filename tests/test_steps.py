"""The step bodies: one result whatever the devices and the parallelism, rows that do not know each other."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jmt_jax import losses
from jmt_jax.models.model import build_model
from jmt_jax.runtime import Runtime
from jmt_jax.steps import make_eval_step, make_train_step
from jmt_jax.train_state import TrainState

ROWS = 8


def _model(axis_name=None, outputs=2, frozen=(), dropout=0.0):
    return build_model(
        ("visual", "physio"),
        {
            # One network with batch statistics is enough, and a small one compiles fast.
            "visual": {"name": "identity"},
            "physio": {"name": "conv1d", "channels": (4, 4), "features": 8, "normalization": "batch"},
        },
        # Nothing in a fusion asks how many devices there are; this one compiles fast.
        {"name": "concat", "dim": 8},
        {"name": "mlp", "outputs": outputs, "hidden": (8,), "pooling": "last", "dropout": dropout},
        frozen=frozen,
        axis_name=axis_name,
        modality_dropout=dropout / 2,
    )


@functools.cache
def _variables(outputs=2):
    batch, model = _batch(), _model(outputs=outputs)
    init = jax.jit(lambda batch: model.init(jax.random.key(0), batch["inputs"], batch["masks"], train=False))
    return jax.device_get(init(batch))


def _batch(kind="classification", seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, ROWS).astype(np.int32)
    mask = np.ones(ROWS, bool)
    mask[5] = False
    if kind == "regression":
        labels = rng.uniform(-1, 1, (ROWS, 2)).astype(np.float32)
        mask = np.repeat(mask[:, None], 2, 1)
    return {
        "inputs": {
            "visual": rng.standard_normal((ROWS, 2, 6)).astype(np.float32),
            "physio": rng.standard_normal((ROWS, 1, 64, 1)).astype(np.float32),
        },
        "masks": {"visual": rng.random((ROWS, 2)) > 0.2, "physio": rng.random((ROWS, 1)) > 0.2},
        "labels": labels,
        "label_mask": mask,
        "index": np.arange(ROWS, dtype=np.int32),
    }


def _train(parallelism, devices, *, kind="classification", steps=2, dropout=0.0, frozen=()):
    runtime = Runtime.create(parallelism, jax.devices()[:devices])
    model = _model(runtime.axis_name, frozen=frozen, dropout=dropout)
    loss = losses.cross_entropy(2) if kind == "classification" else losses.ccc(2)
    optimizer = optax.sgd(0.1, momentum=0.9)
    variables = _variables()
    trainable = ("fusion", "head") if frozen else tuple(variables["params"])
    state = runtime.put_state(TrainState.create(variables, optimizer, trainable))
    body = make_train_step(model, loss, optimizer, trainable=trainable, seed=1, axis_name=runtime.axis_name)
    step = runtime.compile(body)
    values = []
    for number in range(steps):
        state, measured = step(state, runtime.put_batch(_batch(kind, number)))
        values.append(float(runtime.single(measured)["loss"]))
    return jax.device_get(runtime.single(state)), values, variables


def _close(one, other, tolerance=1e-4):
    """Relative error of every leaf; sums over devices are added in another order than sums over rows."""
    for (path, a), b in zip(jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True):
        error = np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-3)
        assert error < tolerance, (jax.tree_util.keystr(path), error)


@pytest.mark.parametrize("kind", [pytest.param("classification", marks=pytest.mark.slow), "regression"])
def test_the_same_parameters_on_1_2_and_4_devices_with_jit_and_pmap(kind):
    expected, values, _ = _train("jit", 1, kind=kind)
    spread = [("jit", 4), ("pmap", 2)] if kind == "classification" else [("jit", 2), ("pmap", 4)]
    for parallelism, devices in spread:
        state, others, _ = _train(parallelism, devices, kind=kind)
        assert others == pytest.approx(values, rel=1e-4), (parallelism, devices)
        _close(state.params, expected.params)
        _close(state.batch_stats, expected.batch_stats)


def test_dropout_draws_the_same_under_jit_and_pmap():
    expected, values, _ = _train("jit", 1, dropout=0.5)
    state, others, _ = _train("pmap", 4, dropout=0.5)
    assert others == pytest.approx(values, rel=1e-4)
    _close(state.params, expected.params)


def test_frozen_backbones_keep_every_bit():
    state, _, before = _train("jit", 2, frozen=("visual", "physio"))
    for ours, theirs in ((state.params, before["params"]), (state.batch_stats, before["batch_stats"])):
        jax.tree.map(np.testing.assert_array_equal, ours["backbone_physio"], theirs["backbone_physio"])
    changed = jax.tree.map(
        lambda a, b: bool(np.any(a != b)), state.params["fusion"], before["params"]["fusion"]
    )
    assert any(jax.tree.leaves(changed))


def test_training_again_gives_the_same_bits():
    one, _, _ = _train("jit", 1, dropout=0.3)
    other, _, _ = _train("jit", 1, dropout=0.3)
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


def test_rows_do_not_know_each_other():
    model, batch = _model(), _batch()
    variables = _variables()
    step = jax.jit(make_eval_step(model))
    before = np.asarray(step(variables, batch))
    for stream in batch["inputs"]:
        batch["inputs"][stream][3] = batch["inputs"][stream][4]
        batch["masks"][stream][3] = ~batch["masks"][stream][3]
    after = np.asarray(step(variables, batch))
    rows = np.arange(ROWS) != 3
    assert np.array_equal(before[rows], after[rows]) and before.dtype == np.float32


def test_a_batch_without_labels_changes_nothing_but_is_finite():
    model, batch = _model(), _batch()
    batch["label_mask"][:] = False
    variables = _variables()
    optimizer = optax.sgd(0.1)
    state = TrainState.create(variables, optimizer, tuple(variables["params"]))
    step = make_train_step(
        model, losses.cross_entropy(2), optimizer, trainable=tuple(variables["params"]), seed=0
    )
    after, measured = jax.jit(step)(state, batch)
    assert np.isfinite(measured["loss"]) and float(measured["gradient_norm"]) == 0
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


def test_a_step_with_bad_numbers_changes_nothing_but_the_step():
    model, variables = _model(), _variables()
    optimizer, trainable = optax.adam(0.1), tuple(variables["params"])
    state = TrainState.create(variables, optimizer, trainable, averaged=True)
    step = jax.jit(
        make_train_step(model, losses.ccc(2), optimizer, trainable=trainable, seed=0, ema_decay=0.9)
    )
    good, bad = _batch("regression"), _batch("regression", 1)
    bad["inputs"]["visual"][0, 0, 0], bad["masks"]["visual"][0, 0] = np.inf, True
    skipped, measured = step(state, bad)
    assert bool(measured["skipped"]) and int(skipped.step) == 1
    jax.tree.map(np.testing.assert_array_equal, skipped.replace(step=state.step), state)
    after, measured = step(skipped, good)
    assert not measured["skipped"] and int(after.step) == 2
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), after.params["head"], state.params["head"])
    assert any(jax.tree.leaves(changed))


def test_the_step_compiles_once():
    runtime = Runtime.create("jit", jax.devices()[:2])
    model = _model()
    variables = _variables()
    optimizer = optax.adam(optax.constant_schedule(1e-3))
    state = TrainState.create(variables, optimizer, tuple(variables["params"]))
    state = jax.device_put(state, runtime.replicated)
    step = runtime.compile(
        make_train_step(
            model, losses.cross_entropy(2), optimizer, trainable=tuple(variables["params"]), seed=0
        )
    )
    for number in range(3):
        state, _ = step(state, runtime.put_batch(_batch(seed=number)))
    assert step._cache_size() == 1
    assert state.step.dtype == jnp.int32 and int(state.step) == 3
