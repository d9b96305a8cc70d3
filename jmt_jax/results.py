"""``results.json`` by its published schema, and the tables of predictions beside it."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.errors import BadDataError
from jmt_jax import files, results_schema
from jmt_jax.statistics import Interval, Predictions

SCHEMA_VERSION = 2
SELECTED_ON_REPORTED = (
    "The checkpoint was chosen on the very recordings that are reported (the {part} part): these figures are "
    "the best of several looks at them, and tell nothing sure of new people."
)
TRAINED_ON = (
    "These are the people that the model was trained on (the train part): the figures say how well they were "
    "learnt, and nothing of new people."
)
PACKAGES = ("jmt-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "scipy")

# Facts of one fold with one seed, from `paper_facts`.
_OF_PART = ("checkpoint", "majority")


class Control(NamedTuple):
    """A simple model on the same folds.

    Attributes:
      description: What it is.
      metrics: Name to interval.
      runs: What was chosen for it, an entry each fold and seed.
    """

    description: str
    metrics: Mapping[str, Interval]
    runs: Sequence[Mapping[str, Any]] = ()


def build(
    *,
    data: Mapping[str, Any],
    splits: Sequence[Mapping[str, Any]],
    sample: bool,
    warning: str | None,
    metrics: Mapping[str, Interval],
    per_subject: Mapping[str, Mapping[str, float | None]],
    seconds: Mapping[str, float],
    config: Mapping[str, Any],
    confusion_matrix: Mapping[str, Any] | None = None,
    controls: Mapping[str, Control] | None = None,
    variants: Mapping[str, tuple[str, Mapping[str, Interval]]] | None = None,
    unit: str = "subject",
    paired_differences: Mapping[str, Mapping[str, Interval]] | None = None,
    reported: str = "test",
    rows: Mapping[str, int] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of ``results.json``, as plain JSON values that obey the schema.

    Args:
      data: Facts of the data; at least ``name``.
      splits: ``Split.as_json()`` of every run, in order; a ``seed`` may be added to each.
      sample: True if this software made the recordings.
      warning: What the figures must not be taken for; needed for a sample.
      metrics: Name to interval, from ``statistics.estimate``.
      per_subject: From ``statistics.per_subject``.
      seconds: Part of the run to its wall-clock time.
      config: The whole configuration.
      confusion_matrix: ``{"classes": names, "counts": K x K}``, a row for each label; None for regression.
      controls: Name to a simple model on the same folds.
      variants: Name to (what it is, the metrics): the same predictions in another way.
      unit: What the intervals draw and ``per_subject`` lists: ``subject``, or ``recording`` (videos).
      paired_differences: Name to the differences, from ``statistics.paired_difference``.
      reported: The part that the figures are of.
      rows: Metric to the number of labelled rows that it was computed of.
      extra: Further top-level fields.

    Returns:
      A dict; NaN and infinity in it became None.

    Raises:
      ValueError: It does not obey the schema; the message says where.
    """
    results = _plain(
        {
            "schema_version": SCHEMA_VERSION,
            "data": data,
            "protocol": splits[0]["name"],
            "split": _merge_splits(splits, reported),
            "sample": sample,
            "warning": warning or None,
            "unit": unit,
            "sees_future_of_test_subjects": any(
                found["looked_ahead"] for found in data.get("normalisation", {}).values()
            ),
            "metrics": _with_rows(_intervals(metrics), rows or {}),
            "per_subject": per_subject,
            "confusion_matrix": confusion_matrix,
            "controls": {
                name: {
                    "description": control.description,
                    "metrics": _intervals(control.metrics),
                    "runs": control.runs,
                }
                for name, control in (controls or {}).items()
            },
            "variants": _described(variants),
            "paired_differences": {
                name: _intervals(found) for name, found in (paired_differences or {}).items()
            },
            "versions": package_versions(),
            "seconds": seconds,
            "config": config,
        }
    )
    results = {**_plain(dict(extra or {})), **results}
    validate(results)
    return results


def write(path: Path, results: Mapping[str, Any]) -> None:
    """Writes ``results.json`` atomically, after checking it.

    Raises:
      ValueError: The results do not obey the schema.
    """
    validate(results)
    files.write_text(path, json.dumps(results, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read(path: Path) -> dict[str, Any]:
    """Reads a ``results.json``.

    Raises:
      BadDataError: It is missing, no JSON, of another version, or not of this schema.
    """
    if not path.is_file():
        raise BadDataError(
            f"no results at {path}; expected the file that a run writes at its end. Run it first."
        )
    results = files.read_object(path, "run the evaluation again")
    version = results.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise BadDataError(
            f"{path} has results of version {version}, expected {SCHEMA_VERSION}: another version of this "
            "software wrote it. Evaluate the run again, or read it with the version that wrote it."
        )
    found = results_schema.problems(results)
    if found:
        raise BadDataError(f"{path} is not of the results schema: {found[0]}. Run the evaluation again.")
    return results


def validate(results: Any) -> None:
    """Raises ValueError with up to five problems unless the results obey the schema."""
    found = results_schema.problems(results)
    if found:
        raise ValueError("results do not obey their schema: " + "; ".join(found[:5]))


def package_versions() -> dict[str, str]:
    """Package name to installed version, with ``python``; packages that are not installed are left out."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def save_predictions(path: Path, table: Predictions, names: Sequence[str]) -> None:
    """Writes a table of predictions as CSV, atomically.

    Columns: ``subject``, ``recording``, ``time_seconds`` (empty without times), then for classes ``label``
    (the class's number, empty where unlabelled) and one ``logit_<class>`` each, float32, whose softmax the
    probabilities are: probabilities themselves would all be written as 1 where a model is sure, and lose
    their order. Controls that have no logits have ``output_<class>``, probabilities. For regression
    ``label_<name>`` (empty where unlabelled) and ``output_<name>`` for each output. Numbers are written so
    that they are read back exactly.

    Args:
      path: The file.
      table: The predictions.
      names: K class names, or A output names.
    """
    if len(names) != table.outputs.shape[1]:
        raise ValueError(f"{len(names)} names for {table.outputs.shape[1]} outputs; expected one each")
    labels, mask = (array.reshape(len(array), -1) for array in (table.labels, table.mask))
    label_columns = ["label"] if table.labels.ndim == 1 else [f"label_{name}" for name in names]
    kind, said = ("output", table.outputs) if table.logits is None else ("logit", table.logits)
    lines = [["subject", "recording", "time_seconds", *label_columns, *(f"{kind}_{name}" for name in names)]]
    for row, (subject, recording) in enumerate(zip(table.subjects, table.recordings, strict=True)):
        time = "" if table.times_seconds is None else _exact(table.times_seconds[row])
        truth = [_exact(v) if real else "" for v, real in zip(labels[row], mask[row], strict=True)]
        lines.append([subject, recording, time, *truth, *(_exact(v) for v in said[row])])
    with files.appearing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


def load_predictions(path: Path) -> tuple[Predictions, tuple[str, ...]]:
    """Reads what ``save_predictions`` wrote.

    Returns:
      The table (outputs float64, of logits their softmax; unlabelled entries -1 for classes, NaN for
      regression, mask False) and the names of classes or outputs.

    Raises:
      BadDataError: The file is missing or is no such table.
    """
    if not path.is_file():
        raise BadDataError(
            f"no predictions at {path}; expected a CSV that a run wrote. Run the evaluation first."
        )
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = list(csv.reader(file)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadDataError(f"{path} is damaged ({error}). Run the evaluation again.") from error
    kind = "logit" if any(name.startswith("logit_") for name in header) else "output"
    names = tuple(name.removeprefix(f"{kind}_") for name in header if name.startswith(f"{kind}_"))
    for label_columns in (["label"], [f"label_{name}" for name in names]):
        if names and header[3:] == [*label_columns, *(f"{kind}_{name}" for name in names)]:
            break
    else:
        raise BadDataError(
            f"{path} has the columns {header}; expected subject, recording, time_seconds, labels, logits or "
            "outputs. Run the evaluation again."
        )
    try:
        return _parse(lines, len(label_columns), len(names), label_columns == ["label"], kind), names
    except (ValueError, IndexError) as error:
        raise BadDataError(
            f"{path} is damaged ({error}); expected rows of numbers. Run the evaluation again."
        ) from None


def _parse(lines: list[list[str]], labels: int, outputs: int, classes: bool, kind: str) -> Predictions:
    width = 3 + labels + outputs
    for number, line in enumerate(lines, start=2):
        if len(line) != width:
            raise ValueError(f"line {number} has {len(line)} cells instead of {width}")
    table = np.array(lines, dtype=object).reshape(-1, width)
    truth, said = table[:, 3 : 3 + labels], table[:, 3 + labels :]
    mask = truth != ""
    values = np.where(mask, truth, "-1" if classes else "nan").astype(np.float64)
    has_times = bool(len(lines)) and table[0, 2] != ""
    fields = {
        "subjects": tuple(table[:, 0]),
        "recordings": tuple(table[:, 1]),
        "labels": values[:, 0].astype(np.int64) if classes else values,
        "mask": mask[:, 0] if classes else mask,
        "times_seconds": table[:, 2].astype(np.float64) if has_times else None,
    }
    if kind == "logit":
        return Predictions.of_logits(logits=said.astype(np.float32), **fields)
    return Predictions(outputs=said.astype(np.float64), **fields)


def _exact(value: np.generic) -> str:
    """The shortest decimal that reads back as the same number of this type."""
    return str(int(value)) if isinstance(value, np.integer) else np.format_float_positional(value, trim="-")


def _intervals(found: Mapping[str, Interval]) -> dict[str, dict[str, Any]]:
    return {name: interval._asdict() for name, interval in found.items()}


def _described(tables: Mapping[str, tuple[str, Mapping[str, Interval]]] | None) -> dict[str, Any]:
    return {
        name: {"description": description, "metrics": _intervals(found)}
        for name, (description, found) in (tables or {}).items()
    }


def _with_rows(found: dict[str, dict[str, Any]], rows: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    return {name: {**one, "rows": rows[name]} if name in rows else one for name, one in found.items()}


def _merge_splits(splits: Sequence[Mapping[str, Any]], reported: str) -> dict[str, Any]:
    first = splits[0]
    same = first["selection"] == reported
    further = [SELECTED_ON_REPORTED.format(part=reported)] if same else []
    further += [TRAINED_ON] if reported == "train" else []
    if any(s[key] != first[key] for s in splits for key in ("name", "selection", "folds")):
        raise ValueError("the runs have different protocols; expected one protocol for one results.json")
    kept = ("fold", "seed", "train", "validation", "test", "set_aside", "items", "shuffled_labels", *_OF_PART)
    return {
        "selection": first["selection"],
        "folds": first["folds"],
        "parts": [{key: s[key] for key in kept if key in s} for s in splits],
        "selected_on_reported": same,
        "warnings": list(dict.fromkeys([*(w for s in splits for w in s["warnings"]), *further])),
    }


def _plain(value: Any) -> Any:
    """JSON values: NumPy scalars and arrays, tuples and paths resolved; NaN and infinity are None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)
