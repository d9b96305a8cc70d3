"""States of torch networks, and the command that converts them, for several tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jmt_jax import convert

FILES = Path(__file__).parent / "data" / "torch"


def physio(features=8, steps=3, channels=2):
    """A small physio_conv1d in torch's names: 43 samples leave three steps."""
    rng = np.random.default_rng(0)
    shapes = {
        "conv1.weight": (32, channels, 5),
        "conv1.bias": (32,),
        "conv2.weight": (64, 32, 5),
        "conv2.bias": (64,),
        "fc1.weight": (features, 64 * steps),
        "fc1.bias": (features,),
        "fc2.weight": (2, features),
        "fc2.bias": (2,),
    }
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def regressor():
    rng = np.random.default_rng(0)
    shapes = {
        "regressor.0.weight": (128, 512),
        "regressor.0.bias": (128,),
        "regressor.3.weight": (2, 128),
        "regressor.3.bias": (2,),
    }
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def under(prefix, state):
    return {prefix + name: array for name, array in state.items()}


def run(*arguments):
    return convert.main([str(argument) for argument in arguments])


def paths(tree, names=()):
    """Path -> leaf."""
    if not isinstance(tree, dict):
        return {names: tree}
    return {path: leaf for name, part in tree.items() for path, leaf in paths(part, (*names, name)).items()}
