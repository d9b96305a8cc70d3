"""The controls of a run: simple models that see the same rows of the same folds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from data_pipelines.errors import UsageError
from data_pipelines.stream_windows import Moment, SignalWindows
from jmt_jax import controls
from jmt_jax.experiment import Experiment, comma_separated
from jmt_jax.statistics import Predictions

DESCRIPTIONS: Mapping[str, str] = {
    "logistic_regression": "logistic regression on mean, deviation and slope of every channel of an item",
    "time": "logistic regression on the time since the recording's start alone",
}


def names(experiment: Experiment) -> tuple[str, ...]:
    """The controls that ``config.controls`` asks for.

    Raises:
      UsageError: One is unknown, or cannot be had from these data.
    """
    wanted = comma_separated(experiment.config.controls)
    for name in wanted:
        if name not in DESCRIPTIONS:
            raise UsageError(f"controls names {name!r}; a control is one of {', '.join(DESCRIPTIONS)}")
    if wanted and not experiment.data.task.is_classification:
        raise UsageError("controls are for classification tasks; set --config.controls=''")
    if "time" in wanted and experiment.data.grid.kind != "sliding":
        raise UsageError("the control 'time' needs a sliding grid; clips have no time of their own")
    if "logistic_regression" in wanted and not _signals(experiment):
        raise UsageError(
            "the control 'logistic_regression' needs a stream of signals; set --config.controls=''"
        )
    return wanted


def predict_controls(experiment: Experiment, rows: np.ndarray) -> dict[str, Predictions]:
    """Fits each control on the training rows and predicts ``rows``."""
    items = experiment.data.items
    found = {}
    for name in names(experiment):
        train_rows = experiment.rows["train"]
        train_rows = train_rows[items.label_mask[train_rows]]
        if name == "time":
            train_x, test_x = controls.time_features(
                items.start_seconds[train_rows], items.start_seconds[rows]
            )
        else:
            train_x, test_x = _features(experiment, train_rows), _features(experiment, rows)
        probabilities = controls.logistic_regression(
            train_x, items.labels[train_rows], test_x, num_classes=experiment.num_outputs
        )
        found[name] = Predictions(
            subjects=tuple(items.subjects[rows]),
            recordings=tuple(items.recordings[number].id for number in items.recording[rows]),
            labels=np.where(items.label_mask[rows], items.labels[rows], -1),
            outputs=probabilities,
            mask=items.label_mask[rows],
            times_seconds=items.start_seconds[rows] if experiment.data.grid.kind == "sliding" else None,
        )
    return found


def _signals(experiment: Experiment) -> dict[str, SignalWindows]:
    return {
        name: stream
        for name, stream in experiment.loader.streams.items()
        if isinstance(stream, SignalWindows)
    }


def _features(experiment: Experiment, rows: np.ndarray) -> np.ndarray:
    """Mean, deviation and slope of all channels, float64 [N, F]; NaN where a stream is absent."""
    items, columns = experiment.data.items, []
    for name, stream in _signals(experiment).items():
        windows = []
        for row in rows:
            number = int(items.recording[row])
            recording = items.recordings[number]
            if name in recording.sources:
                windows.append(
                    stream.signal(recording, Moment(number, float(items.start_seconds[row]), None))
                )
            else:
                windows.append(np.full((1, stream.channel_count), np.nan, np.float32))
        columns.append(controls.window_features(windows, rate_hz=stream.rate_hz))
    return np.concatenate(columns, axis=1)
