"""Evaluation on other recordings than a run's own: ``eval.data_dir``.

What the run is stays: task, grid, streams, constants of normalisation. Whoever any of its folds was trained
on, or has chosen a checkpoint by, is left out and counted: by name, and by the content of the raw files, for
the same file may lie there under another name.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines import identity, splits
from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.storage import digest
from jmt_jax import logging, run_record
from jmt_jax.evaluations import Trained
from jmt_jax.experiment import Config, Data, make_experiment, open_data

_MOST_NAMED = 5


def open_trained(config: Config, workdir: Path) -> list[Trained]:
    """Every fold and seed of a run, with other recordings as its test part.

    Args:
      config: The run's configuration, with ``eval.data_dir``.
      workdir: The run's folder; its own data need not be there.

    Raises:
      UsageError: Nobody is left, or a stream is not as the run knows it.
      BadDataError: It is not known whose the raw files are: prepared by an earlier version.
    """
    named = config.eval.data_dir
    records = _records(workdir)
    config = config.copy_and_resolve_references()
    with config.unlocked():
        # Controls learn from the run's own training part, which need not be there; labels are the true ones.
        config.data.dir, config.eval.split = named, "test"
        config.controls, config.data.shuffle_labels = "", ""
    data = open_data(config)
    for record in records.values():
        _check_streams(data, record, named)
    left_out = _met(data, list(records.values()), named)
    present = {data.prepared.recordings[int(number)].id for number in set(data.items.recording.tolist())}
    kept = {
        one.id: one.subject
        for one in data.prepared.recordings
        if one.id in present and one.subject not in left_out
    }
    if not kept:
        told = ", ".join(f"{who} ({why})" for who, (_, why) in list(left_out.items())[:_MOST_NAMED])
        raise UsageError(
            f"eval.data_dir={named}: nobody is left to evaluate; the run has seen {len(left_out)} subjects "
            f"of it: {told or 'and it has no items'}. Give recordings of other people; people of the same "
            "names need other ones"
        )
    data = dataclasses.replace(data, other=_facts(named, kept, left_out))
    _say(named, kept, left_out)
    return [_trained(config, data, record, folder, kept) for folder, record in records.items()]


def name(data: Data) -> str:
    """What the folder of such an evaluation is called by."""
    folder = re.sub(r"[^A-Za-z0-9]+", "-", data.other["folder"]).strip("-") or "data"
    return f"{folder}_{digest(data.prepared.card['fingerprints'])[:8]}"


def _records(workdir: Path) -> dict[Path, dict[str, Any]]:
    """Folder of each fold and seed to its record, in the order of seeds and folds."""
    folders = [workdir] if (workdir / run_record.FILE).exists() else []
    folders = folders or [path.parent for path in workdir.glob(f"fold_*_seed_*/{run_record.FILE}")]
    found = {folder: run_record.read(folder) for folder in folders or [workdir]}
    return dict(sorted(found.items(), key=lambda one: (one[1]["seed"], one[1]["fold"])))


def _trained(
    config: Config, data: Data, record: Mapping[str, Any], folder: Path, kept: Mapping[str, str]
) -> Trained:
    fold, seed = record["fold"], record["seed"]
    split = splits.Split(
        record["protocol"],
        (),
        (),
        tuple(sorted(kept)),
        kept,
        fold,
        record["folds"],
        # The test part that the paper's protocol chooses by is not this one.
        "set_aside" if record["selection"] == "set_aside" else "validation",
    )
    constants = record["normalisers"]
    experiment = make_experiment(config, data, fold=fold, seed=seed, split=split, constants=constants)
    return Trained(experiment, folder)


def _met(data: Data, records: Sequence[Mapping[str, Any]], named: str) -> dict[str, tuple[str, str]]:
    """Subjects whom a fold has seen to (in which part, how that is known)."""
    whose = identity.files_of_subjects(data.prepared.path, data.prepared.recordings)
    if whose is None or any(record["files"] is None for record in records):
        raise BadDataError(
            f"eval.data_dir={named}, or the run's own data, was prepared by an earlier version, which did "
            "not keep whose the raw files are; prepare it again, so that people seen in training are found "
            "by their files too"
        )
    found: dict[str, tuple[str, str]] = {}
    # What chose the checkpoint has been seen too.
    seen = [(record, part) for record in records for part in dict.fromkeys(("train", record["selection"]))]
    for record, part in sorted(seen, key=lambda one: one[1] != "train"):
        people = set(record["parts"][part]["subjects"])
        known = identity.owners(record["files"], people)
        for subject, own in sorted(whose.items()):
            same = identity.owner_of(own, known)
            if subject in people:
                found.setdefault(subject, (part, f"by name, in the {part} part"))
            elif same is not None:
                found.setdefault(subject, (part, f"by a file's content, {same} of the {part} part"))
    return found


def _facts(named: str, kept: Mapping[str, str], left_out: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """``data.other`` of ``results.json``; its folder is the one given, never that of the cache."""
    return {
        "folder": Path(os.path.abspath(named)).name,
        "subjects": len(set(kept.values())),
        "left_out_subjects": len(left_out),
        "left_out": {who: why for who, (_, why) in sorted(left_out.items())},
    }


def _say(named: str, kept: Mapping[str, str], left_out: Mapping[str, tuple[str, str]]) -> None:
    logging.info(
        f"other recordings: {named}, {len(set(kept.values()))} subjects in {len(kept)} recordings; left out, "
        f"because the run has seen them: {len(left_out)}"
    )
    for who, (_, why) in sorted(left_out.items()):
        logging.info(f"  {who}: {why}")
    logging.info(
        "no simple models stand beside these figures: they learn from the run's own training part, which "
        "need not be there"
    )


def _check_streams(data: Data, record: Mapping[str, Any], named: str) -> None:
    for stream, kept in record["specs"].items():
        spec = data.prepared.streams.get(stream)
        found = None if spec is None else json.loads(json.dumps(dataclasses.asdict(spec)))
        if found != kept:
            raise UsageError(
                f"eval.data_dir={named}: its stream {stream} is {found}, the run was trained with {kept}; "
                "prepare it as the run's own data"
            )
