"""Numbers that are none: how a training that has diverged is found out, and what is said of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from data_pipelines.errors import BadDataError


class Diverged(BadDataError):
    """A training, or a model that is evaluated, gives numbers that are not finite."""


def check_outputs(outputs: np.ndarray, counted: np.ndarray) -> None:
    """Every output that counts has to be a finite number.

    Args:
      outputs: float [..., K].
      counted: bool [...], False where nothing had to be predicted.

    Raises:
      Diverged: Some are not; the message says how many.
    """
    wrong = counted & ~np.isfinite(outputs).all(-1)
    if wrong.any():
        raise Diverged(
            f"{wrong.sum()} of {counted.sum()} outputs of a batch of an evaluation are not finite numbers"
        )


def what_to_lower(stage: str, options: Mapping[str, Any]) -> str:
    """What to do about it, with the names of the keys.

    Args:
      stage: Name of the training stage.
      options: ``config.training.<stage>``.
    """
    rate = options["learning_rate"]
    clip = options.get("clip_gradient_norm", 0.0)
    more = "" if clip else f", or set training.{stage}.clip_gradient_norm (it is 0: off)"
    return f"lower training.{stage}.learning_rate (it is {rate:g}){more} and give another --workdir"


@contextlib.contextmanager
def explained(config: Any, stage: str) -> Iterator[None]:
    """Adds stage and advice to what a `Diverged` inside says."""
    try:
        yield
    except Diverged as error:
        advice = what_to_lower(stage, config.training[stage])
        raise Diverged(f"stage {stage} has diverged: {error}; {advice}") from error
