"""Finished runs side by side: ``python -m jmt_jax.compare RUN RUN ... [--metric=auroc]``.

Prints a Markdown table with a line a run: its streams, fusion and checkpoint, the metric with its interval,
and the first run's metric minus this one's on the very same people (recordings, where results are by frame),
over people and seeds: with one seed a side no difference is marked. The controls of the first run follow.
Runs are refused that do not hold the same people, labels or seeds' folds, since a difference between them
would say nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import command_line, endings, program
from data_pipelines.errors import BadDataError, UsageError
from jmt_jax import (
    evaluate,
    evaluations,
    found_results,
    frame_tables,
    one_answer,
    result_words,
    results,
    run_config,
    run_record,
    statistics,
)
from jmt_jax.statistics import Interval, Predictions
from jmt_jax.trained_backbones import fold_folder

# Behind a difference whose interval leaves out zero.
MARK = "*"


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """What a run has written about one part.

    Attributes:
      folder: Its folder.
      config: Its configuration.
      written: Its ``results.json``.
      tables: One a seed, the folds joined; by frame smoothed as the headline figures are.
      controls: Control name to tables in the same order.
      note: Which of several evaluations was taken; else "".
    """

    folder: Path
    config: Any
    written: dict[str, Any]
    tables: list[Predictions]
    controls: dict[str, list[Predictions]]
    note: str = ""


def load(folder: Path, part: str = "") -> FinishedRun:
    """Reads a finished run, or one of its ``evaluations``.

    Args:
      folder: Its folder.
      part: The part that was evaluated, by the run or later (`found_results.find`); "" is the one that its
        ``eval.split`` names.

    Raises:
      BadDataError: There is none, or it has no results about that part.
    """
    if not (folder / "config.json").is_file():
        raise BadDataError(f"{folder} is no run (no config.json); name the --workdir of finished runs")
    config = run_config.get_config(str(folder / "config.json"))
    for key in ("model.streams", "model.fusion", "eval.select"):
        group, name = key.split(".")
        if name not in config.get(group, {}):
            raise BadDataError(f"{folder}/config.json has no key {key}; {run_config.ADVICE}")
    part = part or config.eval.get("split", "test")
    place, note = found_results.find(folder, part)
    config = run_config.get_config(str(place / "config.json"))
    written = results.read(evaluate.results_path(place, part))
    _check_people(place, written)
    tables = _tables(place, written, f"{part}.csv")
    if written["unit"] == "recording":
        tables = frame_tables.headline(config, tables)
    controls = {name: _tables(place, written, f"{part}_{name}.csv") for name in written.get("controls") or {}}
    if written["unit"] == "recording":
        controls = {name: frame_tables.headline(config, said) for name, said in controls.items()}
    return FinishedRun(folder, config, written, tables, controls, note)


def _check_people(folder: Path, written: dict[str, Any]) -> None:
    """Raises BadDataError where results are not of the split and data that the run's record tells of."""
    root = evaluations.run_of(folder)
    parts, other = written["split"]["parts"], written["data"].get("other")
    for part in parts:
        one = root if len(parts) == 1 and (root / run_record.FILE).exists() else None
        one = one or fold_folder(root, part["fold"], part.get("seed", 0))
        if not (one / run_record.FILE).exists():
            continue  # results say who was in which part; a run of an earlier version has nothing beside them
        record = run_record.read(one)
        recorded = {name: found["subjects"] for name, found in record["parts"].items()}
        reported = {name: part[name]["subjects"] for name in recorded if name in part}
        if not other and (
            reported != recorded or written["data"].get("fingerprints", {}) != record["fingerprints"]
        ):
            raise BadDataError(
                f"results of {folder} are of other data or another split than {one / run_record.FILE} "
                "tells of; evaluate the run again with --mode=eval"
            )


def _metric(written: dict[str, Any]) -> statistics.MetricFn:
    if "confusion_matrix" in written and written["confusion_matrix"]:
        return statistics.classification_metric
    names = [name.removeprefix("ccc_") for name in written["metrics"] if name.startswith("ccc_")]
    return statistics.regression_metric([name for name in names if name != "mean"])


def _tables(folder: Path, written: dict[str, Any], file: str) -> list[Predictions]:
    """One table of predictions a seed."""
    parts = written["split"]["parts"]
    by_seed: dict[int, list[Predictions]] = {}
    for part in parts:
        one = folder if len(parts) == 1 else fold_folder(folder, part["fold"], part["seed"])
        table, _ = results.load_predictions(one / "predictions" / file)
        by_seed.setdefault(part["seed"], []).append(table)
    return [statistics.join(tables) for tables in by_seed.values()]


def check_comparable(first: FinishedRun, other: FinishedRun) -> None:
    """Raises UsageError unless both runs predict the same rows with the same labels and as many seeds."""
    for name, of in (
        ("seeds", lambda run: sorted({part["seed"] for part in run.written["split"]["parts"]})),
        ("folds", lambda run: sorted({part["fold"] for part in run.written["split"]["parts"]})),
        ("protocol", lambda run: run.written["protocol"]),
        ("task", lambda run: run.written["data"]["task"]),
    ):
        if of(first) != of(other):
            raise UsageError(
                f"{other.folder} has {name} {of(other)}, {first.folder} has {of(first)}; runs are compared "
                "over the same ones only"
            )
    for ours, theirs in zip(first.tables, other.tables, strict=True):
        if ours.recordings != theirs.recordings or not (
            np.array_equal(ours.labels, theirs.labels, equal_nan=True)
            and np.array_equal(ours.mask, theirs.mask)
        ):
            raise UsageError(
                f"{other.folder} and {first.folder} do not predict the same rows with the same labels; give "
                "both the same data, protocol and eval.split"
            )


def table(runs: Sequence[FinishedRun], metric_name: str = "", num_resamples: int = 1000) -> str:
    """The Markdown table.

    Args:
      runs: The first is the one that the others are set against.
      metric_name: One of its metrics; "" is the one that selected its checkpoints.
      num_resamples: Draws, where an interval needs a bootstrap.
    """
    first = runs[0]
    metric_name = metric_name or _selection(first)
    if metric_name not in first.written["metrics"]:
        known = ", ".join(first.written["metrics"])
        raise UsageError(f"--metric={metric_name} is none of the runs' metrics: {known}")
    for other in runs[1:]:
        check_comparable(first, other)
    metric, unit = _metric(first.written), first.written["unit"]
    draws = {"num_resamples": num_resamples, "seed": 0}
    lines = [
        f"| run | streams | fusion | checkpoint | {metric_name} | first minus this, per {unit} |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    rows = [
        (run.folder.name, run.config.model.streams, run.config.model.fusion, _checkpoint(run), run.tables)
        for run in runs
    ]
    rows += [(f"control: {name}", "", "", "", tables) for name, tables in first.controls.items()]
    values, differences = [], []
    for name, streams, fusion, checkpoint, tables in rows:
        values.append(statistics.estimate(metric, tables, **draws)[metric_name])
        shown = ""
        if len(values) > 1:
            paired = statistics.paired_difference(metric, first.tables, tables, unit="subject")
            differences.append(paired[metric_name])
            shown = _shown(differences[-1]) + (f" {MARK}" if _differs(differences[-1]) else "")
        lines.append(f"| {name} | {streams} | {fusion} | {checkpoint} | {_shown(values[-1])} | {shown} |")
    lines += ["", *_legend(metric_name, unit, len(first.tables), values, differences)]
    classes = (first.written["confusion_matrix"] or {}).get("classes", ())
    said = [one_answer.sentence(run.folder.name, run.tables, classes) for run in runs]
    lines += [words for words in said if words]
    notes = dict.fromkeys(run.note for run in runs if run.note)
    return "\n".join([*lines, *notes, *_warnings(runs)])


def _warnings(runs: Sequence[FinishedRun]) -> list[str]:
    """Every warning of the runs' results once, behind the names of the runs that it is about."""
    named: dict[str, list[str]] = {}
    for run in runs:
        for sentence in result_words.warnings(run.written):
            named.setdefault(sentence, []).append(run.folder.name)
    return [f"{', '.join(names)}: {sentence}" for sentence, names in named.items()]


def _legend(
    metric_name: str, unit: str, seeds: int, values: Sequence[Interval], differences: Sequence[Interval]
) -> list[str]:
    """What the table is over, and why something in it has no interval."""
    counted = f"{values[0].subjects} {unit}s, {seeds} seed{'' if seeds == 1 else 's'} a run"
    lines = [f"{metric_name}: {result_words.over(values[0]._asdict(), unit)}; {counted}."]
    if any(one.ci95 for one in (*values, *differences)):
        lines.append(f"Intervals are 95 %: of a run over {unit}s, of a difference over {unit}s and seeds.")
    if any(map(_differs, differences)):
        lines.append(f"{MARK} zero is outside of the interval: the methods differ.")
    for words, found in (("a run", values), ("a difference", differences)):
        reasons = dict.fromkeys(one.reason for one in found if one.reason)
        lines += [f"No interval of {words}: {reason}." for reason in reasons]
    return lines + [f"{sentence}." for sentence in result_words.explanations([metric_name], unit)]


def _differs(difference: Interval) -> bool:
    return difference.ci95 is not None and not difference.ci95[0] <= 0 <= difference.ci95[1]


def _checkpoint(run: FinishedRun) -> str:
    """Stage and step that were evaluated; of several folds and seeds the lowest and the highest step."""
    found = [part["checkpoint"] for part in run.written["split"]["parts"] if "checkpoint" in part]
    if not found:
        return "unknown"
    steps = sorted({one["step"] for one in found})
    shown = str(steps[0]) if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
    return f"{found[0]['stage']} {shown}"


def _selection(run: FinishedRun) -> str:
    chosen = run.config.eval.select
    return chosen or ("accuracy" if "accuracy" in run.written["metrics"] else "ccc_mean")


def _shown(interval: Interval) -> str:
    if interval.value is None:
        return "undefined"
    if interval.ci95 is None:
        return f"{interval.value:.3f} [-]"
    return f"{interval.value:.3f} [{interval.ci95[0]:.3f}, {interval.ci95[1]:.3f}]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = command_line.Parser(prog="python -m jmt_jax.compare", description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of finished runs")
    parser.add_argument(
        "--metric", default="", help="which metric (default: the one that selects checkpoints)"
    )
    parser.add_argument(
        "--split", default="", help="the part that was evaluated (default: each run's eval.split)"
    )
    options = parser.parse_args(arguments)

    def work() -> None:
        print(table([load(folder, options.split) for folder in options.runs], options.metric))

    return endings.guarded(work)


if __name__ == "__main__":
    program.run(main)
