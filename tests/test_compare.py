"""Finished runs beside each other: the same people are compared, others are refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from test_results import make_results, make_table

from jmt_jax import compare, results

NAMES = ("BL1", "PA4")


def write_run(folder, table, control=None, **model):
    config = {"model": {"streams": "a,b", "fusion": "jmt", **model}, "eval": {"select": "auroc"}}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    split = {**make_results()["split"]["parts"][0], "name": "holdout", "folds": 1, "selection": "validation",
             "seed": 0, "warnings": []}  # fmt: skip
    metrics = {"auroc": results.Interval(0.5, None, 6), "accuracy": results.Interval(0.5, None, 6)}
    controls = {"time": results.Control("The clock alone.", metrics)} if control else {}
    facts = {"name": "biovid", "task": "pain"}
    written = make_results(
        splits=[split], metrics=metrics, controls=controls, data=facts, paired_differences={}
    )
    results.write(folder / "results.json", written)
    results.save_predictions(folder / "predictions" / "test.csv", table, NAMES)
    if control:
        results.save_predictions(folder / "predictions" / "test_time.csv", control, NAMES)
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
    assert lines[2].startswith("| good | a,b | jmt | 1.000 [1.000, 1.000] |")
    assert lines[3].startswith("| bad | a,b | concat | 0.") and not lines[3].endswith("|  |")
    assert lines[4].startswith("| control: time |")
    assert lines[6] == "6 subjects, 1 seed, 95 % intervals."
    assert "sample" in lines[7]
    value, other = (float(line.split("|")[4].split()[0]) for line in lines[2:4])
    assert value > other and float(lines[3].split("|")[5].split()[0]) > 0


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
