"""What results say beside the metrics: described fields, commits, rows behind metrics."""

from __future__ import annotations

import subprocess

import numpy as np

from jmt_jax import paper_facts, results_schema
from jmt_jax.statistics import Predictions


def fields(rule, place="results"):
    """(place, rule) of every property of a schema, wherever it is."""
    for name, one in rule.get("properties", {}).items():
        yield f"{place}.{name}", one
        yield from fields(one, f"{place}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(rule.get(key), dict):
            yield from fields(rule[key], f"{place}[{key}]")


def test_every_field_of_the_schema_is_described():
    schema = results_schema.schema()
    found = dict(fields(schema))
    for name, rule in schema["$defs"].items():
        found[f"$defs.{name}"] = rule
        found.update(fields(rule, f"$defs.{name}"))
    bare = []
    for place, rule in found.items():
        target = schema["$defs"][rule["$ref"].rsplit("/", 1)[1]] if "$ref" in rule else {}
        if len({**target, **rule}.get("description", "")) < 5:
            bare.append(place)
    assert not bare


def test_the_commit_of_a_checkout_and_whether_it_was_changed(tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    assert paper_facts.software(tmp_path / "installed")["commit"] is None
    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "first")
    paper_facts.software.cache_clear()
    clean = paper_facts.software(tmp_path)
    assert len(clean["commit"]) == 40 and clean["modified"] is False and clean["version"]
    (tmp_path / "file").write_text("2")
    paper_facts.software.cache_clear()
    assert paper_facts.software(tmp_path) == {**clean, "modified": True}


def test_rows_behind_each_metric():
    mask = np.array([[True, False], [True, True], [False, False]])
    values = np.where(mask, 0.5, np.nan)
    table = Predictions(["a"] * 3, ["r"] * 3, values, np.zeros((3, 2)), mask)
    names = ("ccc_valence", "ccc_arousal", "ccc_mean")
    found = paper_facts.rows_behind(names, ("valence", "arousal"), [table])
    assert found == {"ccc_valence": 2, "ccc_arousal": 1, "ccc_mean": 2}
    classes = Predictions(["a"] * 3, ["r"] * 3, np.array([0, 1, -1]), np.zeros((3, 2)), np.arange(3) < 2)
    assert paper_facts.rows_behind(["auroc"], ("rest", "stress"), [classes, classes]) == {"auroc": 2}


def test_devices_and_commits_of_several_runs_are_listed_once():
    one = {
        "parameters": {"all": 3},
        "devices": [{"kind": "a"}],
        "software": [{"commit": "1"}],
        "majority": None,
    }
    other = {**one, "devices": [{"kind": "b"}]}
    found = paper_facts.of_file([one, other, one])
    assert found["devices"] == [{"kind": "a"}, {"kind": "b"}] and found["software"] == [{"commit": "1"}]
    assert paper_facts.of_part(one) == {"majority": None}
