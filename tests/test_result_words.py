"""What the end of a run says: one table, and a reason for every interval that is not there."""

from __future__ import annotations

from jmt_jax import result_words

POOLED = {"subjects": 5, "averaged_over": "pooled", "units": 5, "reason": None}


def interval(value, ci95=None, reason=None):
    return {**POOLED, "value": value, "ci95": ci95, "reason": reason}


def written(differences):
    return {
        "unit": "subject",
        "metrics": {"accuracy": interval(0.97, [0.54, 0.99]), "auroc": interval(1.0, reason="at its bound")},
        "variants": {},
        "controls": {"majority": {"metrics": {"accuracy": interval(0.5), "auroc": interval(None)}}},
        "paired_differences": differences,
    }


def test_the_model_stands_beside_its_controls_and_missing_intervals_have_a_reason_once():
    one_seed = {"model - majority (subject)": {"accuracy": interval(0.47, reason="one seed")}}
    lines = result_words.lines(written(one_seed))
    assert lines[0].split() == ["this", "model", "majority", "over"]
    assert lines[1].split() == ["accuracy", "0.970", "[0.540,", "0.990]", "0.500", "5", "subjects,", "pooled"]
    assert lines[2].split()[:2] == ["auroc", "1.000"]
    assert "  no interval of auroc: at its bound" in lines
    assert "  no interval of differences: one seed" in lines
    assert not any("differences: within" in line for line in lines)


def test_differences_are_a_line_a_control_with_what_their_intervals_are_over():
    found = {"accuracy": interval(0.47, [0.3, 0.6])}
    lines = result_words.lines(
        written({"model - majority (subject)": found, "model - majority (pooled)": found})
    )
    assert [line for line in lines if "model - " in line] == [
        "  model - majority: accuracy 0.470 [0.300, 0.600]"
    ]
    assert "over subjects and seeds" in lines[-1]
