"""A very small run of the command line, as a process to be hit, and what it leaves, to be compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests"))
import tiny  # noqa: E402

STAGES = ("physio", "fusion")
_OPTIONS = {
    "model.streams": "physio",
    "model.fusion": "concat",
    "training.stages": ",".join(STAGES),
    "training.checkpoint_every_steps": 2,
    **{f"training.{stage}.epochs": 12 for stage in STAGES},
    **{f"training.{stage}.eval_every_epochs": 1.0 for stage in STAGES},
}


def command(workdir: Path, cache_dir: Path, loader_workers: int) -> list[str]:
    """The command of a run; the same one again goes on with it."""
    options = {**_OPTIONS, "data.loader_workers": loader_workers}
    return [
        *(sys.executable, "-m", "jmt_jax.main", "--config=configs/biovid.py", f"--workdir={workdir}"),
        *tiny.arguments("biovid", cache_dir),
        *(f"--config.{name}={value}" for name, value in options.items()),
    ]


def start(workdir: Path, cache_dir: Path, loader_workers: int) -> subprocess.Popen:
    """Starts it in a process group of its own; what it says goes to ``<workdir>.out``."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "MPLBACKEND": "agg",
    }
    out = workdir.with_suffix(".out")
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("ab") as file:
        return subprocess.Popen(
            command(workdir, cache_dir, loader_workers),
            cwd=REPOSITORY,
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def share_data(cache_dir: Path, other: Path) -> Path:
    """A cache with the same data and no compiled programs."""
    other.mkdir(parents=True)
    for path in cache_dir.iterdir():
        if path.name != "compiled":
            (other / path.name).symlink_to(path.resolve())
    return other


def said(workdir: Path) -> str:
    """All that the run has said so far."""
    out = workdir.with_suffix(".out")
    return out.read_text(errors="replace") if out.exists() else ""


def left(workdir: Path) -> dict[str, Any]:
    """Everything of a finished run that has to be equal: arrays of the checkpoints, metrics, predictions."""
    found: dict[str, Any] = {}
    for stage in STAGES:
        folder = workdir / "checkpoints" / stage
        for step in sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()):
            for item in ("variables", "optimizer"):
                tree = ocp.PyTreeCheckpointer().restore(folder / str(step) / item)
                for path, array in _leaves(tree):
                    found[f"{stage}/{step}/{item}/{path}"] = np.asarray(array)
            progress = json.loads((folder / str(step) / "progress" / "metadata").read_text())
            best = {name: value for name, value in progress.items() if name.startswith("best")}
            found[f"{stage}/{step}/progress"] = np.frombuffer(json.dumps(best).encode(), np.uint8)
    for name in ("metrics.jsonl", "predictions/test.csv"):
        found[name] = np.frombuffer((workdir / name).read_bytes(), np.uint8)
    results = json.loads((workdir / "results.json").read_text())
    kept = {name: results[name] for name in ("metrics", "per_subject", "confusion_matrix", "split")}
    found["results.json"] = np.frombuffer(json.dumps(kept).encode(), np.uint8)
    return found


def differing_bytes(one: dict[str, Any], other: dict[str, Any]) -> tuple[int, list[str]]:
    """How many bytes differ, all of what only one has among them, and where."""
    total, places = 0, []
    for name in sorted({*one, *other}):
        a, b = (found[name].tobytes() if name in found else b"" for found in (one, other))
        count = abs(len(a) - len(b)) + sum(x != y for x, y in zip(a, b, strict=False))
        if count or (name in one) != (name in other):
            total += max(count, 1)
            places.append(name)
    return total, places


def _leaves(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(tree, dict):
        return [leaf for key in sorted(tree) for leaf in _leaves(tree[key], f"{prefix}{key}/")]
    if isinstance(tree, (list, tuple)):
        return [leaf for number, item in enumerate(tree) for leaf in _leaves(item, f"{prefix}{number}/")]
    return [] if tree is None else [(prefix, tree)]
