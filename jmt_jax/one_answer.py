"""Models that say the same of everybody: figures that look like a score and are a share of a class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jmt_jax.statistics import Predictions


def of_table(table: Predictions, classes: Sequence[str] = ()) -> str | None:
    """The one answer of a table of predictions; None where there are several, or fewer than two rows.

    Args:
      table: Predictions.
      classes: Names of the classes; () for values.

    Returns:
      The class that is decided for everywhere, or the values (of each output) that stand everywhere.
    """
    if len(table.outputs) < 2:
        return None
    if classes:
        decided = np.unique(table.outputs.argmax(axis=1))
        return str(classes[decided[0]]) if len(decided) == 1 else None
    finite = table.outputs[np.isfinite(table.outputs).all(axis=1)]
    if len(finite) and np.all(np.ptp(finite, axis=0) <= 1e-6 * np.maximum(1.0, np.abs(finite[0]))):
        return ", ".join(f"{value:.3f}" for value in finite[0])
    return None


def sentence(name: str, tables: Sequence[Predictions], classes: Sequence[str] = ()) -> str | None:
    """A sentence on a model that gives one answer only, in some of its tables; None where it does not.

    Args:
      name: Of the model.
      tables: One a seed.
      classes: See `of_table`.
    """
    answers = [answer for table in tables if (answer := of_table(table, classes)) is not None]
    if not answers:
        return None
    seeds = f" in {len(answers)} of {len(tables)} seeds" if len(tables) > 1 else ""
    what = "class" if classes else "value"
    return f"{name} gives one {what} only{seeds}: {'; '.join(dict.fromkeys(answers))}."
