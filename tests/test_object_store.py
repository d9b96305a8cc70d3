"""Checkpoints and small files in an emulator of Cloud Storage: pip install gcsfs gcp-storage-emulator."""

from __future__ import annotations

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jmt_jax import addresses, run_folder
from jmt_jax.checkpoint import Checkpoints
from jmt_jax.train_state import TrainState

_PORT = 9024


@pytest.fixture
def bucket(monkeypatch):
    for name in ("gcsfs", "gcp_storage_emulator"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    from etils.epath import gpath
    from gcp_storage_emulator.server import create_server

    address = f"http://localhost:{_PORT}"
    for name in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"):
        monkeypatch.setenv(name, address)
    # The emulator does not say of what kind a bucket is, and Google is not asked.
    monkeypatch.setattr(gpath, "_is_zonal_gcs_bucket", lambda bucket: False)
    server = create_server("localhost", _PORT, in_memory=True, default_bucket="bucket")
    server.start()
    yield "gs://bucket"
    server.stop()


def _state(step: int) -> TrainState:
    params = {"head": {"kernel": jnp.full((130, 130), float(step)), "bias": jnp.arange(3.0)}}
    state = TrainState.create({"params": params}, optax.adamw(0.1), ("head",))
    return state.replace(step=jnp.int32(step))


@pytest.mark.slow
def test_checkpoints_are_saved_verified_and_set_aside(bucket):
    folder = f"{bucket}/run/checkpoints/head"
    checkpoints = Checkpoints(folder)
    assert checkpoints.latest_step() is None
    for step in (1, 2, 3):
        checkpoints.save(_state(step), {"best_step": 1, "at": step})
        checkpoints.wait()
    checkpoints.close()
    data = next((addresses.path_of(folder) / "3" / "variables" / "d").iterdir())
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(bytes(content))

    checkpoints = Checkpoints(folder)
    assert checkpoints.resume_step() == 2 and checkpoints.steps() == [1, 2]
    state, progress = checkpoints.restore(2, jax.tree.map(jnp.zeros_like, _state(2)))
    assert progress == {"best_step": 1, "at": 2}
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(_state(2)), strict=True):
        np.testing.assert_array_equal(one, other)
    checkpoints.keep_last_and_best()
    assert checkpoints.steps() == [1, 2]
    checkpoints.close()


@pytest.mark.slow
def test_a_runs_files_are_there_for_the_next_start(bucket, monkeypatch):
    monkeypatch.setattr(run_folder, "_copies", {})
    here = run_folder.open_folder(f"{bucket}/another")
    assert not any(here.iterdir())
    (here / "predictions").mkdir()
    (here / "predictions" / "test.csv").write_text("a\n")
    run_folder.push(here)
    again = run_folder.open_folder(f"{bucket}/another")
    assert (again / "predictions" / "test.csv").read_text() == "a\n"
    run_folder.fetch(again / "done")
    assert not (again / "done").exists()
    run_folder.remove(here / "predictions")
    assert not any(run_folder.open_folder(f"{bucket}/another").rglob("*.csv"))
