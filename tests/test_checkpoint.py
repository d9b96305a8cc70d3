"""Checkpoints that can be trusted: every byte verified, failed saves not listed, what is kept."""

from __future__ import annotations

import importlib.util
import pathlib
import resource

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data_pipelines.errors import BadDataError
from jmt_jax.checkpoint import MOST_FAILED_SAVES, Checkpoints
from jmt_jax.train_state import TrainState


def _script(name: str):
    path = pathlib.Path(__file__).parent / "faults" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _state(step: int, size: int = 4) -> TrainState:
    weights = np.random.default_rng(step).standard_normal((size, size)).astype(np.float32)
    variables = {"params": {"head": {"kernel": jnp.asarray(weights)}}, "batch_stats": {}}
    return TrainState.create(variables, optax.sgd(0.1), ("head",)).replace(step=jnp.int32(step))


def _save(checkpoints: Checkpoints, step: int, best: int, size: int = 4) -> None:
    checkpoints.save(_state(step, size), {"best_step": best})
    checkpoints.wait()


def _flip(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_the_newest_two_and_their_best_are_kept_then_the_last_and_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    kept = []
    for step, best in ((1, 1), (2, 1), (3, 1), (4, 4), (5, 4)):
        _save(checkpoints, step, best)
        kept.append(checkpoints.steps())
    assert kept == [[1], [1, 2], [1, 2, 3], [1, 3, 4], [4, 5]]
    _save(checkpoints, 6, 4)
    checkpoints.keep_last_and_best()
    assert checkpoints.steps() == [4, 6] and checkpoints.best_step() == 4
    _save(checkpoints, 6, 6)
    assert checkpoints.steps() == [4, 6] and checkpoints.best_step() == 6
    checkpoints.close()


def test_what_is_saved_is_what_was_there_at_the_call(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    progress = {"best_step": 1, "losses": [0.5], "data": {"next": np.int64(3)}}
    checkpoints.save(_state(1, size=512), progress)
    progress["losses"].append(0.25)
    checkpoints.wait()
    assert checkpoints.progress(1) == {"best_step": 1, "losses": [0.5], "data": {"next": 3}}
    checkpoints.close()


def test_flipped_bytes_are_never_restored(tmp_path):
    found, _ = _script("flip_bytes").flip(tmp_path, flips=6, seed=1)
    assert found["silently wrong"] == 0 and sum(found.values()) == 6


def test_going_on_from_the_newest_good_one_that_has_its_best(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path)
    for step, best in ((1, 1), (2, 1), (3, 3)):
        _save(checkpoints, step, best)
    checkpoints.close()
    (array,) = (path for path in (tmp_path / "3" / "variables" / "d").iterdir())
    _flip(array)
    reader = Checkpoints(tmp_path, read_only=True)
    assert reader.latest_step() == 2 and reader.best_step() == 1
    with pytest.raises(BadDataError, match="checkpoint 3 .* damaged: variables/.* other bytes"):
        reader.restore_variables(3, _state(0).variables)
    writer = Checkpoints(tmp_path)
    assert writer.resume_step() == 2 and writer.steps() == [1, 2]
    state, progress = writer.restore(2, _state(0))
    jax.tree.map(np.testing.assert_array_equal, state, _state(2))
    assert (tmp_path / "3.damaged").is_dir() and progress == {"best_step": 1}
    _save(writer, 3, 3)
    assert writer.resume_step() == 3
    (tmp_path / "1" / "manifest.json").unlink()
    (tmp_path / "3" / "extra").write_text("")
    assert Checkpoints(tmp_path).resume_step() is None  # 2 is good, but its best is not


def test_saves_that_fail_are_not_listed_and_end_the_run_with_a_sentence(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    _save(checkpoints, 1, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # As on a full disk: larger files cannot be written (Python ignores the signal that says so).
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        for step in range(2, MOST_FAILED_SAVES + 1):
            _save(checkpoints, step, 1, size=300)
        with pytest.raises(BadDataError, match="could not be saved"):
            checkpoints.finish()
        with pytest.raises(BadDataError, match=r"3 checkpoint.* in a row .* kept \(\[1\]\): make room"):
            _save(checkpoints, MOST_FAILED_SAVES + 1, 1, size=300)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert checkpoints.latest_step() == 1
    _save(checkpoints, 9, 9, size=300)
    assert checkpoints.steps() == [1, 9]
    checkpoints.finish()
