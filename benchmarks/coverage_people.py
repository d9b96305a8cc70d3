"""Simulated people for ``coverage``: skewed, unequal, and with a known truth.

Every figure of one person comes with the others' by one draw of ``numpy.random.Generator``; the truth is the
metric of all such people, by formula or by a far larger draw.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import scipy.stats

from jmt_jax.statistics import Predictions

# (sums of people float [..., K]) -> metric [...].
OfSums = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Counted:
    """A metric that is made of sums over people.

    Attributes:
      metric: Its name in ``intervals``.
      people: What varies, in words.
      draw: (generator, shape of people) -> sums of each, float [*shape, K].
      of_sums: The metric of sums.
      truth: Of all such people; None: of a million drawn ones.
    """

    metric: str
    people: str
    draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
    of_sums: OfSums
    truth: float | None = None


def ratio(sums: np.ndarray) -> np.ndarray:
    """First over second."""
    return sums[..., 0] / sums[..., 1]


def balanced(sums: np.ndarray) -> np.ndarray:
    """Balanced accuracy of (hits of class 1, rows of class 1, hits of class 0, rows of class 0)."""
    return (sums[..., 0] / sums[..., 1] + sums[..., 2] / sums[..., 3]) / 2


def f1_macro(sums: np.ndarray) -> np.ndarray:
    """Macro F1 of the same sums."""
    hits_1, rows_1, hits_0, rows_0 = np.moveaxis(sums, -1, 0)
    one = 2 * hits_1 / (rows_1 + hits_1 + rows_0 - hits_0)
    zero = 2 * hits_0 / (rows_0 + hits_0 + rows_1 - hits_1)
    return (one + zero) / 2


def items(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """How many rows a person has: 6 to 200, most have about 30."""
    return np.clip(generator.lognormal(np.log(30), 0.6, shape).astype(int), 6, 200)


def accuracy(a: float, b: float) -> Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]:
    """Hits and rows of people whose accuracies are Beta(a, b), with unequal numbers of rows."""

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        rows = items(generator, shape)
        return np.stack([generator.binomial(rows, generator.beta(a, b, shape)), rows], axis=-1).astype(float)

    return draw


def two_classes(a: float, b: float) -> Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]:
    """Hits and rows of both classes; recalls are Beta(a, b), and so, in another way, is the class's share."""

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        rows = items(generator, shape)
        ones = generator.binomial(rows, generator.beta(4, 6, shape))
        hits = [generator.binomial(count, generator.beta(a, b, shape)) for count in (ones, rows - ones)]
        return np.stack([hits[0], ones, hits[1], rows - ones], axis=-1).astype(float)

    return draw


def own_auroc(a: float, b: float) -> Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]:
    """Each one's AUROC, of 10 rows against 20, and 1; the people's true ones are Beta(a, b)."""

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        true = np.clip(generator.beta(a, b, shape), 1e-6, 1 - 1e-6)
        positive = (
            generator.standard_normal((*shape, 10)) + np.sqrt(2) * scipy.stats.norm.ppf(true)[..., None]
        )
        wins = np.zeros(shape)
        for _ in range(20):
            wins += (positive > generator.standard_normal((*shape, 1))).mean(axis=-1) / 20
        return np.stack([wins, np.ones(shape)], axis=-1)

    return draw


COUNTED = (
    Counted("accuracy", "Beta(20, 5)", accuracy(20, 5), ratio, 20 / 25),
    Counted("accuracy", "Beta(9, 1)", accuracy(9, 1), ratio, 9 / 10),
    Counted("accuracy", "Beta(20, 1)", accuracy(20, 1), ratio, 20 / 21),
    Counted("accuracy", "Beta(4, .4)", accuracy(4, 0.4), ratio, 4 / 4.4),
    Counted("balanced_accuracy", "Beta(9, 1)", two_classes(9, 1), balanced, 9 / 10),
    Counted("balanced_accuracy", "Beta(4, 1)", two_classes(4, 1), balanced, 4 / 5),
    Counted("f1_macro", "Beta(9, 1)", two_classes(9, 1), f1_macro),
    Counted("f1_macro", "Beta(4, 2)", two_classes(4, 2), f1_macro),
    Counted("auroc", "Beta(2, 2), as noise", own_auroc(2, 2), ratio, 1 / 2),
    Counted("auroc", "Beta(6, 1)", own_auroc(6, 1), ratio, 6 / 7),
    Counted("auroc", "Beta(4, .4)", own_auroc(4, 0.4), ratio, 4 / 4.4),
)


@dataclasses.dataclass(frozen=True)
class Ranked:
    """Scores of people with levels of their own: score = skill of the person (positives) + level + noise.

    Attributes:
      people: In words.
      skill, skill_spread: Of a person's positives over negatives, in deviations of the noise.
      level_spread: Of the levels.
      skewed: Skills and levels have one long tail (exponential) instead of none (normal).
    """

    people: str
    skill: float
    skill_spread: float
    level_spread: float
    skewed: bool

    def draw(self, generator: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Skills and levels of people."""
        if self.skewed:
            tails = generator.exponential(1, (2, size)) - 1
            return self.skill - self.skill_spread * tails[0], self.level_spread * tails[1]
        bells = generator.standard_normal((2, size))
        return self.skill + self.skill_spread * bells[0], self.level_spread * bells[1]

    def truth(self, generator: np.random.Generator) -> float:
        """How often a positive of one person is above a negative of another."""
        skill, level = self.draw(generator, 1_000_000)
        _, other = self.draw(generator, 1_000_000)
        return float(scipy.stats.norm.cdf((skill + level - other) / np.sqrt(2)).mean())

    def one(self, generator: np.random.Generator, people: int) -> tuple[float, np.ndarray]:
        """The pooled AUROC of some people, and what it is without each."""
        skill, level = self.draw(generator, people)
        counts = generator.integers(5, 25, (2, people))
        owner, other = (np.repeat(np.arange(people), count) for count in counts)
        positive = skill[owner] + level[owner] + generator.standard_normal(len(owner))
        negative = level[other] + generator.standard_normal(len(other))
        wins = np.searchsorted(np.sort(negative), positive)
        losses = len(positive) - np.searchsorted(np.sort(positive), negative)
        both = np.bincount(owner, wins, people) + np.bincount(other, losses, people)
        within = [(positive[owner == i][:, None] > negative[other == i]).sum() for i in range(people)]
        total = wins.sum()
        pairs = (len(positive) - counts[0]) * (len(negative) - counts[1])
        return total / (len(positive) * len(negative)), (total - both + within) / pairs


RANKED = (
    Ranked("noise, levels differ", 0.0, 0.0, 1.0, skewed=False),
    Ranked("skills and levels differ", 1.2, 0.6, 1.0, skewed=False),
    Ranked("skewed skills and levels", 2.0, 0.7, 0.7, skewed=True),
)


@dataclasses.dataclass(frozen=True)
class Videos:
    """Videos of unequal length whose mean labels are Beta(a, b) over [-1, 1]; predictions are drawn in.

    Attributes:
      people: In words.
      a, b: Of the videos' mean labels.
    """

    people: str
    a: float
    b: float

    def table(self, generator: np.random.Generator, videos: int) -> Predictions:
        """One table with 8 to 200 frames a video."""
        frames = np.clip(generator.lognormal(np.log(40), 0.7, videos).astype(int), 8, 200)
        video = np.repeat(np.arange(videos), frames)
        mean = 2 * generator.beta(self.a, self.b, videos) - 1
        spread = 0.15 * np.exp(0.3 * generator.standard_normal(videos))
        error = 0.12 * np.exp(0.4 * generator.standard_normal(videos))
        bias = 0.15 * generator.standard_normal(videos)
        labels = mean[video] + spread[video] * generator.standard_normal(len(video))
        outputs = 0.7 * labels + bias[video] + error[video] * generator.standard_normal(len(video))
        names = tuple(f"{number:06d}" for number in video)
        mask = np.ones((len(video), 1), bool)
        return Predictions(names, names, labels[:, None], outputs[:, None], mask)


VIDEOS = (
    Videos("labels Beta(2.5, 2.5)", 2.5, 2.5),
    Videos("labels Beta(2, 6)", 2.0, 6.0),
    Videos("labels Beta(1, 5)", 1.0, 5.0),
    Videos("labels Beta(.5, 4)", 0.5, 4.0),
)


@dataclasses.dataclass(frozen=True)
class Trainings:
    """Hits of a method's trainings on people's rows: logits add up, then each row is hit or not.

    Attributes:
      words: What they are.
      seed: Deviation of a seed's effect on all people, in logits; on people of one fold, where ``folds``.
      person_and_seed: Deviation of a seed's effect on one person.
      person_and_method: Deviation of a method's effect on one person.
      folds: How many a seed's effect is drawn for.
    """

    words: str
    seed: float
    person_and_seed: float
    person_and_method: float = 0.0
    folds: int = 1

    def pair(
        self, generator: np.random.Generator, seeds: int, people: int, difference: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Accuracies [seeds, people] of two methods; the second is worse by some logits."""
        rows = 20
        person = generator.standard_normal(people)
        hard = 1.5 * generator.standard_normal((people, rows))
        fold = np.arange(people) % self.folds
        sides = []
        for moved in (0.0, -difference):
            own = self.person_and_method * generator.standard_normal(people)
            seed = self.seed * generator.standard_normal((seeds, self.folds))[:, fold]
            both = self.person_and_seed * generator.standard_normal((seeds, people))
            logit = 1.2 * (0.5 + moved + person + own + seed + both)[..., None] + hard
            sides.append((generator.random(logit.shape) < 1 / (1 + np.exp(-logit))).mean(axis=-1))
        return sides[0], sides[1]


TRAININGS = (
    Trainings("seeds matter a little", 0.1, 0.2),
    Trainings("seeds matter", 0.3, 0.5),
    Trainings("seeds matter much", 0.8, 0.3),
    Trainings("5 folds, each with its own", 0.5, 0.3, folds=5),
    Trainings("methods suit other people", 0.3, 0.5, person_and_method=0.5),
)
