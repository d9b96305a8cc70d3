"""Differences between two methods: over people *and* seeds.

A network trained twice with other seeds gives other figures. Over people alone, with one seed a side, two
trainings of the very same method "differ" far more often than 1 time in 20. The difference is therefore
taken as of two methods whose seeds and people are both a sample: a two-way layout with random effects of
person and seed (Searle, Casella and McCulloch, "Variance Components", 1992), its degrees of freedom after
Satterthwaite (Biometrics Bulletin 2, 1946). ``benchmarks/coverage.py`` measures how often it finds a
difference where there is none, and where there is one.
"""

from __future__ import annotations

import numpy as np
import scipy.stats

from jmt_jax.intervals import FEWEST_SUBJECTS, too_few

FEWEST_SEEDS = 2
ONE_SEED = (
    "one seed: another training of the same method would differ too, so this says nothing about methods; "
    "give both sides several with config.seeds"
)


def interval(a: np.ndarray, b: np.ndarray, value: float | None = None) -> tuple[float, float] | str:
    """The 95 % interval of the mean of A minus the mean of B, or the sentence in its place.

    The seeds of A and of B are two samples, never pairs: training i of one has nothing to do with training i
    of the other. Per side the variance of the mean over K seeds is that of a seed's mean, over K; the person
    part is the variance of the persons' differences, over n. Both count what is left of one person with one
    seed, so it is taken off once, but never below the larger of the two parts.

    Args:
      a: float [K, n], the value of each seed and person, all finite.
      b: float [L, n], the same persons; a method without chance has equal rows.
      value: The difference, where it is not that of the means.

    Returns:
      Low and high; or why there is none.
    """
    people = a.shape[1]
    if min(len(a), len(b)) < FEWEST_SEEDS:
        return ONE_SEED
    if people < FEWEST_SUBJECTS:
        return too_few(people, FEWEST_SUBJECTS)
    value = float(a.mean() - b.mean()) if value is None else value
    parts = [((a.mean(axis=0) - b.mean(axis=0)).var(ddof=1) / people, people - 1)]
    left = []
    for side in (a, b):
        seeds = len(side)
        parts.append((side.mean(axis=1).var(ddof=1) / seeds, seeds - 1))
        rest = side - side.mean(axis=0) - side.mean(axis=1, keepdims=True) + side.mean()
        freedom = (people - 1) * (seeds - 1)
        left.append(((rest**2).sum() / freedom / (people * seeds), freedom))
    variances = [variance for variance, _ in parts]
    variance = sum(variances) - sum(part for part, _ in left)
    variance = max(variance, variances[0], sum(variances[1:]))
    if not variance > 1e-24:
        return "the difference is the same for every person and seed: its spread is unknown"
    freedom = variance**2 / sum(part**2 / free for part, free in parts + left)
    half = scipy.stats.t.ppf(0.975, max(freedom, 1.0)) * np.sqrt(variance)
    return float(value - half), float(value + half)
