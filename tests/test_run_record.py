"""A run knows its data: other options, another split or other recordings are refused, and nothing is lost."""

import json

import pytest
import tiny

from data_pipelines.errors import BadDataError, UsageError
from jmt_jax import run_record, study


@pytest.fixture(scope="module")
def trained(cache_dir, tmp_path_factory):
    """A finished run of one stream and its configuration."""
    options = {"model.streams": "physio", "model.fusion": "concat", "training.stages": "joint"}
    config = tiny.shrunk("biovid", cache_dir, **options)
    workdir = tmp_path_factory.mktemp("known") / "run"
    study.run(config, workdir)
    return config, workdir


def _files(workdir):
    return {path.name: path.read_bytes() for path in workdir.glob("*.json")}


def test_the_record_says_who_is_in_which_part(trained):
    record = json.loads((trained[1] / run_record.FILE).read_text())
    people = [set(record["parts"][part]["subjects"]) for part in run_record.PARTS]
    assert all(people) and not people[0] & people[1] and not people[0] & people[2]
    assert record["fingerprints"] and record["streams"] == ["physio"]


@pytest.mark.parametrize(
    "override",
    [
        {"protocol.seed": 7},
        {"data.task": "bl1_vs_any_pain"},
        {"model.fusion": "jmt"},
        {"seeds": (3,)},
        {"data.sample.subjects": 11},
    ],
    ids=lambda override: next(iter(override)),
)
def test_an_evaluation_with_other_options_is_refused(trained, override):
    config, workdir = trained
    before, other = _files(workdir), config.copy_and_resolve_references()
    with other.unlocked():
        other.update_from_flattened_dict(override)
    with pytest.raises(UsageError, match=next(iter(override))):
        study.run_evaluation(other, workdir)
    with pytest.raises(UsageError, match=next(iter(override))):
        study.run_watch(other, workdir)
    assert _files(workdir) == before


def _with_record(workdir, change):
    path = workdir / run_record.FILE
    kept = path.read_bytes()
    record = json.loads(kept)
    change(record)
    path.write_text(json.dumps(record))
    return path, kept


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record["fingerprints"].update(content="other"), "fingerprint"),
        (lambda record: record["parts"]["test"]["subjects"].append("someone"), "test part .*someone"),
        (lambda record: record.pop("parts"), "cannot be read"),
    ],
    ids=["made again", "grown", "damaged"],
)
def test_other_recordings_are_refused_by_evaluation_and_resume(trained, change, words):
    config, workdir = trained
    path, kept = _with_record(workdir, change)
    results = workdir / "results.json"
    written = results.read_bytes()
    try:
        with pytest.raises(BadDataError, match=words):
            study.run_evaluation(config, workdir)
        assert results.read_bytes() == written
        results.unlink()  # as if it had been stopped before its end
        with pytest.raises(BadDataError, match=words):
            study.run(config, workdir)
    finally:
        path.write_bytes(kept)
        results.write_bytes(written)


def test_a_run_without_a_record_is_a_sentence(trained):
    config, workdir = trained
    path = workdir / run_record.FILE
    kept = path.read_bytes()
    path.unlink()
    try:
        with pytest.raises(BadDataError, match="earlier version"):
            study.run_evaluation(config, workdir)
    finally:
        path.write_bytes(kept)


def test_eval_options_and_moved_data_are_taken(trained):
    config, workdir = trained
    other = config.copy_and_resolve_references()
    other.eval.split = "validation"
    study.run_evaluation(other, workdir)
    assert (workdir / "results_validation.json").exists()
