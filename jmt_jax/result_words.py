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
    "differences: within each {unit}, averaged; their intervals are over {unit}s and seeds, where zero "
    "outside is a difference between the methods (of the pooled figures: paired_differences)"
)
_WITHIN = " (subject)"
SEES_FUTURE = (
    "{streams} of the people who are evaluated {verb} normalised with all of their recordings, which looks "
    "ahead: no live use could do so (--config.data.streams.<stream>.normalise=subject_past sees the past "
    "alone)."
)


def lines(written: Mapping[str, Any]) -> list[str]:
    """The metrics of a run with intervals, beside them its variants and controls; then what the words mean.

    Args:
      written: What ``results.json`` holds.
    """
    unit = written["unit"]
    said = [f"  {row}" for row in _aligned(_table(written, unit))]
    reasons: dict[str, list[str]] = {}
    for name, interval in written["metrics"].items():
        if interval["value"] is not None and not interval["ci95"]:
            reasons.setdefault(interval["reason"], []).append(name)
    differences, why = _differences(written["paired_differences"])
    if why:
        reasons.setdefault(why, []).append("differences")
    said += [f"  {line}" for line in differences]
    said += [f"  no interval of {', '.join(names)}: {reason}" for reason, names in reasons.items() if reason]
    said += [f"  {sentence}" for sentence in explanations(written["metrics"], unit)]
    return said + ([f"  {DIFFERENCES.format(unit=unit)}"] if differences else [])


def sees_future(written: Mapping[str, Any]) -> str:
    """The sentence on what results know of the evaluated people's future; "" where they know nothing of it.

    Args:
      written: What ``results.json`` holds.
    """
    found = written["data"].get("normalisation", {})
    streams = [stream for stream, one in found.items() if one["looked_ahead"]]
    if not streams:
        return ""
    return SEES_FUTURE.format(streams=" and ".join(streams), verb="was" if len(streams) == 1 else "were")


def warnings(written: Mapping[str, Any]) -> list[str]:
    """All sentences on what the figures must not be taken for, each once: of the split, normalisation, data.

    Args:
      written: What ``results.json`` holds.
    """
    said = [*written["split"]["warnings"], sees_future(written), written["warning"]]
    return list(dict.fromkeys(sentence for sentence in said if sentence))


def _table(written: Mapping[str, Any], unit: str) -> list[list[str]]:
    beside = {**written["variants"], **written["controls"]}
    rows = [["", "this model", *beside, "over"]]
    for name, interval in written["metrics"].items():
        if interval["value"] is not None:
            others = [each["metrics"].get(name, {}).get("value") for each in beside.values()]
            row = [name, _with_interval(interval), *("" if x is None else f"{x:.3f}" for x in others)]
            rows.append([*row, over(interval, unit)])
    return rows


def _differences(found: Mapping[str, Any]) -> tuple[list[str], str]:
    """A line for each control, and why there is none: intervals of differences are all given or none is."""
    said, why = [], ""
    for name, metrics in found.items():
        if not name.endswith(_WITHIN):
            continue
        told = {metric: one for metric, one in metrics.items() if one["value"] is not None}
        why = why or next((one["reason"] for one in told.values() if one["reason"]), "")
        if any(one["ci95"] for one in told.values()):
            each = ", ".join(f"{metric} {_with_interval(one)}" for metric, one in told.items() if one["ci95"])
            said.append(f"{name.removesuffix(_WITHIN)}: {each}")
    return said, "" if said else why


def _with_interval(interval: Mapping[str, Any]) -> str:
    value = f"{interval['value']:.3f}"
    return value + " [{:.3f}, {:.3f}]".format(*interval["ci95"]) if interval["ci95"] else value


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


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
