"""The vanilla network that has the JMT's number of parameters has those of the JMT that the run has."""

from __future__ import annotations

import dataclasses

import jax
import pytest
import tiny

from jmt_jax.experiment import make_experiment, open_data
from jmt_jax.models import count_parameters


@pytest.fixture(scope="module")
def experiment(cache_dir):
    config = tiny.shrunk("stress", cache_dir)
    return make_experiment(config, open_data(config), fold=0, seed=0)


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"dim": 64, "hidden_dim": 64},
        {"dim": 64, "hidden_dim": 8},
        {"dim": 8, "hidden_dim": 256, "num_heads": 4, "num_layers": 3},
        {"output": "fc"},
        {"output": "sequence", "l2_norm": True},
        {"dim": 4, "hidden_dim": 1},
    ],
)
def test_the_matched_network_follows_the_jmt_of_the_command_line(experiment, overrides):
    def parameters(fusion):
        config = experiment.config.copy_and_resolve_references()
        config.model.fusion = fusion
        config.model.jmt.update(overrides)
        model = dataclasses.replace(experiment, config=config).model("fusion")
        batch = experiment.loader.example_batch(1)
        variables = jax.eval_shape(model.init, jax.random.key(0), batch["inputs"], batch["masks"])["params"]
        return count_parameters({"params": {name: variables[name] for name in ("fusion", "head")}})

    jmt, matched = parameters("jmt"), parameters("vanilla_matched")
    print(overrides, jmt, matched, f"{matched / jmt:.4f}")
    assert matched == pytest.approx(jmt, rel=0.01)
