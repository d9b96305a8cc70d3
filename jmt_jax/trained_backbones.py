"""Backbones that another run has trained: the same data, split, fold, seed and options, another fusion.

Fusions are compared over the very same frozen backbones, and each backbone is trained once.
"""

from __future__ import annotations

import json
import operator
from pathlib import Path
from typing import Any

from etils import epath

from data_pipelines import identity, splits
from data_pipelines.errors import BadDataError, UsageError
from jmt_jax import addresses, config_keys, files, run_config, run_folder, run_record
from jmt_jax.experiment import Experiment

_MOST_NAMED = 5
# What a stream's stage does not depend on; that the data are the same the record says.
_FREE = (*run_record.FREE, "protocol.folds")


def fold_folder(workdir: Path, fold: int, seed: int) -> Path:
    """Where a run of several folds or seeds keeps one of them."""
    return workdir / f"fold_{fold}_seed_{seed}"


def find(experiment: Experiment, stage: str) -> epath.Path | None:
    """The checkpoints of a stage that the run in ``training.backbones_from`` has finished.

    Args:
      experiment: A fold and a seed of this run; the other run's of the same ones are taken.
      stage: A stream's name; other stages are never taken.

    Returns:
      The folder, or None if ``training.backbones_from`` is "" or the stage trains more than one stream.

    Raises:
      BadDataError: There is no such run, it has not trained that stage of that fold and seed, or it has no
        record of whom it was trained on.
      UsageError: It was trained on people whom this run evaluates, on other data or with other options; the
        message names them.
    """
    config, fold, seed = experiment.config, experiment.fold, experiment.seed
    source = addresses.path_of(config.training.backbones_from)
    if not config.training.backbones_from or stage not in config.data.streams:
        return None
    if not (source / "config.json").is_file():
        raise BadDataError(f"training.backbones_from={source} is no run (no config.json); name a workdir")
    theirs = files.read_object(source / "config.json", run_config.ADVICE)
    config_keys.check(theirs, f"{source}/config.json")
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
    is_alone = seeds == [seed] and folds in ([fold], [])
    its_own = [(fold_folder(source, fold, seed), of_several), *([(source, alone)] if is_alone else [])]
    for folder, checkpoints in its_own:
        if checkpoints.is_dir():
            record = run_record.read(folder)
            check_people(run_record.of(experiment), record, f"training.backbones_from={folder}")
            return checkpoints
    raise BadDataError(
        f"training.backbones_from={source}: that run has no {stage} of fold {fold}, seed {seed}; it has "
        f"folds {folds or 'all'} and seeds {seeds}"
    )


def check_people(ours: dict[str, Any], theirs: dict[str, Any], named: str) -> None:
    """Checks that nobody whom a run is evaluated on taught what it starts from.

    Args:
      ours: Record of the run that is evaluated (`run_record.of`).
      theirs: Of the one that it takes something from.
      named: What to call that one.

    Raises:
      UsageError: Somebody of our validation or test part was trained on there, by name or by a file's
        content; or data, split or constants of normalisation are not the same.
    """
    met = _met(ours, theirs)
    if met:
        more = f" and {len(met) - _MOST_NAMED} more" if len(met) > _MOST_NAMED else ""
        raise UsageError(
            f"{named} was trained on {', '.join(met[:_MOST_NAMED])}{more}: results would be of people seen "
            "in training; train the backbones with these data and this split: "
            "--config.training.backbones_from="
        )
    streams = sorted(set(ours["normalisers"]) & set(theirs.get("normalisers", {})))
    for what, of in (
        ("data", lambda record: record["fingerprints"]),
        ("fold or seed", lambda record: (record["protocol"], record["fold"], record["seed"])),
        ("parts", lambda record: {part: found["recordings"] for part, found in record["parts"].items()}),
        ("constants of normalisation", lambda record: {one: record["normalisers"][one] for one in streams}),
    ):
        same = run_record.same_constants if what.startswith("constants") else operator.eq
        if not same(of(ours), of(theirs)):
            raise UsageError(
                f"{named} has other {what} than this run (by its {run_record.FILE}); give the same data and "
                "protocol, or train the backbones here: --config.training.backbones_from="
            )


def check_checkpoint(ours: dict[str, Any], theirs: dict[str, Any], named: str) -> None:
    """As `check_people`, with the record that a checkpoint carries; it may have been moved or copied.

    Raises:
      UsageError: As `check_people`.
      BadDataError: It carries none.
    """
    if not theirs:
        raise BadDataError(
            f"{named} does not say whom it was trained on: it is of an earlier version; train that run again"
        )
    check_people(ours, theirs, named)


def _met(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Whom of our validation and test part the other run has trained on, in words."""
    if ours["protocol"] == splits.PAPER_PROTOCOL:
        return []  # its folds are of clips: it says in every result that people are in several parts
    taught = set(theirs["parts"]["train"]["subjects"])
    files_here, files_there = ours.get("files") or {}, theirs.get("files") or {}
    # Where the data are the same, so are the names.
    compared = sorted(taught) if ours["fingerprints"] != theirs["fingerprints"] else ()
    whose = identity.owners(files_there, compared)
    met = []
    for part in [part for part in ours["parts"] if part != "train"]:
        for who in ours["parts"][part]["subjects"]:
            same = identity.owner_of(files_here.get(who, ()), whose)
            if who in taught:
                met.append(f"{who} of our {part} part")
            elif same is not None:
                met.append(f"{who} of our {part} part (the same files as {same}'s there)")
    return met


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
    return {key: value for key, value in run_record.flat(parts).items() if key not in _FREE}
