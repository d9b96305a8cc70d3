"""Results as lines of the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_pipelines import label_shuffle
from data_pipelines.splits import fold_words
from jmt_jax import logging, result_words


def log(written: Mapping[str, Any], part: str, place: str) -> None:
    """Says what ``results.json`` holds.

    Args:
      written: Its content.
      part: Which part it is about.
      place: Where it is.
    """
    for sentence in result_words.warnings(written):
        logging.warning(sentence)
    for run in written["split"]["parts"]:
        which = f"{fold_words(run['fold'], written['split']['folds'])}, seed {run['seed']}"
        if "shuffled_labels" in run:
            logging.info(f"{which}: {label_shuffle.sentence(run['shuffled_labels'])}")
        if "checkpoint" in run:
            logging.info(f"{which}: {_checkpoint(run['checkpoint'])}")
    lines = [f"results on the {part} part ({written['protocol']}):", *result_words.lines(written)]
    logging.info("\n".join([*lines, f"written to {place}"]))


def _checkpoint(one: Mapping[str, Any]) -> str:
    value = "not known" if one["value"] is None else f"{one['value']:.4f}"
    return (
        f"evaluated step {one['step']} of stage {one['stage']}; its {one['part']} {one['metric']} was {value}"
    )
