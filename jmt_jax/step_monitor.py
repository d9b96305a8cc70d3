"""What the steps since the last evaluation said: their losses, and which of them had bad numbers."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from data_pipelines.loader import PADDING, Batch
from jmt_jax import files, logging
from jmt_jax.divergence import Diverged

# Steps whose outcome the host may not have seen yet; each holds on to its batch. The device never waits.
_MOST_UNSEEN = 2


class _Step(NamedTuple):
    number: int
    batch: Batch
    measured: Mapping[str, jax.Array]


class StepMonitor:
    """Collects what the training steps say, a little behind them, and stops a training that goes wrong.

    A step whose loss or gradient was not finite has changed nothing (`jmt_jax.steps`). Which items were in
    its batch, and what they look like, is written to ``bad_steps/<stage>_<step>.json``.

    Args:
      stage: Name of the training stage.
      folder: The run's folder.
      describe: Row of the item table to what it is, for that file.
      most_bad_steps: So many bad steps in a row end the training.
      process_index: Of this process; each sees its own part of a batch.
    """

    def __init__(
        self,
        stage: str,
        folder: Path,
        describe: Callable[[int], Mapping[str, Any]],
        most_bad_steps: int,
        process_index: int = 0,
    ) -> None:
        self._stage, self._folder, self._describe = stage, folder, describe
        self._most_bad_steps, self._process_index = most_bad_steps, process_index
        self._unseen: deque[_Step] = deque()
        self._losses: list[float] = []
        self._skipped = self._in_a_row = 0

    def add(self, number: int, batch: Batch, measured: Mapping[str, jax.Array]) -> None:
        """Takes note of a step.

        Args:
          number: The step, counted from 1.
          batch: This process's part of its batch, on the host.
          measured: What the step returned: ``loss``, ``gradient_norm``, ``skipped``.

        Raises:
          Diverged: The last ``most_bad_steps`` steps that have been seen had bad numbers.
        """
        self._unseen.append(_Step(number, batch, measured))
        while len(self._unseen) > _MOST_UNSEEN:
            self._see(self._unseen.popleft())

    def last_loss(self) -> float:
        """Loss of the newest step; waits for it."""
        self._see_all()
        return self._losses[-1] if self._losses else math.nan

    def summary(self) -> dict[str, Any]:
        """Mean loss of the steps since the last `clear` (None without any), and how many were skipped."""
        self._see_all()
        loss = float(np.mean(np.array(self._losses, np.float32))) if self._losses else None
        return {"loss": loss, "skipped_steps": self._skipped}

    def clear(self) -> None:
        """Begins the next interval; a row of bad steps goes on."""
        self._losses, self._skipped = [], 0

    def as_json(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        self._see_all()
        return {"losses": self._losses, "skipped": self._skipped, "in_a_row": self._in_a_row}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Goes on from what `as_json` gave."""
        self._losses = list(saved["losses"])
        self._skipped, self._in_a_row = saved["skipped"], saved["in_a_row"]

    def _see_all(self) -> None:
        while self._unseen:
            self._see(self._unseen.popleft())

    def _see(self, step: _Step) -> None:
        measured = {name: np.asarray(value).item() for name, value in jax.device_get(step.measured).items()}
        if not measured["skipped"]:
            self._losses.append(measured["loss"])
            self._in_a_row = 0
            return
        self._skipped += 1
        self._in_a_row += 1
        path = self._dump(step, measured)
        found = f"loss {measured['loss']}, gradient norm {measured['gradient_norm']}"
        logging.warning(f"stage {self._stage}: step {step.number} is skipped ({found}); its batch: {path}")
        if self._in_a_row >= self._most_bad_steps:
            raise Diverged(
                f"{self._in_a_row} steps in a row had no finite loss and gradient, the "
                f"last one is step {step.number} ({found}; {path.parent} has their items, and "
                "training.max_bad_steps says how many are put up with)"
            )

    def _dump(self, step: _Step, measured: Mapping[str, Any]) -> Path:
        index = np.asarray(step.batch["index"]).tolist()
        found = {
            "stage": self._stage,
            "step": step.number,
            **{name: measured[name] if math.isfinite(measured[name]) else str(measured[name])
               for name in ("loss", "gradient_norm")},
            "items": [{"index": row, **self._describe(row)} for row in index if row != PADDING],
            "inputs": {
                name: {**_statistics(values), "tokens_present": int(np.sum(step.batch["masks"][name]))}
                for name, values in step.batch["inputs"].items()
            },
            "labels": _statistics(step.batch["labels"]),
        }  # fmt: skip
        suffix = f"_process_{self._process_index}" if self._process_index else ""
        path = self._folder / "bad_steps" / f"{self._stage}_{step.number}{suffix}.json"
        files.write_text(path, json.dumps(found, indent=1) + "\n")
        return path


def _statistics(values: np.ndarray) -> dict[str, Any]:
    """Shape, type, how many values are not finite, and least, mean and largest of the others."""
    values = np.asarray(values)
    numbers = values.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    extent = {"least": finite.min(), "mean": finite.mean(), "largest": finite.max()} if finite.size else {}
    return {
        "shape": list(values.shape),
        "dtype": str(values.dtype),
        "not_finite": int(numbers.size - finite.size),
        **{name: float(value) for name, value in extent.items()},
    }
