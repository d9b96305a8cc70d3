"""Files of weights damaged at random."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from torch_files_case import FILES, FLOATS, expected_state
from torch_writer import Writer, zip_of

from data_pipelines.errors import BadDataError
from jmt_jax import torch_files


def seeds(folder: Path) -> list[tuple[bytes, bool]]:
    """Contents to damage, and whether each is a pickle that needs an archive around it."""
    files = [path.read_bytes() for path in sorted(FILES.iterdir()) if path.suffix != ".md"]
    save_file({name: x.astype(np.float32) for name, x in expected_state().items()}, folder / "x.safetensors")
    files.append((folder / "x.safetensors").read_bytes())
    with zipfile.ZipFile(FILES / "checkpoint_zip.pt") as archive:
        indices = [archive.read("checkpoint_zip/data.pkl")]
    writer = Writer()
    indices.append(b"\x80\x02" + writer.operations({"a": np.ones((3, 4), np.float32), "b": [1, 2.5]}) + b".")
    return [(content, False) for content in files] + [(content, True) for content in indices]


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """One or two bytes, numbers, runs or pieces changed."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 3)):
        place = int(rng.integers(0, max(len(changed), 1)))
        kind = rng.integers(0, 7)
        if kind == 0:
            changed[place : place + 1] = rng.bytes(1)
        elif kind == 1:
            changed[place : place + 1] = (
                bytes([changed[place] ^ (1 << int(rng.integers(8)))]) if changed else b""
            )
        elif kind == 2:
            width = int(rng.choice([2, 4, 8]))
            changed[place : place + width] = int(rng.choice([0, 1, 2**15, 2**16 - 1])).to_bytes(
                width, "little"
            )
        elif kind == 3:
            width = int(rng.choice([4, 8]))
            changed[place : place + width] = b"\xff" * width
        elif kind == 4:
            del changed[place : place + int(rng.integers(1, 40))]
        elif kind == 5:
            other = int(rng.integers(0, max(len(changed), 1)))
            changed[place:place] = changed[other : other + int(rng.integers(1, 60))]
        else:
            del changed[place:]
        if not changed:
            break
    return bytes(changed)


def fuzz(folder: Path, count: int, seed: int) -> dict[str, int]:
    """Reads damaged files; anything but success or BadDataError propagates."""
    rng = np.random.default_rng(seed)
    bases, outcomes = seeds(folder), {"read": 0, "refused": 0}
    for number in range(count):
        content, is_index = bases[number % len(bases)]
        damaged, path = damage(content, rng), folder / "damaged.pt"
        if is_index:
            zip_of(path, damaged, {str(key): FLOATS * 24 for key in range(12)}, folder="checkpoint_zip")
        else:
            path.write_bytes(damaged)
        try:
            for array in torch_files.flatten(torch_files.read(path)).values():
                np.array(array)
            outcomes["read"] += 1
        except BadDataError as error:
            assert str(error).isprintable() and len(str(error)) < 700
            outcomes["refused"] += 1
    return outcomes


def test_damaged_files(tmp_path):
    outcomes = fuzz(tmp_path, 320, seed=0)
    assert outcomes["refused"] > 160 and outcomes["read"] > 0


@pytest.mark.slow
def test_many_damaged_files(tmp_path):
    assert sum(fuzz(tmp_path, 4000, seed=1).values()) == 4000
