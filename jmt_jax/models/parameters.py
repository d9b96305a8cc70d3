"""How many parameters a model has, and where they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from flax import linen as nn


def abstract_init(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Shapes and types of a model's variables for a batch; nothing is computed."""
    return jax.eval_shape(
        lambda one: model.init(jax.random.key(0), one["inputs"], one["masks"], train=False), batch
    )


def count_parameters(variables: Mapping[str, Any]) -> int:
    """Number of trainable values, all of them live: no module builds a weight that it never reads."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(variables["params"]))


def parameter_table(variables: Mapping[str, Any]) -> str:
    """One line a parameter with its shape and size, the totals of every part, and the total.

    Args:
      variables: What `model.init`, or `jax.eval_shape` of it, returns.
    """
    overview = parameter_overview.get_parameter_overview(variables["params"], include_stats=False)
    parts = [
        f"{name}: {count_parameters({'params': subtree}):,}" for name, subtree in variables["params"].items()
    ]
    return "\n".join([overview, *parts])
