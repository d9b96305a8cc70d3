"""Plans: what a compiled program's text says, what cannot be planned, and TPU compiles where libtpu is."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import NamedSharding, PartitionSpec

from data_pipelines.errors import UsageError
from jmt_jax import chips, collectives, plan
from jmt_jax.runtime import Runtime

TEXT = """
  %all-reduce.1 = f32[512,64]{1,0} all-reduce(%dot.1), channel_id=1, to_apply=%add
  %ar = (f32[8]{0}, bf16[2,3]{1,0:T(8,128)}) all-reduce(%a, %b), channel_id=2
  %all-gather-start = (f32[4,1024]{1,0}, f32[64,1024]{1,0}) all-gather-start(%p), dimensions={0}
  %all-gather-done = f32[64,1024]{1,0} all-gather-done(%all-gather-start)
  ROOT %cp = f32[64,2]{1,0} collective-permute(%x), source_target_pairs={{0,1}}
  %fusion = f32[64,1024]{1,0} fusion(%all-gather-done), kind=kLoop
"""


def test_collectives_are_read_from_the_text():
    found = collectives.find(TEXT)
    assert [(one.kind, one.num_bytes) for one in found] == [
        ("all-reduce", 512 * 64 * 4),
        ("all-reduce", 8 * 4 + 6 * 2),
        ("all-gather", 64 * 1024 * 4),
        ("collective-permute", 64 * 2 * 4),
    ]
    assert collectives.by_kind(found)["all-reduce"] == (2, 512 * 64 * 4 + 44)
    # The permuted one is of a few numbers a row.
    assert [one.kind for one in collectives.batch_gathering(found, 64)] == ["all-gather"]
    assert not collectives.batch_gathering(found, 48)


def test_a_step_that_gathers_its_batch_is_found_out():
    runtime = Runtime.create("jit", jax.devices()[:4])
    batch = jax.ShapeDtypeStruct((16, 512), jnp.float32, sharding=runtime.by_row)

    def gathering(state, batch):
        whole = jax.lax.with_sharding_constraint(batch, NamedSharding(runtime.mesh, PartitionSpec()))
        return jnp.sin(whole @ whole.T) + state

    def summing(state, batch):
        return jnp.sum(batch * state)

    for step, bad in ((gathering, True), (summing, False)):
        text = runtime.compile(step).lower(np.float32(1), batch).compile().as_text()
        assert bool(collectives.batch_gathering(collectives.find(text), 16)) == bad, text
    assert "all-reduce" in {one.kind for one in collectives.find(text)}


@pytest.mark.parametrize("topology", ["v5e", "v9:2x2", "4x4"])
def test_an_unknown_topology_is_a_sentence(topology):
    with pytest.raises(UsageError, match="v5e:4x4"):
        chips.find_target(topology)


def test_a_floor_says_what_a_step_is_bound_by():
    one = plan.StepPlan("a", 8, 0, 0, 0, 197e12, 819e6, (), (), 0, 1, 0.0)
    assert one.floor_seconds(chips.CHIPS["v5e"], 4) == (pytest.approx(1.0), "arithmetic")
    sums = (collectives.Collective("all-reduce", ((1,),), 10**9),)
    one = plan.StepPlan("a", 8, 0, 0, 0, 1.0, 1.0, sums, (), 0, 1, 0.0)
    assert one.floor_seconds(chips.CHIPS["v5e"], 4) == (pytest.approx(2 * 0.75 / 200), "links")


@pytest.mark.slow
def test_the_local_compiler_plans_for_what_is_here(cache_dir, monkeypatch, caplog):
    monkeypatch.setattr(plan, "_LOADER_SECONDS", 0.1)
    monkeypatch.setattr(plan.logging.LOGGER, "propagate", True)
    config = tiny.shrunk("biovid", cache_dir, model__streams="physio", training__stages="joint")
    with caplog.at_level("INFO", logger="jmt_jax"):
        plans = plan.plan(config)
    assert [one.name for one in plans] == ["joint: train step", "eval step"]
    assert all(one.flops > 0 and one.memory_bytes > 0 and not one.gathering for one in plans)
    said = caplog.text
    for words in (
        "local compiler",
        "4 local cpu",
        "rows/s, measured now",
        "4 rows global",
        "memory a device",
    ):
        assert words in said


@pytest.mark.slow
def test_a_stage_on_features_is_planned_as_such(cache_dir, monkeypatch, caplog):
    monkeypatch.setattr(plan, "_LOADER_SECONDS", 0.1)
    config = tiny.shrunk("affwild2", cache_dir, training__stages="fusion", training__extract=True)
    plans = {one.name: one for one in plan.plan(config)}
    assert list(plans) == [
        "extraction of visual",
        "extraction of audio",
        "fusion: train step",
        "eval step",
    ]
    # On a CPU the forms that are for it are found: elsewhere they would be.
    assert plans["extraction of visual"].cpu_forms > 0
    assert plans["fusion: train step"].cpu_forms == plans["eval step"].cpu_forms == 0
    assert plans["fusion: train step"].row_bytes < plans["extraction of visual"].row_bytes / 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["biovid", "affwild2"])
def test_the_papers_steps_compile_for_a_pod_and_gather_no_batch(name, cache_dir):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed (pip install -e '.[tpu]')")
    small = {
        "biovid": ["--config.data.sample.subjects=5", "--config.data.sample.clips_per_class=2"],
        "affwild2": ["--config.data.sample.train=3", "--config.data.sample.validation=2"],
    }
    command = ["--mode=plan", f"--config=configs/{name}.py:paper", "--topology=v5e:4x4", *small[name]]
    done = subprocess.run(
        [sys.executable, "-m", "jmt_jax.main", *command, f"--config.data.cache_dir={cache_dir}"],
        cwd=tiny.CONFIGS.parent,
        env={key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_PLATFORMS")},
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("step at least") >= 3 and "of 16 GiB" in done.stderr
    assert "all-reduce" in done.stderr and "GATHERS" not in done.stderr
    assert ("extraction of visual" in done.stderr) == (name == "affwild2")
