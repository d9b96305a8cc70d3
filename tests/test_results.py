"""results.json against its schema (by two validators), and tables of predictions there and back."""

from __future__ import annotations

import copy
import json

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.errors import BadDataError
from data_pipelines.splits import Item, make_split
from jmt_jax import results, results_schema
from jmt_jax.statistics import Interval, Predictions, classification_metric, estimate, per_subject


def make_table(seed=0, classes=2):
    rng = np.random.default_rng(seed)
    outputs = rng.dirichlet(np.ones(classes), 24).astype(np.float32)
    return Predictions(
        tuple(f"s{i // 4}" for i in range(24)),
        tuple(f"s{i // 4}-{i}" for i in range(24)),
        np.arange(24) % classes,
        outputs,
        np.arange(24) % 5 > 0,
    )


def make_results(**changes):
    table = make_table()
    items = [Item(r, s, 0) for r, s in zip(table.recordings, table.subjects, strict=True)]
    metrics = estimate(classification_metric, [table])
    arguments = {
        "data": {"name": "biovid", "recordings": np.int64(24)},
        "splits": [make_split(items, "subject_kfold", folds=3, fold=fold).as_json() for fold in range(3)],
        "sample": True,
        "warning": "These figures say nothing about biovid.",
        "metrics": metrics,
        "per_subject": per_subject(classification_metric, [table]),
        "confusion_matrix": {"classes": ["BL1", "PA4"], "counts": np.eye(2) * 12},
        "controls": {"time": results.Control("The clock alone.", metrics)},
        "variants": {"unsmoothed": ("Not smoothed.", metrics)},
        "paired_differences": {"model - time": {"accuracy": Interval(0.0, None, 1)}},
        "seconds": {"train": np.float32(1.5)},
        "config": {"seed": 0, "widths": (1, 2)},
    }
    return results.build(**{**arguments, **changes})


def test_results_obey_the_published_schema(tmp_path):
    built = make_results(extra={"fingerprint": "abc"})
    jsonschema.Draft202012Validator.check_schema(results_schema.schema())
    jsonschema.Draft202012Validator(results_schema.schema()).validate(built)
    results.write(tmp_path / "results.json", built)
    assert results.read(tmp_path / "results.json") == built
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert built["protocol"] == "subject_kfold"
    assert [part["fold"] for part in built["split"]["parts"]] == [0, 1, 2]
    assert built["metrics"]["accuracy"]["subjects"] == 6
    assert set(built["metrics"]) == {"accuracy", "balanced_accuracy", "f1_macro", "auroc", "auroc_pooled"}
    assert built["config"]["widths"] == [1, 2]
    assert {"python", "jax", "flax"} <= set(built["versions"])
    assert built["fingerprint"] == "abc"


def test_results_on_the_training_people_say_so():
    split = make_results(reported="train")["split"]
    assert split["warnings"][-1] == results.TRAINED_ON and "was trained on" in results.TRAINED_ON
    assert results.TRAINED_ON not in make_results()["split"]["warnings"]


def test_undefined_numbers_become_null():
    built = make_results(
        per_subject={"s0": {"auroc": float("nan")}}, metrics={"auroc": Interval(None, None, 1)}
    )
    assert built["per_subject"]["s0"]["auroc"] is None
    assert "NaN" not in json.dumps(built)


def test_a_sample_without_its_warning_is_refused():
    with pytest.raises(ValueError, match=r"results\.warning is None, expected string"):
        make_results(warning=None)
    assert make_results(sample=False, warning="")["warning"] is None


def break_results(path, value):
    broken = copy.deepcopy(make_results())
    place = broken
    for key in path[:-1]:
        place = place[key]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return broken


@pytest.mark.parametrize(
    "path, value, sentence",
    [
        (["data"], {}, "results.data lacks 'name'"),
        (["metrics", "accuracy", "value"], "0.9", "expected number or null"),
        (["metrics", "accuracy", "value"], True, "expected number or null"),
        (["metrics", "accuracy", "ci95"], [0.1], "has 1 entries, expected 2 to 2"),
        (["metrics", "accuracy", "n"], 3, "unknown field 'n'"),
        (["metrics", "acc"], {"value": 1, "ci95": None, "subjects": 1}, "a field 'acc'"),
        (["metrics", "accuracy", "subjects"], -1, "expected at least 0"),
        (["metrics", "accuracy", "subjects"], 1.5, "expected integer"),
        (["split", "selection"], "train", "expected one of"),
        (["split", "parts"], [], "has 0 entries"),
        (["seconds"], KeyError, "lacks 'seconds'"),
        (["schema_version"], 1, "expected 2"),
        (["schema_version"], True, "expected 2"),
        (["protocol"], "", "is empty"),
        (["controls", "time", "description"], KeyError, "lacks 'description'"),
        (["variants", "unsmoothed", "metrics"], KeyError, "lacks 'metrics'"),
        (["unit"], "frame", "expected one of"),
    ],
)
def test_both_validators_refuse_the_same(path, value, sentence):
    broken = break_results(path, value)
    assert any(sentence in problem for problem in results_schema.problems(broken))
    assert not jsonschema.Draft202012Validator(results_schema.schema()).is_valid(broken)


JSON = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 3), st.floats(-1, 2), st.text(max_size=2),
    st.lists(st.integers(0, 1), max_size=3), st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
)  # fmt: skip
BUILT = make_results()


@settings(max_examples=100, deadline=None)
@given(data=st.data(), value=JSON)
def test_the_validators_agree_on_any_change(data, value):
    broken = copy.deepcopy(BUILT)
    place = broken
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], (dict, list)) or not place[key] or data.draw(st.booleans()):
            place[key] = value
            break
        place = place[key]
    agreed = jsonschema.Draft202012Validator(results_schema.schema()).is_valid(broken)
    assert (results_schema.problems(broken) == []) == agreed


def test_reading_says_what_is_wrong(tmp_path):
    path = tmp_path / "results.json"
    with pytest.raises(BadDataError, match="no results at"):
        results.read(path)
    path.write_text("{")
    with pytest.raises(BadDataError, match="is damaged"):
        results.read(path)
    path.write_text("{}")
    with pytest.raises(BadDataError, match="lacks 'schema_version'"):
        results.read(path)
    path.write_text('{"schema_version": 1, "metrics": {}}')
    with pytest.raises(BadDataError, match="results of version 1, expected 2.*Evaluate the run again"):
        results.read(path)


def test_one_file_one_protocol():
    items = [Item(f"s{i}", f"s{i}") for i in range(6)]
    mixed = [make_split(items, name).as_json() for name in ("loso", "subject_kfold")]
    with pytest.raises(ValueError, match="different protocols"):
        make_results(splits=mixed)


def same(first, second):
    assert tuple(first.subjects) == tuple(second.subjects)
    assert tuple(first.recordings) == tuple(second.recordings)
    np.testing.assert_array_equal(first.mask, second.mask)
    np.testing.assert_array_equal(first.labels[first.mask], second.labels[second.mask])
    np.testing.assert_array_equal(first.outputs, second.outputs.astype(first.outputs.dtype))
    if first.times_seconds is None:
        assert second.times_seconds is None
    else:
        np.testing.assert_array_equal(first.times_seconds, second.times_seconds)


def test_class_predictions_there_and_back(tmp_path):
    table = make_table(classes=3)
    results.save_predictions(tmp_path / "predictions" / "test.csv", table, ["no", "a bit, maybe", "yes"])
    loaded, names = results.load_predictions(tmp_path / "predictions" / "test.csv")
    same(table, loaded)
    assert names == ("no", "a bit, maybe", "yes")
    assert (loaded.labels[~loaded.mask] == -1).all()


@pytest.mark.parametrize("classes", [2, 3])
def test_sure_predictions_keep_their_order_in_the_file(tmp_path, classes):
    """Probabilities of logits above 17 are all 1.0 in float32, and above 37 in float64."""
    logits = np.zeros((40, classes), np.float32)
    logits[:, 1] = np.linspace(18, 60, 40)
    labels = (np.arange(40) >= 20).astype(np.int64)
    people, mask = [f"p{row}" for row in range(40)], np.ones(40, bool)
    table = Predictions.of_logits(logits=logits, subjects=people, recordings=people, labels=labels, mask=mask)
    results.save_predictions(tmp_path / "test.csv", table, [f"class {k}" for k in range(classes)])
    loaded, _ = results.load_predictions(tmp_path / "test.csv")
    same(table, loaded)
    np.testing.assert_array_equal(loaded.logits, logits)
    assert (np.argsort(loaded.scores[:, 1]) == np.arange(40)).all() and len(set(loaded.scores[:, 1])) == 40
    two = classification_metric(loaded, np.ones((1, 40)))
    np.testing.assert_array_equal(two["auroc"], 1.0 if classes == 2 else np.nan)
    assert (
        (tmp_path / "test.csv").read_text().startswith("subject,recording,time_seconds,label,logit_class 0")
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), outputs=st.integers(1, 3), dtype=st.sampled_from([np.float32, np.float64]))
def test_regression_predictions_there_and_back(tmp_path_factory, seed, outputs, dtype):
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(1, 9))
    mask = rng.random((rows, outputs)) < 0.7
    table = Predictions(
        [f"person {i}" for i in range(rows)],
        ["r"] * rows,
        np.where(mask, rng.normal(size=mask.shape), np.nan),
        (rng.normal(size=mask.shape) * 10.0 ** rng.integers(-9, 9)).astype(dtype),
        mask,
        rng.random(rows) * 3600,
    )
    path = tmp_path_factory.mktemp("predictions") / "test.csv"
    names = ["valence", "arousal", "pain"][:outputs]
    results.save_predictions(path, table, names)
    loaded, loaded_names = results.load_predictions(path)
    same(table, loaded)
    assert loaded_names == tuple(names)
    assert np.isnan(loaded.labels[~mask]).all()


@pytest.mark.parametrize(
    "text, sentence",
    [
        (None, "no predictions at"),
        ("", "has the columns"),
        ("subject,recording,label\n", "has the columns"),
        ("subject,recording,time_seconds,label,output_a,output_b\ns,r,,0,0.5,x\n", "is damaged"),
        ("subject,recording,time_seconds,label,output_a,output_b\ns,r,,0,0.5\n", "line 2 has 5 cells"),
    ],
)
def test_a_bad_table_is_a_sentence(tmp_path, text, sentence):
    path = tmp_path / "test.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadDataError, match=sentence):
        results.load_predictions(path)
    with pytest.raises(ValueError, match="3 names for 2 outputs"):
        results.save_predictions(path, make_table(), ["a", "b", "c"])
