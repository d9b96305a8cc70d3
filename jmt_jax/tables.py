"""Tables of predictions, and the metrics of one.

``auroc`` is each subject's own, averaged over the subjects who have all classes; where fewer than half have
them, each fold's own, averaged over the folds. One ranking of the rows of all folds is biased: each fold's
model has its own threshold, and one that never saw a person leans away from that person's class, so that in
leave-one-out even noise lands below .5 (Parker, Guenter and Bedo, "Stratification bias in low signal
microarray studies", BMC Bioinformatics 8, 2007). That one is ``auroc_pooled``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import scipy.special

from jmt_jax import metrics


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said about rows (clips or windows), beside the truth.

    Attributes:
      subjects: N names.
      recordings: N recording ids.
      labels: int [N] for classes, -1 where unlabelled; or float [N, A], NaN where unlabelled.
      outputs: float [N, K] class probabilities, or float [N, A] predictions.
      mask: bool, the labels' shape; True where labelled.
      times_seconds: float64 [N] since the recording's start; None where a row is a whole recording.
      folds: int [N], which fold's model said it; None: one model said all.
      logits: float32 [N, K], whose softmax the probabilities are; None for values, and for models that give
        probabilities themselves.
    """

    subjects: Sequence[str]
    recordings: Sequence[str]
    labels: np.ndarray
    outputs: np.ndarray
    mask: np.ndarray
    times_seconds: np.ndarray | None = None
    folds: np.ndarray | None = None
    logits: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Checks the shapes."""
        rows = len(self.outputs)
        lengths = {len(self.subjects), len(self.recordings), len(self.labels), len(self.mask)}
        if self.times_seconds is not None:
            lengths.add(len(self.times_seconds))
        if self.folds is not None:
            lengths.add(len(self.folds))
        if self.logits is not None and self.logits.shape != self.outputs.shape:
            raise ValueError(
                f"logits {self.logits.shape} beside outputs {self.outputs.shape}; expected one each"
            )
        expected = self.outputs.shape if self.labels.ndim == 2 else (rows,)
        if lengths != {rows} or self.labels.shape != expected or self.mask.shape != expected:
            raise ValueError(
                f"outputs {self.outputs.shape}, labels {self.labels.shape}, mask {self.mask.shape}, "
                f"{len(self.subjects)} subjects, {len(self.recordings)} recordings; expected equal lengths"
            )

    @classmethod
    def of_logits(cls, *, logits: np.ndarray, **fields: Any) -> Predictions:
        """Predictions of classes from their logits [N, K]; probabilities are their softmax in float64."""
        logits = np.asarray(logits, np.float32)
        outputs = scipy.special.softmax(logits.astype(np.float64), axis=-1)
        return cls(outputs=outputs, logits=logits, **fields)

    @property
    def scores(self) -> np.ndarray:
        """What classes are decided and rows ranked by: float64 [N, K], monotone in the probabilities.

        Of logits it is the log-odds of each class (the logits themselves for K = 2), which stay apart where
        probabilities are all 1; else the outputs.
        """
        if self.logits is None:
            return self.outputs
        logits = self.logits.astype(np.float64)
        if logits.shape[1] == 2:
            return logits
        others = np.where(np.eye(logits.shape[1], dtype=bool), -np.inf, logits[:, None, :])
        return logits - scipy.special.logsumexp(others, axis=-1)

    def labelled_subjects(self) -> tuple[str, ...]:
        """The subjects with at least one label, sorted, each once."""
        labelled = self.mask if self.mask.ndim == 1 else self.mask.any(axis=1)
        return tuple(sorted({s for s, real in zip(self.subjects, labelled, strict=True) if real}))


# (table, row weights float64 [R, N]) -> name to float64 [R], NaN where undefined.
MetricFn = Callable[[Predictions, np.ndarray], Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class RegressionMetric:
    """``metrics.regression`` as a ``MetricFn`` that also takes weights of whole subjects.

    Its metrics are made of sums over rows, so a draw costs as much as there are subjects, however many rows
    (frames) they have.

    Attributes:
      names: Of the outputs.
    """

    names: tuple[str, ...]

    def __call__(self, table: Predictions, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Metrics [R] for row weights [R, N]."""
        return metrics.weighted_regression(table.labels, table.outputs, table.mask, self.names, weights)

    def of_groups(self, table: Predictions, groups: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Metrics [R] for weights [R, G] of groups of rows; ``groups`` int [N] says which row is in which."""
        return metrics.grouped_regression(
            table.labels, table.outputs, table.mask, self.names, groups, weights
        )

    def influence(
        self, table: Predictions, groups: np.ndarray, weights: np.ndarray
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """``metrics.correlation_influence`` for weights [R, G] of groups of rows."""
        return metrics.correlation_influence(
            table.labels, table.outputs, table.mask, self.names, groups, weights
        )


def classification_metric(table: Predictions, weights: np.ndarray) -> dict[str, np.ndarray]:
    """``metrics.classification`` as a ``MetricFn``, with ``auroc`` averaged beside ``auroc_pooled``.

    See the module. The rows of one subject weigh the same.
    """
    found = metrics.weighted_classification(table.labels, table.scores, table.mask, weights)
    pooled = found.pop("auroc")
    return {**found, "auroc": _averaged_auroc(table, weights), "auroc_pooled": pooled}


def ranking_groups(table: Predictions) -> tuple[Literal["subject", "fold"], list[np.ndarray]]:
    """Whose own AUROCs are averaged, and the labelled rows of each of them with all classes."""
    rows = np.flatnonzero(table.mask)
    subjects = np.unique(np.array(table.subjects, dtype=object)[rows].astype(str), return_inverse=True)[1]
    whole = _with_all_classes(table, rows, subjects)
    if len(rows) and 2 * len(whole) >= subjects.max() + 1:
        return "subject", whole
    folds = np.zeros(len(rows), np.int64) if table.folds is None else table.folds[rows]
    return "fold", _with_all_classes(table, rows, folds)


def _with_all_classes(table: Predictions, rows: np.ndarray, group: np.ndarray) -> list[np.ndarray]:
    classes = table.outputs.shape[1]
    each = [rows[group == one] for one in np.unique(group)]
    return [own for own in each if len(np.unique(table.labels[own])) == classes]


def _averaged_auroc(table: Predictions, weights: np.ndarray) -> np.ndarray:
    """The mean [R] of the groups' own AUROCs for row weights [R, N]; NaN where no group has one."""
    unit, groups = ranking_groups(table)
    weighed, own = np.zeros((len(groups), len(weights))), np.zeros((len(groups), len(weights)))
    scores = table.scores
    for number, rows in enumerate(groups):
        # Within a subject all rows weigh the same, so its own value is one number.
        within = np.ones((1, len(rows))) if unit == "subject" else weights[:, rows]
        found = metrics.weighted_classification(table.labels[rows], scores[rows], None, within)
        value = found["auroc"]
        weighed[number] = weights[:, rows[0]] if unit == "subject" else np.isfinite(value)
        own[number] = np.nan_to_num(value)
    with np.errstate(invalid="ignore"):
        return (weighed * own).sum(axis=0) / weighed.sum(axis=0)


def regression_metric(names: Sequence[str]) -> RegressionMetric:
    """``metrics.regression`` for outputs of these names as a ``MetricFn``."""
    return RegressionMetric(tuple(names))


def join(tables: Sequence[Predictions]) -> Predictions:
    """One table with the rows of all: the folds of one seed make one run."""
    times = [table.times_seconds for table in tables]
    logits = [table.logits for table in tables]
    return Predictions(
        subjects=tuple(s for table in tables for s in table.subjects),
        recordings=tuple(r for table in tables for r in table.recordings),
        labels=np.concatenate([table.labels for table in tables]),
        outputs=np.concatenate([table.outputs for table in tables]),
        mask=np.concatenate([table.mask for table in tables]),
        times_seconds=None if any(t is None for t in times) else np.concatenate(times),
        folds=_joined_folds(tables),
        logits=None if any(one is None for one in logits) else np.concatenate(logits),
    )


def _joined_folds(tables: Sequence[Predictions]) -> np.ndarray:
    folds, first = [], 0
    for table in tables:
        own = np.zeros(len(table.labels), np.int64) if table.folds is None else table.folds
        folds.append(first + own)
        first += int(own.max(initial=0)) + 1
    return np.concatenate(folds)
