"""Steps with bad numbers: dumped, counted, and too many in a row end the training."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.errors import BadDataError
from jmt_jax.step_monitor import StepMonitor

BATCH = {
    "inputs": {"face": np.array([[1.0, np.nan], [2.0, 3.0]], np.float32)},
    "masks": {"face": np.array([[True], [False]])},
    "labels": np.array([0, 1], np.int32),
    "index": np.array([7, -1], np.int32),
}


def _monitor(folder, most=3):
    return StepMonitor("joint", folder, lambda row: {"recording": f"clip_{row}"}, most)


def _said(loss, skipped=False):
    return {"loss": jnp.float32(loss), "gradient_norm": jnp.float32(1), "skipped": jnp.bool_(skipped)}


def test_a_skipped_step_is_dumped_and_is_not_in_the_mean(tmp_path):
    monitor = _monitor(tmp_path)
    for number, said in enumerate((_said(1.0), _said(np.nan, True), _said(0.5)), start=1):
        monitor.add(number, BATCH, said)
    assert monitor.summary() == {"loss": 0.75, "skipped_steps": 1} and monitor.last_loss() == 0.5
    (path,) = (tmp_path / "bad_steps").iterdir()
    found = json.loads(path.read_text())
    assert path.name == "joint_2.json" and found["loss"] == "nan"
    assert found["items"] == [{"index": 7, "recording": "clip_7"}]
    assert found["inputs"]["face"]["not_finite"] == 1 and found["inputs"]["face"]["largest"] == 3.0
    assert found["inputs"]["face"]["tokens_present"] == 1


def test_too_many_in_a_row_end_the_training_also_over_a_restart(tmp_path):
    monitor = _monitor(tmp_path)
    for number, bad in enumerate((True, True, False, True, True), start=1):
        monitor.add(number, BATCH, _said(np.inf if bad else 1 / 3, bad))
    again = _monitor(tmp_path)
    again.restore(json.loads(json.dumps(monitor.as_json())))
    assert again.summary() == monitor.summary() == {"loss": float(np.float32(1 / 3)), "skipped_steps": 4}
    again.add(6, BATCH, _said(np.nan, True))
    with pytest.raises(BadDataError, match="3 steps in a row .* the last one is step 6"):
        again.summary()
