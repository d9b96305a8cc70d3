"""What the files in tests/data/torch hold, for several tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

FILES = Path(__file__).parent / "data" / "torch"
SHAPES = {
    "conv.weight": (3, 2, 4),
    "conv.bias": (3,),
    "norm.weight": (3,),
    "norm.bias": (3,),
    "norm.running_mean": (3,),
    "norm.running_var": (3,),
    "norm.num_batches_tracked": (),
    "linear.weight": (5, 3),
    "linear.bias": (5,),
}
FLOATS = np.arange(4, dtype=np.float32).tobytes()


def expected_state():
    """What tests/data/torch/README.md put into the files."""
    return {
        name: (np.arange(np.prod(shape, dtype=int)) + number).reshape(shape)
        for number, (name, shape) in enumerate(SHAPES.items())
    }
