"""Chance means chance: what is scored on labels that were shuffled, over seeds, in every kind of grid.

    python benchmarks/chance.py [--seeds=20] [--grids=clip,sliding,frames] [--cache_dir=DIR]

On the built-in samples, with `data.shuffle_labels=within_subject`. A cheap model (the control `linear` of
plain numbers) is trained on the shuffled labels of the training part, once a seed, and scored on the shuffled
labels of a part that it has not seen. Every seed draws its own labels. Beside it the same model on the true
labels: a control of a model that finds nothing anyhow would prove nothing.

The scores: AUROC within each person, averaged, for classes. A pooled one would mix in how high the model
scores one person beside another, which is unlike .5 by chance where people have unlike shares of a class.
CCC pooled over frames, mean of the outputs, for values. The interval is Student's over seeds.
"""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.stats

from data_pipelines import command_line
from data_pipelines.datasets import default_cache_dir
from jmt_jax import control_models, metrics
from jmt_jax.experiment import Config, Data, make_experiment, open_data
from jmt_jax.fold_splits import num_folds
from jmt_jax.statistics import Predictions, join

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
GRIDS = {"clip": ("biovid", "test"), "sliding": ("stress", "test"), "frames": ("affwild2", "validation")}


class Scores(NamedTuple):
    """One seed of one grid.

    Attributes:
      score: Mean AUROC of the people, or mean CCC.
      left: What is left of the true labels, over all parts: the mean of the outputs.
      left_in_part: The same in the part that is scored.
    """

    score: float
    left: float
    left_in_part: float


def configuration(name: str, cache_dir: Path) -> Config:
    """A shipped configuration with shuffled labels and the linear control alone."""
    spec = importlib.util.spec_from_file_location(f"config_{name}", CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.data.cache_dir = str(cache_dir)
    config.controls = "linear"
    return config


def score(table: Predictions) -> float:
    """AUROC within each person who has both classes, averaged; of values the mean CCC."""
    if table.labels.ndim == 2:
        return metrics.regression(table.labels, table.outputs, table.mask)["ccc_mean"]
    subjects = np.array(table.subjects)
    own = [
        metrics.classification(
            *(array[subjects == name] for array in (table.labels, table.outputs, table.mask))
        )
        for name in np.unique(subjects)
    ]
    return float(np.mean([found["auroc"] for found in own if found["auroc"] is not None]))


def run(config: Config, data: Data, part: str, seed: int) -> Scores:
    """All folds of one seed."""
    tables, left, left_in_part = [], [], []
    folds = tuple(config.protocol.folds) or range(num_folds(config, data))
    for fold in folds:
        experiment = make_experiment(config, data, fold=fold, seed=seed)
        tables.append(control_models.predict_controls(experiment, experiment.rows[part])["linear"].table)
        if experiment.shuffled:
            left.append(_mean(experiment.shuffled["all"]))
            left_in_part.append(_mean(experiment.shuffled["parts"][part]))
    return Scores(score(join(tables)), *(float(np.mean(x)) if x else 1.0 for x in (left, left_in_part)))


def _mean(report: dict) -> float:
    return float(np.mean(list(report["left"].values())))


def measure(grid: str, seeds: int, cache_dir: Path) -> list[Scores]:
    """Prints a line of one grid; returns its seeds."""
    name, part = GRIDS[grid]
    config = configuration(name, cache_dir)
    data = open_data(config)
    true = run(config, data, part, 0).score
    config.data.shuffle_labels = "within_subject"
    started = time.perf_counter()
    found = [run(config, data, part, seed) for seed in range(seeds)]
    seconds = (time.perf_counter() - started) / seeds
    values = np.array([one.score for one in found])
    low, high = interval(values)
    chance = 0.0 if grid == "frames" else 0.5
    left = np.abs([one.left for one in found])
    left_in_part = np.array([one.left_in_part for one in found])
    print(
        f"{grid:8} {'CCC  ' if grid == 'frames' else 'AUROC'} shuffled {values.mean():.3f} "
        f"[{low:.3f}, {high:.3f}] of {seeds} seeds, "
        f"{'holds' if low <= chance <= high else 'DOES NOT HOLD'} {chance:g}; true labels {true:.3f}; left "
        f"of them: at most {left.max():.3f} over all parts, in the scored part {left_in_part.mean():+.3f} on "
        f"average, {np.abs(left_in_part).max():.3f} at most; {seconds:.1f} s a seed",
        flush=True,
    )
    return found


def interval(values: np.ndarray) -> tuple[float, float]:
    """Student's 95 % interval of the mean."""
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * scipy.stats.sem(values)
    return float(values.mean() - half), float(values.mean() + half)


def main() -> None:
    """Entry point."""
    parser = command_line.Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=command_line.whole(2), default=20)
    parser.add_argument("--grids", default=",".join(GRIDS))
    parser.add_argument("--cache_dir", type=Path, default=None)
    options = parser.parse_args()
    if unknown := [grid for grid in options.grids.split(",") if grid not in GRIDS]:
        parser.error(f"--grids names {unknown[0]!r}; grids are {', '.join(GRIDS)}")
    for grid in options.grids.split(","):
        measure(grid, options.seeds, options.cache_dir or default_cache_dir())


if __name__ == "__main__":
    main()
