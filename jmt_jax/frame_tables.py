"""Results about frames: tables of predictions, their variants, and the files that only such data have.

``evaluate`` calls these where every token of an item is about a frame of its own
(``ItemTable.token_frames``). The table that is stored has a row for every frame of every recording of the
part, stitched and clipped but not smoothed; all that is reported is made from it. The metrics of
``results.json`` are of the smoothed values, as the challenge's are, pooled over all annotated frames; its
``variants`` hold those of the unsmoothed ones, of the other smoothing, and the mean over recordings.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import frame_items
from data_pipelines.errors import UsageError
from jmt_jax import challenge, frames, logging, run_folder, statistics
from jmt_jax.experiment import Data, Experiment
from jmt_jax.frames import FrameOptions, Stitched
from jmt_jax.statistics import Interval, Predictions, RegressionMetric

CHALLENGE_OUTPUTS = ("valence", "arousal")


def options(config: Any) -> FrameOptions:
    """``config.eval.frames``; the defaults where it has none."""
    given = config.eval.get("frames", {})
    given = given.to_dict() if hasattr(given, "to_dict") else dict(given)
    known = [field.name for field in dataclasses.fields(FrameOptions)]
    for key in given:
        if key not in known:
            raise UsageError(f"eval.frames has no option {key!r}; it has {', '.join(known)}")
    return FrameOptions(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


def facts(config: Any) -> dict[str, Any]:
    """What ``results.json`` says of how the metrics' values were made."""
    chosen = options(config)
    return {
        **dataclasses.asdict(chosen),
        "description": frames.SMOOTHINGS[chosen.smoothing],
        "label_shift_seconds": float(config.data.grid.get("label_shift_seconds", 0.0)),
    }


def make_table(data: Data, rows: np.ndarray, logits: np.ndarray, chosen: FrameOptions) -> Predictions:
    """Predictions with a row for every frame of every recording of the rows, clipped, not smoothed.

    Args:
      data: The data set.
      rows: Of the item table.
      logits: float32 [N, S, A] of the rows; NaN for tokens without any stream.
      chosen: Options.

    Returns:
      The recordings one after the other, frames ascending; labels are the frames' own annotations.
    """
    numbers, stitched = _stitch(data, rows, logits)
    return table_of_values(data, numbers, frames.clip(stitched.values, chosen.value_range))


def table_of_values(data: Data, numbers: np.ndarray, values: np.ndarray) -> Predictions:
    """The same table of values that are there for every frame.

    Args:
      data: The data set.
      numbers: Of the recordings, ascending.
      values: float [N, A], all frames of the first recording, of the second, and so on.
    """
    labels, masks, names, subjects, times = [], [], [], [], []
    for number in numbers:
        recording = data.items.recordings[number]
        found, mask = data.task.labels(recording.annotation)
        labels.append(np.where(mask, found, np.nan))
        masks.append(mask)
        names += [recording.id] * len(found)
        subjects += [recording.subject] * len(found)
        times.append(recording.annotation.times_seconds)
    return Predictions(
        subjects=tuple(subjects),
        recordings=tuple(names),
        labels=np.concatenate(labels),
        outputs=values.astype(np.float32),
        mask=np.concatenate(masks),
        times_seconds=np.concatenate(times),
    )


def smoothed(table: Predictions, chosen: FrameOptions) -> Predictions:
    """The table with every recording's values smoothed over time."""
    outputs = np.empty(table.outputs.shape)
    for begin, end in _recordings(table):
        outputs[begin:end] = frames.smooth(
            table.outputs[begin:end], chosen.smoothing, chosen.smoothing_frames
        )
    return dataclasses.replace(table, outputs=outputs)


def headline(config: Any, runs: Sequence[Predictions]) -> list[Predictions]:
    """The tables that the metrics are of: smoothed, and the subjects are the recordings.

    Args:
      config: The configuration.
      runs: One table a seed, as `make_table` makes them.
    """
    return _by_recording(runs, options(config))


def headline_and_variants(
    config: Any, metric: RegressionMetric, runs: Sequence[Predictions], draws: Mapping[str, int]
) -> tuple[list[Predictions], dict[str, tuple[str, dict[str, Interval]]]]:
    """The tables that the metrics are of, and the same predictions in other ways.

    The subjects of the tables are the recordings: intervals draw videos, and each has its own metrics.

    Args:
      config: The configuration.
      metric: Of a table.
      runs: One table a seed, as `make_table` makes them.
      draws: Arguments of the bootstrap.

    Returns:
      The smoothed tables; and variant name to (what it is, metrics).
    """
    chosen = options(config)
    tables_of_metrics = headline(config, runs)
    variants = {
        "mean_over_recordings": (
            "each recording's own metrics, averaged over the recordings in which they are defined",
            statistics.subject_mean(metric, tables_of_metrics),
        )
    }
    for smoothing, description in frames.SMOOTHINGS.items():
        if smoothing != chosen.smoothing:
            tables = _by_recording(runs, dataclasses.replace(chosen, smoothing=smoothing))
            name = "unsmoothed" if smoothing == "none" else f"smoothed_{smoothing}"
            variants[name] = description, statistics.estimate(metric, tables, **draws)
    return tables_of_metrics, variants


def _by_recording(runs: Sequence[Predictions], chosen: FrameOptions) -> list[Predictions]:
    """The runs' tables smoothed, with the recordings as what an interval draws."""
    return [smoothed(dataclasses.replace(run, subjects=run.recordings), chosen) for run in runs]


def write(
    experiment: Experiment, rows: np.ndarray, logits: np.ndarray, table: Predictions, workdir: Path, part: str
) -> None:
    """Writes the challenge's files (tasks of valence and arousal) and the list of interpolated frames.

    The files go to ``challenge/``, those of another part than the test part to ``challenge_<part>/``; the
    list is ``predictions/<part>_interpolated.csv``: recording, first and last frame, numbered from 1.
    """
    data, chosen = experiment.data, options(experiment.config)
    numbers, stitched = _stitch(data, rows, logits)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["recording", "first_frame", "last_frame"])
    for number, begin, end in zip(numbers, stitched.offsets[:-1], stitched.offsets[1:], strict=True):
        for first, last in frames.interpolated_runs(stitched.predicted[begin:end]):
            writer.writerow([data.items.recordings[number].id, first + 1, last + 1])
    path = workdir / "predictions" / f"{part}_interpolated.csv"
    path.write_text(text.getvalue(), encoding="utf-8")
    missing = int((~stitched.predicted).sum())
    if missing:
        logging.info(
            f"{missing} of {len(stitched.predicted)} frames rest on no stream or no token; they are "
            f"interpolated in time and listed in {path}"
        )
    if tuple(data.task.outputs) != CHALLENGE_OUTPUTS:
        return
    folder = workdir / ("challenge" if part == "test" else f"challenge_{part}")
    final = smoothed(table, chosen)
    for begin, end in _recordings(final):
        challenge.write(folder, final.recordings[begin], final.outputs[begin:end])
    logging.info(f"challenge files of {len(numbers)} videos are in {run_folder.named(folder)}")


def _stitch(data: Data, rows: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, Stitched]:
    """The rows' recordings, in their order, and one value a frame of each.

    Trained on labels of ``grid.label_shift_seconds`` later, a token tells of the frame that is so much later
    than its own: the first frames of a recording are told of by none.
    """
    numbers, place = np.unique(data.items.recording[rows], return_inverse=True)
    times = [data.items.recordings[number].annotation.times_seconds for number in numbers]
    told = data.items.token_frames[rows]
    shift = data.grid.label_shift_seconds
    if shift:
        told = told.copy()
        for number, clock in enumerate(times):
            own = place == number
            told[own] = frame_items.rows_later(clock, told[own], shift)
    return numbers, frames.stitch(logits, place, told, times)


def _recordings(table: Predictions) -> list[tuple[int, int]]:
    """First row and end of each recording; its rows stand together."""
    names = np.array(table.recordings, dtype=object)
    if not len(names):
        return []
    begins = np.flatnonzero(np.concatenate([[True], names[1:] != names[:-1]]))
    return list(zip(begins.tolist(), [*begins[1:].tolist(), len(names)], strict=True))
