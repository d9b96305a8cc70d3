"""Figures of a run, as PNG: learning curves, the confusion matrix, truth and prediction over time."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from jmt_jax import files

SAMPLE_WORDS = "Built-in sample of synthetic people: says nothing about real recordings"

# Told apart by people who do not see red and green alike (Okabe and Ito).
_COLORS = {"train": "#0072B2", "validation": "#D55E00", "test": "#009E73"}
_TRUTH_COLOR = "#000000"
_SPARE_COLORS = ("#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = {"train": None, "validation": "o", "test": "s"}
_NOT_CURVES = frozenset(
    {"stage", "step", "part", "epoch", "seed", "fold", "seconds", "steps_per_second", "learning_rate"}
)
_MOST_PANELS = 6
# Metrics of several outputs are called <kind>_<output>.
_KINDS = ("ccc", "pcc", "rmse", "sagr")
_SKIPPED = "skipped_steps"
_CHOSEN = {"color": "#555555", "linewidth": 1.0, "linestyle": ":"}
_CHANCE = {"color": "#999999", "linewidth": 1.0, "linestyle": "--"}


class Curves(NamedTuple):
    """One recording over time.

    Attributes:
      title: What stands over it.
      times_seconds: [F].
      labels: [F, A], NaN where unlabelled.
      outputs: [F, A].
    """

    title: str
    times_seconds: np.ndarray
    labels: np.ndarray
    outputs: np.ndarray


def learning_curves(
    path: Path,
    rows: Iterable[Mapping[str, Any]],
    *,
    first: str = "loss",
    chosen: Mapping[str, int] | None = None,
    chance: Mapping[str, float] | None = None,
    title: str = "",
    sample: bool = False,
) -> None:
    """Draws what ``metrics.jsonl`` holds: a column for each stage, a panel for each metric.

    Args:
      path: The PNG to write, atomically.
      rows: Objects with ``stage``, ``step``, ``part`` (``train``, ``validation``, ...) and numbers by metric
        name. None and missing numbers are gaps. `panel_names` says which metrics are drawn.
      first: The metric that chooses the checkpoint; it is the first row of panels.
      chosen: Stage to the step that was chosen, which is marked.
      chance: Metric to what knowing nothing scores, which is drawn.
      title: Over the figure, e.g. the data set and protocol.
      sample: True puts it into the figure that its people are synthetic.
    """
    rows = list(rows)
    stages = list(dict.fromkeys(str(row["stage"]) for row in rows)) or [""]
    parts = list(dict.fromkeys(str(row["part"]) for row in rows))
    names = panel_names(rows, first)
    chosen, chance = chosen or {}, chance or {}
    figure = Figure(figsize=(1.4 + 3.6 * len(stages), 1.2 + 2.1 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), len(stages), squeeze=False, sharex="col", sharey="row")
    for (i, j), panel in np.ndenumerate(panels):
        for part in parts:
            mine = [row for row in rows if str(row["stage"]) == stages[j] and str(row["part"]) == part]
            points = sorted((row["step"], row[names[i]]) for row in mine if _is_number(row.get(names[i])))
            if points:
                steps, values = zip(*points, strict=True)
                panel.plot(steps, values, color=_color(part, parts), **_line(part, len(points)))
        if chosen.get(stages[j], -1) >= 0:
            panel.axvline(chosen[stages[j]], **_CHOSEN)
        if names[i] in chance:
            panel.axhline(chance[names[i]], **_CHANCE)
        _tidy(panel)
        if i == 0:
            panel.set_title(stages[j], fontsize=10)
        if i == len(names) - 1:
            panel.set_xlabel("step")
        if j == 0:
            panel.set_ylabel(_spoken(names[i]))
    if parts:
        handles = [Line2D([], [], color=_color(part, parts), label=part, **_line(part, 2)) for part in parts]
        if any(chosen.get(stage, -1) >= 0 for stage in stages):
            handles.append(Line2D([], [], label=f"chosen step (by {_spoken(first)})", **_CHOSEN))
        if set(chance) & set(names):
            handles.append(Line2D([], [], label="chance", **_CHANCE))
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=min(len(handles), 2 * len(stages)),
            frameon=False,
        )
    _finish(figure, path, title, sample)


def panel_names(rows: Sequence[Mapping[str, Any]], first: str) -> list[str]:
    """The metrics that `learning_curves` draws, in order; at most six.

    ``first`` leads, then the others of its kind (all ``ccc_`` beside ``ccc_mean``), the loss, and whole kinds
    as long as there is room. Skipped steps are among them only if there were any.

    Args:
      rows: Of ``metrics.jsonl``.
      first: Name of a metric; ignored where no row has it.
    """
    found = dict.fromkeys(n for row in rows for n, v in row.items() if n not in _NOT_CURVES and _is_number(v))
    if not any(row.get(_SKIPPED) for row in rows):
        found.pop(_SKIPPED, None)
    kinds: dict[str, list[str]] = {}
    for name in found:
        kind, several, _ = name.partition("_")
        kinds.setdefault(kind if several and kind in _KINDS else name, []).append(name)
    of_first = next((kind for kind, names in kinds.items() if first in names), "")
    leading = [kind for kind in dict.fromkeys((of_first, "loss")) if kind in kinds]
    drawn: list[str] = []
    for kind in [*leading, *(kind for kind in kinds if kind not in leading)]:
        members = sorted(kinds[kind], key=lambda name: name != first)
        if not drawn or len(drawn) + len(members) <= _MOST_PANELS:
            drawn += members
    return drawn or ["loss"]


def confusion_matrix(
    path: Path,
    counts: Sequence[Sequence[float]],
    classes: Sequence[str],
    *,
    title: str = "",
    sample: bool = False,
) -> None:
    """Draws a confusion matrix: colour is the share of the label's rows, text is share and count.

    Args:
      path: The PNG to write, atomically.
      counts: K x K, a row for each label, a column for each decision.
      classes: K names.
      title: Over the figure.
      sample: True puts it into the figure that its people are synthetic.
    """
    table = np.asarray(counts, np.float64)
    if table.shape != (len(classes), len(classes)):
        raise ValueError(f"counts {table.shape} for {len(classes)} classes; expected a square of that size")
    totals = table.sum(axis=1, keepdims=True)
    shares = np.divide(table, totals, out=np.zeros_like(table), where=totals > 0)
    side = 2.4 + 0.8 * len(classes)
    figure = Figure(figsize=(side + 0.9, side), layout="constrained")
    panel = figure.subplots()
    image = panel.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    for (i, j), share in np.ndenumerate(shares):
        text = f"{share:.0%}\n{table[i, j]:g}" if totals[i] else "none"
        panel.text(
            j, i, text, ha="center", va="center", fontsize=9, color="white" if share > 0.6 else "black"
        )
    panel.set_xticks(range(len(classes)), classes)
    panel.set_yticks(range(len(classes)), classes)
    panel.set_xlabel("decision")
    panel.set_ylabel("label")
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=panel, shrink=0.8, label="share of the label's rows")
    bar.outline.set_visible(False)
    _finish(figure, path, title, sample)


def truth_and_prediction(
    path: Path,
    recordings: Sequence[Curves],
    names: Sequence[str],
    *,
    value_range: tuple[float, float] = (-1.0, 1.0),
    title: str = "",
    sample: bool = False,
) -> None:
    """Draws truth and prediction over time: a row for each recording, a column for each output.

    Args:
      path: The PNG to write, atomically.
      recordings: At least one, e.g. the best, the median and the worst.
      names: A names of the outputs.
      value_range: Of the vertical axes.
      title: Over the figure.
      sample: True puts it into the figure that its people are synthetic.
    """
    figure = Figure(figsize=(1.2 + 4.6 * len(names), 1.4 + 1.9 * len(recordings)), layout="constrained")
    panels = figure.subplots(len(recordings), len(names), squeeze=False)
    for (i, j), panel in np.ndenumerate(panels):
        one = recordings[i]
        panel.plot(one.times_seconds, one.labels[:, j], color=_TRUTH_COLOR, linewidth=1.2)
        panel.plot(one.times_seconds, one.outputs[:, j], color=_COLORS["validation"], linewidth=1.2)
        panel.set_ylim(*value_range)
        _tidy(panel)
        panel.set_title(one.title, fontsize=9)
        if i == len(recordings) - 1:
            panel.set_xlabel("time since the recording's start (s)", fontsize=9)
        panel.set_ylabel(f"{names[j]} ({value_range[0]:g} to {value_range[1]:g})", fontsize=9)
    handles = [
        Line2D([], [], color=color, label=label)
        for color, label in ((_TRUTH_COLOR, "annotation"), (_COLORS["validation"], "prediction"))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    _finish(figure, path, title, sample)


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))


def _color(part: str, parts: Sequence[str]) -> str:
    if part in _COLORS:
        return _COLORS[part]
    return _SPARE_COLORS[parts.index(part) % len(_SPARE_COLORS)]


def _line(part: str, points: int) -> dict[str, Any]:
    """A marker at every point where there are few; a lone point is only seen with one."""
    marker = "." if points == 1 else _MARKERS.get(part, "o")
    return {"linewidth": 1.5, "marker": marker if points <= 60 else None, "markersize": 4}


def _tidy(panel: Any) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25)
    panel.tick_params(labelsize=8)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, steps=[1, 2, 5, 10]))


def _finish(figure: Figure, path: Path, title: str, sample: bool) -> None:
    """Adds the title and the sample's words, and writes the file under its name in one step."""
    words = [word for word in (title, SAMPLE_WORDS if sample else "") if word]
    if words:
        columns = int(figure.get_figwidth() * 12)
        figure.suptitle("\n".join(textwrap.fill(word, columns) for word in words), fontsize=10)
    figure.set_dpi(150)
    # No time of writing in the file: the same run gives the same bytes.
    metadata = {"Software": None, "Description": " ".join(words)}
    with files.appearing(path) as temporary:
        FigureCanvasAgg(figure).print_png(temporary, metadata=metadata)
