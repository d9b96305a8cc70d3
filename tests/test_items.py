"""Which windows and clips become items, what becomes of the others, and labels that a task does not know."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import jsonschema
import numpy as np
import pytest
import tiny

from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.grid import Grid
from data_pipelines.items import make_items
from data_pipelines.recording import Annotation, Recording
from data_pipelines.source import make_table
from data_pipelines.splits import Item, make_split
from data_pipelines.tasks import check_left_out, find_task
from jmt_jax import part_checks
from jmt_jax.experiment import open_data

STRESS, PAIN = find_task("stress"), find_task("bl1_vs_pa4")
WINDOW = Grid("sliding", 2, window_seconds=4.0, step_seconds=4.0)


class Prepared:
    """As much of a prepared set as items ask for: a signal at 1 Hz, a label a second ("?" for none)."""

    path = "fake"

    def __init__(self, labels, name="stress", clips=False):
        self.recordings, columns = [], {}
        for number, text in enumerate(labels):
            known = np.array([[letter != "?"] for letter in text])
            values = np.array([[0 if letter == "?" else float(letter)] for letter in text], np.float32)
            times = None if clips else np.arange(len(text), dtype=np.float64)
            annotation = Annotation((name,), times, values, known)
            self.recordings.append(Recording(f"r{number}", f"p{number}", {"s": f"r{number}"}, annotation))
            columns[f"r{number}"] = {
                "length": np.array([len(text)], np.int32),
                "start_seconds": np.zeros(1),
                "rate_hz": np.ones(1),
                "times_seconds": np.zeros(0),
                **{f"moment_{name}": np.zeros((1, 1)) for name in ("count", "sum", "square_sum")},
            }
        self._table = make_table(list(columns), list(columns.values()))

    def table(self, stream):
        return self._table


def test_unknown_values_stop_with_a_list():
    with pytest.raises(
        BadDataError, match=r"0 \(rest\), 1 \(stress\).* 2 \(3 times, first in r1\), 3 \(1 times"
    ):
        make_items(Prepared(["0011", "2213", "0200"]), STRESS, WINDOW)
    valence = find_task("valence_arousal")
    annotation = Annotation(
        ("valence", "arousal"),
        np.arange(2.0),
        np.array([[0.1, -5], [1, 1]], np.float32),
        np.ones((2, 2), bool),
    )
    assert valence.unknown_values(annotation) == {-5.0: 1}
    assert valence.leaving_out((-5,)).unknown_values(annotation) == {}
    assert valence.leaving_out((-5,)).labels(annotation)[1].tolist() == [[True, False], [True, True]]
    with pytest.raises(UsageError, match="numbers"):
        STRESS.leaving_out(("rest",))


def test_a_value_to_leave_out_that_occurs_nowhere_is_refused(cache_dir):
    recordings = Prepared(["0011", "2?00"]).recordings
    check_left_out(STRESS.leaving_out((2,)), recordings)
    with pytest.raises(UsageError, match=r"leave_out_labels names 7, which .* that occur are 0, 1, 2: "):
        check_left_out(STRESS.leaving_out((2, 7)), recordings)
    with pytest.raises(UsageError, match="names 7, .* that occur are 0, 1: "):
        open_data(tiny.shrunk("stress", cache_dir, data__leave_out_labels=(7,)))


def test_values_that_a_task_is_not_about_are_no_unknown_ones():
    items = make_items(Prepared(["0", "4", "2", "?", "4"], "pain_class", clips=True), PAIN, Grid())
    assert items.labels.tolist() == [0, 1, 1]
    assert items.counts.of(range(5)) == {
        "kept": {"BL1": 1, "PA4": 2},
        "dropped": {"left_out": {"value 2": 1}, "unlabelled": {"none": 1}},
    }
    with pytest.raises(BadDataError, match="7"):
        make_items(Prepared(["0", "7"], "pain_class", clips=True), PAIN, Grid())


LABELS = ["0000111122220002", "0?00????0???11002221", "000"]


@pytest.mark.parametrize(
    ("mixed", "kept", "dropped"),
    [
        ("drop", {"rest": 2, "stress": 1}, {"mixed": {"rest": 2, "value 2": 1}, "left_out": {"value 2": 1}}),
        ("majority", {"rest": 4, "stress": 1}, {"left_out": {"value 2": 2}}),
    ],
)
def test_every_window_is_counted_and_a_label_left_out_is_a_label(mixed, kept, dropped):
    """Windows with some of a label left out were kept as if they had one label only."""
    grid = dataclasses.replace(WINDOW, mixed=mixed)
    items = make_items(Prepared(LABELS), STRESS.leaving_out((2,)), grid)
    dropped |= {
        "unlabelled": {"none": 1},
        "partly_labelled": {"rest": 1},
        "shorter_than_window": {"rest": 1},
    }
    assert items.counts.of(range(3)) == {"kept": kept, "dropped": dropped}
    assert len(items) == sum(kept.values())
    assert items.counts.of([2]) == {"kept": {}, "dropped": {"shorter_than_window": {"rest": 1}}}


def _fold(labels, protocol="loso", fold=0):
    items = make_items(Prepared(labels), STRESS, WINDOW)
    people = [Item(r.id, r.subject) for n, r in enumerate(items.recordings) if n in items.recording]
    split = make_split(people, protocol, fold=fold)
    rows = {
        part: np.flatnonzero([items.recordings[n].id in getattr(split, part) for n in items.recording])
        for part in ("train", "validation", "test")
    }
    return items, rows, split


def test_a_task_that_cannot_be_learnt_or_tested_is_refused():
    with pytest.raises(BadDataError, match="of class 'rest', expected at least two"):
        part_checks.check(STRESS, *_fold(["00000000"] * 4))
    items, rows, split = _fold(["0000"] + ["00001111"] * 4)
    assert part_checks.check(STRESS, items, rows, split) == ["The test part holds no item of class stress."]
    with pytest.raises(
        BadDataError, match="all items of the test part are of class 'rest', none is of class str"
    ):
        part_checks.check_tested(STRESS, items, [split], "test")
    every = [_fold(["0000"] + ["00001111"] * 4, fold=fold)[2] for fold in range(5)]
    part_checks.check_tested(STRESS, items, every, "test")
    with pytest.raises(BadDataError, match="the test part .* has no label"):
        part_checks.check(STRESS, items, {**rows, "test": rows["test"][:0]}, split)


def test_counts_by_part_obey_the_schema():
    items, _, split = _fold(["00001111"] * 4 + ["0011", "00"])
    found = part_checks.counts(items, split)
    assert found["unit"] == "window" and found["train"]["kept"] == {"rest": 2, "stress": 2}
    assert found["no_part"] == {
        "kept": {},
        "dropped": {"mixed": {"rest": 1}, "shorter_than_window": {"rest": 1}},
    }
    schema = json.loads(pathlib.Path(part_checks.__file__).with_name("results.schema.json").read_text())
    rule = schema["properties"]["split"]["properties"]["parts"]["items"]["properties"]["items"]
    jsonschema.Draft202012Validator({**rule, "$defs": schema["$defs"]}).validate(found)
    assert part_checks.sentences(found)[-1] == (
        "in no part: 0 windows kept; dropped: mixed 1 (rest 1), shorter than window 1 (rest 1)"
    )
