"""Figures: they are written, hold what they should, and a sample's say that they are a sample's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from jmt_jax import report

ROWS = [
    {"stage": stage, "step": step, "part": part, "loss": 1 / (step + 1), "accuracy": None, "auroc": 0.5}
    for stage in ("visual", "physio")
    for step in (30, 10, 20)
    for part in ("train", "validation")
]


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, for a look at their content."""
    made = []

    class Kept(Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(report, "Figure", Kept)
    return made


def words_of(figure):
    """All text, without the places where lines were broken."""
    return " ".join(
        text.get_text().replace("\n", " ") for text in figure.findobj(lambda o: hasattr(o, "get_text"))
    )


def test_learning_curves(tmp_path, figures):
    path = tmp_path / "plots" / "learning_curves.png"
    report.learning_curves(path, ROWS, title="biovid", sample=True)
    assert imread(path).ndim == 3
    assert [p.name for p in path.parent.iterdir()] == ["learning_curves.png"]
    (figure,) = figures
    assert len(figure.axes) == 4  # Two stages; loss and auroc, for accuracy holds no number.
    assert "chosen" not in words_of(figure) and "chance" not in words_of(figure)
    assert [line.get_xdata().tolist() for line in figure.axes[0].lines] == [[10, 20, 30]] * 2
    for word in ("visual", "physio", "loss", "auroc", "train", "validation", "biovid", report.SAMPLE_WORDS):
        assert word in words_of(figure)


def test_what_chose_the_step_comes_first_with_its_kind_and_the_step_and_chance_are_drawn(tmp_path, figures):
    kinds = ("ccc", "pcc", "sagr")
    scores = {f"{kind}_{name}": 0.1 for kind in kinds for name in ("valence", "arousal", "mean")}
    rows = [
        {"stage": stage, "step": step, "part": part, "skipped_steps": 0, "loss": 1.0, **scores}
        for stage in ("visual", "fusion") for step in (1, 2) for part in ("train", "validation")
    ]  # fmt: skip
    names = report.panel_names(rows, "ccc_mean")
    assert names == ["ccc_mean", "ccc_valence", "ccc_arousal", "loss"]
    skipped = [{**rows[0], "skipped_steps": 2}, *rows[1:]]
    assert report.panel_names(skipped, "ccc_mean") == [*names, "skipped_steps"]
    report.learning_curves(
        tmp_path / "a.png",
        rows,
        first="ccc_mean",
        chosen={"visual": 2, "fusion": -1},
        chance={"ccc_mean": 0.0},
    )
    panels = np.reshape(figures[0].axes, (4, 2))
    assert panels[0, 0].get_ylabel() == "ccc mean"
    assert [len(panel.lines) for panel in panels[0]] == [4, 3] and len(panels[1, 0].lines) == 3
    assert panels[1, 0].lines[2].get_xdata() == [2, 2]
    assert panels[0, 0].lines[3].get_ydata() == [0.0, 0.0]
    for word in ("chosen step (by ccc mean)", "chance"):
        assert word in words_of(figures[0])


def test_gaps_and_nothing_at_all(tmp_path, figures):
    rows = [{"stage": "a", "step": s, "part": "odd", "loss": v} for s, v in enumerate([1.0, math.nan, 2])]
    report.learning_curves(tmp_path / "a.png", rows)
    report.learning_curves(tmp_path / "b.png", [])
    report.learning_curves(tmp_path / "c.png", rows[:1])
    assert figures[0].axes[0].lines[0].get_ydata().tolist() == [1.0, 2.0]
    assert figures[2].axes[0].lines[0].get_marker() == "."
    assert all(imread(tmp_path / f"{name}.png").size for name in "abc")


def test_confusion_matrix(tmp_path, figures):
    path = tmp_path / "confusion_matrix.png"
    report.confusion_matrix(path, [[3, 1], [0, 0]], ["BL1", "PA4"], sample=True)
    assert imread(path).ndim == 3
    words = words_of(figures[0])
    for word in ("75% 3", "25% 1", "none", "BL1", "PA4", "decision", "label", report.SAMPLE_WORDS):
        assert word in words
    with pytest.raises(ValueError, match="for 3 classes"):
        report.confusion_matrix(path, np.eye(2), ["a", "b", "c"])


def test_truth_and_prediction_over_time(tmp_path, figures):
    times = np.linspace(0, 3, 30)
    labels = np.stack([np.sin(times), np.cos(times)], axis=1)
    labels[5:9] = np.nan
    curves = [report.Curves(f"{word}: video", times, labels, 0.5 * labels) for word in ("best", "worst")]
    report.truth_and_prediction(tmp_path / "a.png", curves, ("valence", "arousal"), title="t", sample=True)
    (figure,) = figures
    assert [len(panel.lines) for panel in figure.axes] == [2] * 4
    words = ("best: video", "valence (-1 to 1)", "arousal (-1 to 1)", "start (s)", "annotation", "prediction")
    for word in (*words, report.SAMPLE_WORDS):
        assert word in words_of(figure)
    assert imread(tmp_path / "a.png").ndim == 3


def test_real_data_carries_no_sample_words(tmp_path, figures):
    report.confusion_matrix(tmp_path / "a.png", np.eye(2), ["a", "b"], title="stress")
    report.learning_curves(tmp_path / "b.png", ROWS, title="stress")
    assert not any("sample" in words_of(figure) for figure in figures)


def test_the_same_run_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        report.learning_curves(tmp_path / f"{name}.png", ROWS, sample=True)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
