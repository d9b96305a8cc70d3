"""``record.json``: which data a run knows, and who is in which part of it.

It is written before the first step and compared with what a later command finds, so that no evaluation,
resume or extraction goes on with other recordings or another split than the weights have seen.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import identity
from data_pipelines.errors import BadDataError, UsageError
from jmt_jax import files, run_config, run_folder
from jmt_jax.experiment import Config, Experiment

FILE = "record.json"
VERSION = 1
_FIELDS = ("version", "fingerprints", "task", "grid", "streams", "specs", "protocol", "fold", "folds", "seed")
_FIELDS += ("parts", "selection", "normalisers", "files")
# What changes no result: where files lie, and how the machine does its work.
FREE = ("data.dir", "data.cache_dir", "data.loader_threads", "data.loader_workers", "data.prepare_workers")
_FREE_BRANCHES = ("eval.", "parallelism")


def of(experiment: Experiment) -> dict[str, Any]:
    """The record of one fold with one seed, as JSON values.

    Returns:
      ``fingerprints`` of the prepared data, ``task``, ``grid``, ``streams``, ``specs`` (stream to its
      `StreamSpec`), ``protocol``, ``fold``, ``folds``, ``seed``; ``normalisers``: stream to the constants of
      its normalisation, where it has any; ``parts``: each with its ``subjects`` and ``recordings``;
      ``selection``: the part that chooses the checkpoint; ``files``: subject to hashes of raw files
      (`identity.files_of_subjects`), None if nobody knows them.
    """
    data, split = experiment.data, experiment.split
    subject_of = {recording.id: recording.subject for recording in data.prepared.recordings}
    parts = {
        part: {
            "subjects": sorted({subject_of[name] for name in getattr(split, part)}),
            "recordings": sorted(getattr(split, part)),
        }
        for part in split.parts
    }
    found = {
        "version": VERSION,
        "fingerprints": data.prepared.card.get("fingerprints", {}),
        "task": data.task.name,
        "grid": dataclasses.asdict(data.grid),
        "streams": list(data.streams),
        "protocol": split.name,
        "fold": experiment.fold,
        "folds": split.folds,
        "specs": {stream: dataclasses.asdict(data.prepared.streams[stream]) for stream in data.streams},
        "seed": experiment.seed,
        "selection": split.selection,
        "normalisers": _normalisers(experiment),
        "files": identity.files_of_subjects(data.prepared.path, data.prepared.recordings),
        "parts": parts,
    }
    return json.loads(json.dumps(found))


def _normalisers(experiment: Experiment) -> dict[str, Any]:
    windows = experiment.loader.streams.items()
    return {stream: found for stream, one in windows if (found := getattr(one, "constants", None))}


def keep(experiment: Experiment, folder: Path, *, is_main: bool) -> None:
    """Writes the record of a run that begins; of one that goes on, compares it.

    Raises:
      UsageError: The data or the split are not those that the run began with.
    """
    if (folder / FILE).exists():
        check(experiment, folder)
    elif is_main:
        files.write_text(folder / FILE, json.dumps(of(experiment), indent=1) + "\n")


def check(experiment: Experiment, folder: Path) -> None:
    """Compares what is open now with the record of a run.

    Raises:
      UsageError: Data or split are others; the message says what.
      BadDataError: There is no record.
    """
    different = _differences(read(folder), of(experiment))
    if different:
        raise UsageError(
            f"the run in {run_folder.named(folder)} knows other data than these: {different[0]}. Its "
            "figures would be of people that it may have been trained on; give --config.data.dir the data as "
            "they were, or train anew in another --workdir"
        )


def read(folder: Any) -> dict[str, Any]:
    """The record of a run.

    Args:
      folder: Of one fold with one seed; a path of any kind.

    Raises:
      BadDataError: There is none, or it cannot be read.
    """
    path = folder / FILE
    named = run_folder.named(folder) if isinstance(folder, Path) else folder
    if not path.exists():
        raise BadDataError(
            f"{named} has no {FILE}, which says whom its weights were trained on: nothing was trained there, "
            "or by an earlier version; train again in a new --workdir"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        complete = all(key in found for key in _FIELDS) and all(
            {"subjects", "recordings"} <= set(part) for part in found["parts"].values()
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadDataError(f"{named}/{FILE} cannot be read ({error}); {_way_out(folder)}") from error
    if not complete or found["version"] != VERSION:
        raise BadDataError(
            f"{named}/{FILE} cannot be read: fields are missing, or it is of another version than {VERSION}; "
            f"{_way_out(folder)}"
        )
    return found


def _way_out(folder: Any) -> str:
    """What to do about a record that cannot be read: every checkpoint holds a copy of it."""
    new = "train again in a new --workdir"
    root = run_folder.checkpoints(folder, "") if isinstance(folder, Path) else folder / "checkpoints"
    stages = sorted(root.iterdir()) if root.is_dir() else []
    for step in (step for stage in stages if stage.is_dir() for step in sorted(stage.iterdir())):
        copy = step / "progress" / "metadata"
        if step.name.isdigit() and copy.exists() and _holds_record(copy):
            return f"write the field 'record' of {copy} (JSON) into it: it is the same, or {new}"
    return new


def _holds_record(path: Any) -> bool:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))["record"]
        return record["version"] == VERSION and all(key in record for key in _FIELDS)
    except (ValueError, KeyError, TypeError):  # a damaged checkpoint is no way out
        return False


def check_checkpoint(progress: Mapping[str, Any], record: Mapping[str, Any], named: str) -> None:
    """Compares what a checkpoint says of its data with a record; it may have been moved or copied there.

    Args:
      progress: Of the checkpoint (`Checkpoints.progress`); its ``record`` is the one of its run.
      record: What it has to be of.
      named: The checkpoint.

    Raises:
      UsageError: It is of a run with other data, another fold or another seed.
      BadDataError: It has none.
    """
    if not progress.get("record"):
        raise BadDataError(
            f"{named} does not say whom it was trained on: it is of an earlier version; train again in a new "
            "--workdir"
        )
    if different := _differences(progress["record"], record):
        raise UsageError(
            f"{named} was trained on other data than the run that it lies in ({different[0]}); put it back "
            "where it belongs, and give the --workdir of its own run"
        )


def _differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is different, a phrase each."""
    found = []
    if set(recorded["parts"]) != set(now["parts"]):
        return [f"its parts are {', '.join(recorded['parts'])}, here {', '.join(now['parts'])}"]
    for part in now["parts"]:
        old, new = (set(side["parts"][part]["subjects"]) for side in (recorded, now))
        if old != new:
            found.append(
                f"its {part} part has {len(old)} subjects, here {len(new)} ({len(old ^ new)} of them are in "
                f"one only, e.g. {min(old ^ new)})"
            )
        elif recorded["parts"][part]["recordings"] != now["parts"][part]["recordings"]:
            found.append(f"the recordings of its {part} part are others")
    found += [
        f"{key} was {recorded[key]!r}, here it is {now[key]!r}"
        for key in ("task", "grid", "streams", "protocol", "fold", "seed")
        if recorded[key] != now[key]
    ]
    if recorded["fingerprints"] != now["fingerprints"]:
        keys = sorted({*recorded["fingerprints"], *now["fingerprints"]})
        changed = [key for key in keys if recorded["fingerprints"].get(key) != now["fingerprints"].get(key)]
        found.append(f"the prepared data have another fingerprint ({', '.join(changed)})")
    if not same_constants(recorded.get("normalisers", {}), now["normalisers"]):
        found.append("the constants of its normalisation are others")
    return found


def same_constants(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the ``normalisers`` of two records are equal but for the last digits (another processor)."""
    if set(recorded) != set(now):
        return False
    pairs = [(recorded[stream][name], now[stream][name]) for stream in now for name in now[stream]]
    return all(
        len(old) == len(new) and np.allclose(np.array(old, float), np.array(new, float), equal_nan=True)
        for old, new in pairs
    )


def check_options(config: Config, folder: Path) -> None:
    """An evaluation looks at the run as it was trained: ``eval.*`` and a moved ``data.dir`` may be given.

    Raises:
      UsageError: Another option differs from the run's ``config.json``; the message names it.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UsageError(f"there is no run in {run_folder.named(folder)}: it has no config.json")
    old, new = (
        flat(files.read_object(path, run_config.ADVICE)),
        flat(json.loads(json.dumps(config.to_dict()))),
    )
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key) and not _is_free(key)]
    if changed:
        told = ", ".join(f"{key} is {old.get(key)!r}, given {new.get(key)!r}" for key in changed[:3])
        raise UsageError(
            f"the run in {run_folder.named(folder)} was trained with other options ({told}); an evaluation "
            "takes --config.eval.* and a moved --config.data.dir only. Leave the rest out, or train with it "
            "in another --workdir"
        )


def _is_free(key: str) -> bool:
    return key in FREE or key.startswith(_FREE_BRANCHES)


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A tree of dicts as one dict with dotted keys."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        name: value
        for key, branch in tree.items()
        for name, value in flat(branch, f"{prefix}.{key}" if prefix else key).items()
    }
