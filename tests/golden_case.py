"""Rebuilds the weights and inputs of a golden case from their names (tests/golden/README.md)."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np

GOLDEN_DIR = Path(os.environ.get("JMT_GOLDEN_DIR") or Path(__file__).parent / "golden")
"""The golden numbers: ours, or another folder of the same format through $JMT_GOLDEN_DIR."""

quick_jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
)
"""`jax.jit` for what runs once and mostly compiles."""


def make_tensor(seed: int, key: str, shape: tuple[int, ...], input_scale: float = 1.0) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(key.encode())]))
    last = key.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if last == "running_var":
        values = rng.uniform(0.5, 1.5, shape)
    elif last == "running_mean":
        values = 0.1 * rng.standard_normal(shape)
    elif key.startswith("input:"):
        values = input_scale * rng.standard_normal(shape)
    elif last == "weight_g" or (len(shape) <= 1 and last == "weight"):
        values = 1 + 0.1 * rng.standard_normal(shape)
    elif len(shape) <= 1:
        values = 0.05 * rng.standard_normal(shape)
    else:
        values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return np.asarray(values, np.float32)


class StateDict(Mapping[str, np.ndarray]):
    """The case's weights, each made when it is read: the reference has many large ones that it never uses."""

    def __init__(self, seed: int, shapes: Mapping[str, list[int]]) -> None:
        self._seed, self._shapes = seed, shapes

    def __getitem__(self, name: str) -> np.ndarray:
        return make_tensor(self._seed, name, tuple(self._shapes[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


@dataclasses.dataclass(frozen=True)
class GoldenCase:
    """`state_dict` and `inputs` in torch's names and layouts, `outputs` as the reference computed them."""

    spec: dict
    state_dict: StateDict
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]

    def gradient_norms(self) -> dict[str, float]:
        prefix = "gradnorm:"
        return {
            key.removeprefix(prefix): float(v) for key, v in self.outputs.items() if key.startswith(prefix)
        }


def names() -> list[str]:
    """All cases of the folder. What stands beside a case as NAME_videos.json.gz is its input."""
    found = {path.name.split(".")[0] for path in GOLDEN_DIR.glob("*") if path.suffix != ".md"}
    return sorted(name for name in found if name.removesuffix("_videos") not in found - {name})


def read_json(name: str) -> dict | list:
    """NAME.json, or NAME.json.gz."""
    plain = GOLDEN_DIR / f"{name}.json"
    if plain.exists():
        return json.loads(plain.read_text())
    with gzip.open(GOLDEN_DIR / f"{name}.json.gz", "rt", encoding="utf-8") as stream:
        return json.load(stream)


def load(name: str) -> GoldenCase:
    """A case of one network."""
    spec = read_json(name)
    scale = spec.get("input_scale", 1.0)
    inputs = {
        key: make_tensor(spec["seed"], f"input:{key}", tuple(shape), scale)
        for key, shape in spec.get("inputs", {}).items()
    }
    return GoldenCase(spec, StateDict(spec["seed"], spec.get("state_dict", {})), inputs, read_arrays(name))


def read_arrays(name: str) -> dict[str, np.ndarray]:
    """NAME.npz."""
    with np.load(GOLDEN_DIR / f"{name}.npz") as stored:
        return {key: stored[key] for key in stored.files}


def relative_error(ours: np.ndarray, golden: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(ours) - golden) / np.linalg.norm(golden))
