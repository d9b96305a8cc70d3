"""Finished runs beside each other: the same people are compared, others are refused."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import pytest
from test_results import make_results, make_table

from data_pipelines.errors import BadDataError
from jmt_jax import compare, results
from jmt_jax.statistics import Predictions
from jmt_jax.trained_backbones import fold_folder

NAMES = ("BL1", "PA4")
CHECKPOINT = {"stage": "fusion", "step": 90, "metric": "auroc", "part": "validation", "value": 0.5}


def write_run(folder, table, control=None, **model):
    config = {"model": {"streams": "a,b", "fusion": "jmt", **model}, "eval": {"select": "auroc"}}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    tables = [table] if isinstance(table, Predictions) else table
    split = {**make_results()["split"]["parts"][0], "name": "holdout", "folds": 1, "selection": "validation",
             "warnings": [], "checkpoint": CHECKPOINT}  # fmt: skip
    metrics = {"auroc": results.Interval(0.5, None, 6), "accuracy": results.Interval(0.5, None, 6)}
    controls = {"time": results.Control("The clock alone.", metrics)} if control else {}
    facts = {"name": "biovid", "task": "pain"}
    written = make_results(
        splits=[{**split, "seed": seed} for seed in range(len(tables))],
        metrics=metrics, controls=controls, data=facts, paired_differences={},
    )  # fmt: skip
    results.write(folder / "results.json", written)
    for seed, one in enumerate(tables):
        run = folder if len(tables) == 1 else fold_folder(folder, split["fold"], seed)
        results.save_predictions(run / "predictions" / "test.csv", one, NAMES)
        if control:
            results.save_predictions(run / "predictions" / "test_time.csv", control, NAMES)
    return folder


def certain(table, share):
    """Predictions that move from chance towards the truth."""
    truth = np.eye(2)[table.labels]
    return dataclasses.replace(table, outputs=(1 - share) * table.outputs + share * truth)


def test_the_difference_is_the_first_minus_the_other_and_the_controls_follow(tmp_path, capsys):
    table = make_table()
    good = write_run(tmp_path / "good", certain(table, 0.9), control=table)
    bad = write_run(tmp_path / "bad", certain(table, 0.1), fusion="concat")
    assert compare.main([str(good), str(bad)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| good | a,b | jmt | fusion 90 | 1.000 [-] |")
    assert lines[3].startswith("| bad | a,b | concat | fusion 90 | 0.") and not lines[3].endswith("|  |")
    assert lines[4].startswith("| control: time |")
    assert lines[6] == "auroc: mean over 6 subjects; 6 subjects, 1 seed a run."
    assert lines[-1] == "good, bad: These figures say nothing about biovid."
    value, other = (float(line.split("|")[5].split()[0]) for line in lines[2:4])
    assert value > other and float(lines[3].split("|")[6].split()[0]) > 0


def seeded(share, first, seeds):
    """One table a seed over the same rows, as a method's trainings would make them."""
    tables = []
    for seed in range(first, first + seeds):
        noise = np.random.default_rng(seed).dirichlet(np.ones(2), 24)
        tables.append(certain(dataclasses.replace(make_table(), outputs=noise), share))
    return tables


def test_a_run_that_looks_ahead_is_named(tmp_path):
    table = make_table()
    runs = [write_run(tmp_path / name, table) for name in ("past", "future")]
    written = results.read(runs[1] / "results.json")
    written["data"]["normalisation"] = {"body": {"mode": "subject", "looked_ahead": True}}
    results.write(runs[1] / "results.json", written)
    lines = compare.table([compare.load(run) for run in runs]).splitlines()
    said = "future: body of the people who are evaluated was normalised"
    assert any(line.startswith(said) for line in lines)
    assert not any(line.startswith("past: ") for line in lines)


def test_every_warning_of_results_is_said_once_with_its_runs(tmp_path):
    runs = [write_run(tmp_path / name, make_table()) for name in ("one", "two")]
    for run, sentences in zip(runs, (["Leak."], ["Leak.", results.TRAINED_ON]), strict=True):
        written = results.read(run / "results.json")
        written["split"]["warnings"] = sentences
        results.write(run / "results.json", written)
    lines = compare.table([compare.load(run) for run in runs]).splitlines()
    assert lines.count("one, two: Leak.") == 1 and f"two: {results.TRAINED_ON}" in lines
    assert "one, two: These figures say nothing about biovid." in lines


def test_of_several_evaluations_the_newest_is_taken_and_named(tmp_path):
    run = write_run(tmp_path / "run", make_table())
    assert not compare.load(run).note
    (run / "evaluations").mkdir()
    for number, name in enumerate(("validation_best", "validation_best_2", "validation_last")):
        folder = write_run(run / "evaluations" / name, make_table())
        (folder / "predictions" / "test.csv").rename(folder / "predictions" / "validation.csv")
        (folder / "results.json").rename(folder / "results_validation.json")
        os.utime(folder / "results_validation.json", (number, number))
    lines = compare.table([compare.load(run, "validation")]).splitlines()
    said = "run: of 2 evaluations of its validation part the newest is taken, evaluations/validation_best_2."
    assert said in lines
    with pytest.raises(BadDataError, match=r"it has results.json, evaluations/.*--config.eval.split=train"):
        compare.load(run, "train")


def test_with_one_seed_a_side_nothing_is_marked(tmp_path, capsys):
    write_run(tmp_path / "good", seeded(0.9, 0, 1)[0])
    write_run(tmp_path / "bad", seeded(0.0, 1, 1)[0])
    assert compare.main([str(tmp_path / "good"), str(tmp_path / "bad"), "--metric=accuracy"]) == 0
    said = capsys.readouterr().out
    assert compare.MARK not in said
    assert "No interval of a difference: one seed: another training of the same method would differ" in said


def test_with_several_seeds_a_method_differs_from_another_and_not_from_itself(tmp_path, capsys):
    for name, tables in (
        ("good", seeded(0.45, 0, 5)), ("again", seeded(0.45, 10, 5)), ("bad", seeded(0.0, 20, 5))
    ):  # fmt: skip
        write_run(tmp_path / name, tables)
    assert (
        compare.main([*(str(tmp_path / name) for name in ("good", "again", "bad")), "--metric=accuracy"]) == 0
    )
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert compare.MARK not in lines[3] and lines[4].endswith("] * |")
    assert "6 subjects, 5 seeds a run" in out and "the methods differ" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["good", "elsewhere"], "is no run"),
        (["good", "other_rows"], "do not predict the same rows"),
        (["good", "--metric=ccc_mean"], "none of the runs' metrics: auroc, accuracy"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, capsys, arguments, said):
    table = make_table()
    write_run(tmp_path / "good", table)
    write_run(tmp_path / "other_rows", dataclasses.replace(table, labels=1 - table.labels))
    given = [text if text.startswith("--") else str(tmp_path / text) for text in arguments]
    assert compare.main(given) in (2, 3)
    assert said in capsys.readouterr().err
