"""``results.json`` in lines for people: every figure with its interval, or why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

AUROC = (
    "auroc: each {unit}'s own, averaged over the {unit}s that have all classes (where fewer than half have "
    "them: each fold's own, averaged over the folds)"
)
AUROC_POOLED = (
    "auroc_pooled: one ranking of all rows of all folds; each fold's model has its own threshold, so noise "
    "can land below .5 (far below in leave-one-out)"
)
CORRELATIONS = (
    "ccc, pcc: pooled, over all labelled rows of all {unit}s at once, as the challenges define them"
)
DIFFERENCES = (
    "differences: (pooled) of the figures above, (subject) within each {unit}, averaged; their intervals are "
    "over {unit}s and seeds, where zero outside is a difference between the methods"
)


def lines(written: Mapping[str, Any]) -> list[str]:
    """The metrics of a run, its variants, controls and differences; then what the words mean.

    Args:
      written: What ``results.json`` holds.
    """
    unit = written["unit"]
    tables = {"": written["metrics"]}
    tables.update({f"{name}: ": variant["metrics"] for name, variant in written["variants"].items()})
    tables.update({f"control {name}: ": control["metrics"] for name, control in written["controls"].items()})
    tables.update({f"{name}: ": found for name, found in written["paired_differences"].items()})
    said, reasons = [], {}
    for prefix, found in tables.items():
        for name, interval in found.items():
            if interval["value"] is None:
                continue
            if interval["ci95"]:
                low_high = "[{:.3f}, {:.3f}]".format(*interval["ci95"])
            else:
                low_high = "no interval"
                reasons.setdefault(interval["reason"], []).append(prefix + name)
            said.append(f"  {prefix}{name} {interval['value']:.3f} {low_high} ({over(interval, unit)})")
    said += [f"  no interval, {len(names)} times: {reason}" for reason, names in reasons.items() if reason]
    return (
        said
        + [f"  {sentence}" for sentence in explanations(written["metrics"], unit)]
        + ([f"  {DIFFERENCES.format(unit=unit)}"] if written["paired_differences"] else [])
    )


def over(interval: Mapping[str, Any], unit: str) -> str:
    """What a value is over, e.g. ``mean over 27 subjects`` or ``28 subjects, pooled``."""
    if interval["averaged_over"] == "pooled":
        return f"{_count(interval['subjects'], unit)}, pooled"
    own = unit if interval["averaged_over"] == "subject" else "fold"
    return f"mean over {_count(interval['units'], own)}"


def explanations(names: Iterable[str], unit: str) -> list[str]:
    """Sentences on those of the metrics whose name does not say what they are over."""
    names = list(names)
    known = {"auroc": AUROC, "auroc_pooled": AUROC_POOLED}
    found = [sentence.format(unit=unit) for name, sentence in known.items() if name in names]
    if any(name.startswith("ccc_") for name in names):
        found.append(CORRELATIONS.format(unit=unit))
    return found


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"
