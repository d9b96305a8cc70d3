"""Backbones that another run has trained: the same data, fold, seed and options, another fusion.

Fusions are compared over the very same frozen backbones, and each backbone is trained once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from etils import epath

from data_pipelines.errors import BadDataError, UsageError
from jmt_jax import addresses, run_folder

# What a stream's stage does not depend on.
_FREE = (
    "data.cache_dir",
    "data.loader_threads",
    "data.loader_workers",
    "data.prepare_workers",
    "protocol.folds",
)


def fold_folder(workdir: Path, fold: int, seed: int) -> Path:
    """Where a run of several folds or seeds keeps one of them."""
    return workdir / f"fold_{fold}_seed_{seed}"


def find(config: Any, stage: str, fold: int, seed: int) -> epath.Path | None:
    """The checkpoints of a stage that the run in ``training.backbones_from`` has finished.

    Args:
      config: The configuration of this run.
      stage: A stream's name; other stages are never taken.
      fold, seed: Which.

    Returns:
      The folder, or None if ``training.backbones_from`` is "" or the stage trains more than one stream.

    Raises:
      BadDataError: There is no such run, or it has not trained that stage of that fold and seed.
      UsageError: It was trained with other options; the message names them.
    """
    source = addresses.path_of(config.training.backbones_from)
    if not config.training.backbones_from or stage not in config.data.streams:
        return None
    if not (source / "config.json").is_file():
        raise BadDataError(f"training.backbones_from={source} is no run (no config.json); name a workdir")
    theirs = json.loads((source / "config.json").read_text())
    ours = json.loads(json.dumps(config.to_dict()))
    found, wanted = _relevant(theirs, stage), _relevant(ours, stage)
    different = [key for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key)]
    if different:
        raise UsageError(
            f"training.backbones_from={source}: its {stage} was trained with other options (different: "
            f"{', '.join(different[:5])}); give the same ones, or train it here: "
            "--config.training.backbones_from="
        )
    folds, seeds = theirs["protocol"]["folds"], theirs["seeds"]
    of_several = run_folder.checkpoints(fold_folder(source, fold, seed), stage)
    alone = run_folder.checkpoints(source, stage)
    if of_several.is_dir():
        return of_several
    if alone.is_dir() and seeds == [seed] and folds in ([fold], []):
        return alone
    raise BadDataError(
        f"training.backbones_from={source}: that run has no {stage} of fold {fold}, seed {seed}; it has "
        f"folds {folds or 'all'} and seeds {seeds}"
    )


def _relevant(config: dict[str, Any], stage: str) -> dict[str, Any]:
    """What a stream's stage is a function of, flat."""
    data = {key: value for key, value in config["data"].items() if key != "streams"}
    parts = {
        "data": {**data, "streams": {stage: config["data"]["streams"].get(stage)}},
        "protocol": config["protocol"],
        "model": {key: config["model"].get(key) for key in (stage, "unimodal_head", "dtype")},
        "training": {key: config["training"].get(key) for key in (stage, "loss", "label_smoothing")},
        "eval": {"select": config["eval"]["select"]},
    }
    return {key: value for key, value in flat(parts).items() if key not in _FREE}


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A tree of dicts as one dict with dotted keys."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        name: value
        for key, branch in tree.items()
        for name, value in flat(branch, f"{prefix}.{key}" if prefix else key).items()
    }
