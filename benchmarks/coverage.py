"""How often 95 % intervals hold the truth, and how often a method differs from itself.

Draws skewed people of whom the truth is known (``coverage_people``), makes the intervals by the package's
own rules, and prints, for each metric and number of people, the share that holds the truth, with the error of
that share by Monte Carlo (one deviation), and the share of draws in which an interval could be given. Where
the package gives none at all (too few people) its method's coverage stands in brackets. Beside it Student's t
on the plain values and the percentile bootstrap. An interval that is given must cover .93 to .97; the command
ends with code 1 and names it where one is out of that by more than twice the error, as where more than 7 of
100 pairs of one method "differ".

    python benchmarks/coverage.py [--repetitions=2000] [--seed=0] [--only=accuracy]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import coverage_people as people  # noqa: E402
from data_pipelines import command_line  # noqa: E402
from jmt_jax import differences, intervals, statistics  # noqa: E402

NUMBERS = (3, 5, 8, 10, 28, 87)
SEEDS = (1, 2, 3, 5)
LOW, HIGH = 0.93, 0.97
_DRAWS = 400  # Of the percentile bootstrap and of the bootstrap-t.
_MOST_DIFFER = 0.07


class Row(NamedTuple):
    """One line of the table.

    Attributes:
      metric: Its name.
      people: In words.
      number: Of people.
      given: Share of the draws with an interval.
      covered: Of those, the share that holds the truth.
      error: Of that share.
      is_given: Whether the package gives it.
      others: Coverage of other methods.
    """

    metric: str
    people: str
    number: int
    given: float
    covered: float
    error: float
    is_given: bool
    others: dict[str, float]

    def line(self) -> str:
        """For a Markdown table."""
        share = f"{self.covered:.3f} ± {self.error:.3f}"
        share = share if self.is_given else f"({share})"
        others = " | ".join(f"{self.others[name]:.3f}" if name in self.others else "" for name in _OTHERS)
        return f"| {self.metric} | {self.people} | {self.number} | {share} | {self.given:.3f} | {others} |"

    def misses(self) -> bool:
        """Whether the coverage is out of bounds by more than twice its error."""
        out = max(LOW - self.covered, self.covered - HIGH)
        return self.is_given and self.number >= intervals.FEWEST_SUBJECTS and out > 2 * self.error


_OTHERS = ("t", "percentile bootstrap")
_CORRELATIONS = ("ccc", "pcc")


def _row(
    metric: str,
    words: str,
    number: int,
    found: np.ndarray,
    truth: float,
    rule: intervals.Rule,
    **others: float,
) -> Row:
    told = np.isfinite(found).all(axis=-1)
    share = _holds(found[told], truth)
    error = np.sqrt(share * (1 - share) / max(told.sum(), 1))
    named = {name.replace("_", " "): value for name, value in others.items()}
    return Row(metric, words, number, told.mean(), share, error, number >= rule.fewest, named)


def _holds(found: np.ndarray, truth: float) -> float:
    return float(((found[:, 0] <= truth) & (truth <= found[:, 1])).mean()) if len(found) else np.nan


def _plain_t(value: np.ndarray, left_out: np.ndarray, truth: float) -> float:
    """Coverage of Student's t on the metric's own scale."""
    n = left_out.shape[-1]
    error = np.sqrt((n - 1) * ((left_out - left_out.mean(-1, keepdims=True)) ** 2).mean(-1))
    half = scipy.stats.t.ppf(0.975, n - 1) * error
    return _holds(np.stack([value - half, value + half], axis=-1), truth)


def counted_rows(case: people.Counted, repetitions: int, generator: np.random.Generator) -> Iterator[Row]:
    """A metric made of sums over people."""
    truth = case.truth
    if truth is None:
        truth = float(case.of_sums(case.draw(generator, (1_000_000,)).sum(axis=0)))
    rule = intervals.rule(case.metric)
    for number in NUMBERS:
        sums = case.draw(generator, (repetitions, number))
        total = sums.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            value, left_out = case.of_sums(total), case.of_sums(total[:, None] - sums)
            skewed = rule.method == "skewed_jackknife_t"
            found = intervals.jackknife(value, left_out, rule.bounds, skewed=skewed)
            drawn = np.empty((repetitions, 2))
            for one in range(repetitions):
                draws = generator.multinomial(number, np.full(number, 1 / number), _DRAWS)
                drawn[one] = np.nanpercentile(case.of_sums(draws @ sums[one]), [2.5, 97.5])
        others = {"t": _plain_t(value, left_out, truth), "percentile_bootstrap": _holds(drawn, truth)}
        yield _row(case.metric, case.people, number, found, truth, rule, **others)


def ranked_rows(case: people.Ranked, repetitions: int, generator: np.random.Generator) -> Iterator[Row]:
    """The pooled AUROC."""
    truth, rule = case.truth(generator), intervals.rule("auroc_pooled")
    for number in NUMBERS:
        drawn = [case.one(generator, number) for _ in range(repetitions)]
        value, left_out = (np.stack(part) for part in zip(*drawn, strict=True))
        found = intervals.jackknife(value, left_out, rule.bounds, skewed=False)
        t = _plain_t(value, left_out, truth)
        yield _row("auroc_pooled", case.people, number, found, truth, rule, t=t)


def video_rows(case: people.Videos, repetitions: int, generator: np.random.Generator) -> Iterator[Row]:
    """Pooled CCC and PCC, and means over videos of each one's own CCC and RMSE."""
    metric = statistics.regression_metric(("value",))
    many = [case.table(generator, 400) for _ in range(100)]
    own = [statistics.subject_mean(metric, [table]) for table in many]
    truths = statistics.values(metric, statistics.join(many))
    truths = {name: truths[f"{name}_value"] for name in _CORRELATIONS}
    means = {name: float(np.mean([one[f"{name}_value"].value for one in own])) for name in ("ccc", "rmse")}
    for number in NUMBERS:
        pooled: dict[str, list] = {name: [] for name in truths}
        each: dict[str, list] = {name: [] for name in means}
        left_out = np.eye(number) < 1
        for _ in range(repetitions):
            table = case.table(generator, number)
            video = np.array(table.subjects, dtype=np.int64)
            draws = generator.multinomial(number, np.full(number, 1 / number), _DRAWS).astype(float)
            weights = np.concatenate([np.ones((1, number)), draws, left_out])
            for name in truths:
                value, slope = metric.influence(table, video, weights)[f"{name}_value"]
                pooled[name].append(_pooled_intervals(value, slope, draws))
            values = metric.of_groups(table, video, np.eye(number))
            for name in means:
                own = values[f"{name}_value"]
                each[name].append(np.append(own.mean(), (own.sum() - own) / (number - 1)))
        for name, truth in truths.items():
            by_method = np.array(pooled[name])
            others = dict(zip(("t", "percentile_bootstrap"), by_method.swapaxes(0, 1)[1:], strict=True))
            others = {method: _holds(found, truth) for method, found in others.items()}
            rule = intervals.rule(name)
            yield _row(f"{name}, pooled", case.people, number, by_method[:, 0], truth, rule, **others)
        for name, truth in means.items():
            rule, found = intervals.rule(name, subject_mean=True), np.array(each[name])
            t = _plain_t(found[:, 0], found[:, 1:], truth)
            skewed = rule.method == "skewed_jackknife_t"
            found = intervals.jackknife(found[:, 0], found[:, 1:], rule.bounds, skewed=skewed)
            yield _row(f"{name}, mean over videos", case.people, number, found, truth, rule, t=t)


def _pooled_intervals(value: np.ndarray, slope: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """The package's, the jackknife t's and the percentile bootstrap's interval [3, 2] of a correlation.

    Args:
      value: Of all, of each draw, and without each.
      slope: Derivatives of the same.
      draws: How often each was drawn.
    """
    last = 1 + len(draws)
    ours = intervals.bootstrap_t(value[0], slope[0], draws, value[1:last], slope[1:last])
    n = draws.shape[1]
    error = np.sqrt((n - 1) * value[last:].var())
    half = scipy.stats.t.ppf(0.975, n - 1) * error
    percentile = np.nanpercentile(value[1:last], [2.5, 97.5])
    return np.stack([ours, [value[0] - half, value[0] + half], percentile])


def seed_lines(repetitions: int, generator: np.random.Generator) -> tuple[list[str], list[str]]:
    """How often two methods differ that are one, and two that are not; and what is out of bounds."""
    lines = [
        "| trainings | people | seeds a side | one method 'differs' | by people alone | two are told apart |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    out = []
    for case in people.TRAININGS:
        for number in (5, 10, 28):
            for seeds in SEEDS:
                pairs = [case.pair(generator, seeds, number, 0.0) for _ in range(repetitions)]
                real = [case.pair(generator, seeds, number, 1.0) for _ in range(repetitions // 4)]
                found = np.mean([_differs(a, b) for a, b in pairs])
                alone = np.mean([_differs_by_people(a, b) for a, b in pairs])
                power = np.mean([_differs(a, b) for a, b in real])
                error = np.sqrt(found * (1 - found) / repetitions)
                lines.append(
                    f"| {case.words} | {number} | {seeds} | {found:.3f} ± {error:.3f} | {alone:.3f} | "
                    f"{power:.3f} |"
                )
                if found > _MOST_DIFFER:
                    out.append(f"{case.words}, {number} people, {seeds} seeds: {found:.3f} of pairs differ")
    return lines, out


def _differs(a: np.ndarray, b: np.ndarray) -> bool:
    found = differences.interval(a, b)
    return not isinstance(found, str) and not found[0] <= 0 <= found[1]


def _differs_by_people(a: np.ndarray, b: np.ndarray) -> bool:
    """Student's t on the people's differences, seeds averaged: what ``differences`` is there to mend."""
    each = a.mean(axis=0) - b.mean(axis=0)
    return bool(
        abs(each.mean()) > scipy.stats.t.ppf(0.975, len(each) - 1) * each.std(ddof=1) / len(each) ** 0.5
    )


def main() -> int:
    """The command line."""
    parser = command_line.Parser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--repetitions", type=command_line.whole(2), default=2000, help="draws of each line (default: 2000)"
    )
    parser.add_argument("--seed", type=command_line.whole(0), default=0)
    parser.add_argument("--only", default="", help="the metrics whose name holds this; 'seeds' for those")
    options = parser.parse_args()
    names = ["auroc_pooled", "ccc pcc rmse", "seeds", *(case.metric for case in people.COUNTED)]
    if not any(options.only in name for name in names):
        parser.error(f"--only={options.only} is in no name; names are {', '.join(dict.fromkeys(names))}")
    generator, started = np.random.default_rng(options.seed), time.monotonic()
    print(f"| metric | people | number | coverage | given | {' | '.join(_OTHERS)} |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    missed: list[str] = []
    for rows, name, cases in (
        (counted_rows, "", people.COUNTED),
        (ranked_rows, "auroc_pooled", people.RANKED),
        (video_rows, "ccc pcc rmse", people.VIDEOS),
    ):
        for case in cases:
            if options.only not in (name or case.metric):
                continue
            for row in rows(case, options.repetitions, generator):
                print(row.line(), flush=True)
                missed += [row.line()] if row.misses() else []
    if options.only in "seeds":
        lines, out = seed_lines(options.repetitions, generator)
        print("", *lines, sep="\n")
        missed += out
    print(f"\n{options.repetitions} repetitions, seed {options.seed}, {time.monotonic() - started:.0f} s")
    print("\n".join(["Out of bounds:", *missed]) if missed else "All that is given covers .93 to .97.")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
