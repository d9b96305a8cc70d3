"""A run knows its data: other options, another split or other recordings are refused, and nothing is lost."""

import json
import pathlib
import re
import shutil

import pytest
import tiny
from etils import epath

from data_pipelines import splits
from data_pipelines.datasets import make_sample
from data_pipelines.errors import BadDataError, UsageError
from data_pipelines.prepare import make_reader, prepare
from jmt_jax import checkpoint_manifest, compare, run_record, study


def _prepared(config, out, **sample):
    """A prepared folder of the sample, which knows nothing of being one."""
    raw = make_sample("e4", {**config.data.sample.to_dict(), **sample}, out.parent)
    prepare(make_reader("e4", raw, **config.data.reader.to_dict()), out, workers=1)
    return out


@pytest.fixture(scope="module")
def trained(cache_dir, tmp_path_factory):
    """A finished run over a prepared folder, and its configuration."""
    options = {
        "model.streams": "skin_conductance",
        "model.fusion": "concat",
        "training.stages": "skin_conductance,fusion",
        "data.streams.skin_conductance.normalise": "train",
        "training.extract": True,
    }
    config = tiny.shrunk("stress", cache_dir, **options)
    folder = tmp_path_factory.mktemp("known")
    config.data.dir = str(_prepared(config, folder / "data"))
    study.run(config, folder / "run")
    return config, folder / "run"


@pytest.fixture(scope="module")
def others(trained):
    """The data as they are later: with one more person, and of the same people made again."""
    config, workdir = trained
    return {
        "grown": _prepared(config, workdir.parent / "grown", subjects=6),
        "made again": _prepared(config, workdir.parent / "again", seed=9),
    }


@pytest.fixture(params=["grown", "made again"])
def changed(request, trained, others):
    """The run's configuration and folder, with other data in the place of its own."""
    config, workdir = trained
    data = workdir.parent / "data"
    aside = data.rename(workdir.parent / "aside")
    shutil.copytree(others[request.param], data)
    before = _files(workdir)
    yield config, workdir
    shutil.rmtree(data)
    aside.rename(data)
    assert _files(workdir) == before


def _files(workdir):
    return {
        str(path): path.read_bytes()
        for path in sorted(workdir.rglob("*"))
        if path.is_file() and "watch" not in path.parts
    }


def _with(config, **options):
    other = config.copy_and_resolve_references()
    with other.unlocked():
        other.update_from_flattened_dict({name.replace("__", "."): value for name, value in options.items()})
    return other


def test_the_record_says_who_is_in_which_part(trained):
    record = json.loads((trained[1] / run_record.FILE).read_text())
    people = [set(record["parts"][part]["subjects"]) for part in splits.EVALUATED]
    assert all(people) and not people[0] & people[1] and not people[0] & people[2]
    assert record["fingerprints"] and record["streams"] == ["skin_conductance"]
    files = [record["files"][who] for who in set.union(*people)]
    assert all(files) and len(set().union(*files)) == sum(map(len, files))
    constants = record["normalisers"]["skin_conductance"]
    assert len(constants["mean"]) == len(constants["deviation"]) > 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("protocol.seed", 7),
        ("data.grid.step_seconds", 20.0),
        ("model.fusion", "late"),
        ("seeds", (3,)),
        ("data.sample.subjects", 11),
    ],
)
def test_an_evaluation_with_other_options_is_refused(trained, key, value):
    config, workdir = trained
    before = _files(workdir)
    for command in (study.run_evaluation, study.run_watch):
        with pytest.raises(UsageError, match=key):
            command(_with(config, **{key: value}), workdir)
    assert _files(workdir) == before


def test_an_evaluation_on_other_data_is_refused(changed):
    for command in (study.run_evaluation, study.run_watch):
        with pytest.raises(UsageError, match="knows other data.*(subjects|fingerprint)"):
            command(*changed)


def test_a_resume_and_an_extraction_on_other_data_are_refused(changed):
    config, workdir = changed
    with pytest.raises(UsageError, match="knows other data"):
        study.run_extraction(config, workdir, None)
    results = workdir / "results.json"
    written = results.read_bytes()
    results.unlink()  # as if it had been stopped before its end
    try:
        with pytest.raises(UsageError, match="knows other data"):
            study.run(config, workdir)
    finally:
        results.write_bytes(written)


def test_backbones_over_the_folder_as_it_was_are_refused(changed, tmp_path):
    config, workdir = changed
    config = _with(config, training__backbones_from=str(workdir))
    with pytest.raises(UsageError, match="of our (validation|test) part|other data"):
        study.run(config, tmp_path / "run")


def _change(workdir, change):
    path = workdir / run_record.FILE
    kept = path.read_bytes()
    record = json.loads(kept)
    change(record)
    path.write_text(json.dumps(record))
    return path, kept


def _same_person_elsewhere(record):
    record["fingerprints"]["inputs"] = "others"
    tested, taught = (record["parts"][part]["subjects"][0] for part in ("test", "train"))
    record["files"][taught] = record["files"][tested]


def _taught_on_tested(record):
    record["parts"]["train"]["subjects"] += record["parts"]["test"]["subjects"]


def _other_constants(record):
    record["normalisers"]["skin_conductance"]["deviation"][0] += 1


def test_other_constants_of_normalisation_are_refused(trained):
    config, workdir = trained
    path, kept = _change(workdir, _other_constants)
    try:
        with pytest.raises(UsageError, match="constants of its normalisation are others"):
            study.run_evaluation(config, workdir)
    finally:
        path.write_bytes(kept)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (_taught_on_tested, UsageError, "was trained on .* of our test part"),
        (_same_person_elsewhere, UsageError, "of our test part .the same files as"),
        (_other_constants, UsageError, "other constants"),
        (lambda record: record.pop("parts"), BadDataError, "cannot be read"),
    ],
    ids=["by name", "by content", "constants", "damaged"],
)
def test_backbones_of_people_that_are_tested_are_refused(trained, tmp_path, change, error, words):
    config, workdir = trained
    path, kept = _change(workdir, change)
    try:
        with pytest.raises(error, match=words):
            study.run(_with(config, training__backbones_from=str(workdir)), tmp_path / "run")
    finally:
        path.write_bytes(kept)


def test_backbones_of_the_same_data_are_taken_wherever_these_lie(trained, tmp_path):
    config, workdir = trained
    moved = shutil.copytree(config.data.dir, tmp_path / "data")
    config = _with(config, training__backbones_from=str(workdir), data__dir=str(moved))
    study.run(config, tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints" / "skin_conductance").iterdir())


def test_a_run_without_a_record_is_a_sentence(trained, tmp_path):
    config, workdir = trained
    path = workdir / run_record.FILE
    kept = path.read_bytes()
    path.unlink()
    try:
        with pytest.raises(BadDataError, match="earlier version"):
            study.run_evaluation(config, workdir)
        with pytest.raises(BadDataError, match="earlier version"):
            study.run(_with(config, training__backbones_from=str(workdir)), tmp_path / "run")
    finally:
        path.write_bytes(kept)


def test_a_damaged_record_is_brought_back_from_a_checkpoint(trained):
    _, workdir = trained
    path = workdir / run_record.FILE
    kept = path.read_bytes()
    try:
        path.write_bytes(kept[:-100])
        with pytest.raises(BadDataError, match="write the field 'record' of (.*) .JSON. into it") as caught:
            run_record.read(workdir)
        copy = re.search("'record' of (.*) .JSON", str(caught.value))[1]
        path.write_text(json.dumps(json.loads(pathlib.Path(copy).read_text())["record"]))
        assert run_record.read(workdir) == json.loads(kept)
    finally:
        path.write_bytes(kept)


def _renamed(config, out, who, name):
    """The run's own recordings, one person under another name."""
    raw = make_sample("e4", config.data.sample.to_dict(), out.parent)
    raw = shutil.copytree(raw, out.parent / f"{out.name}_raw")
    (raw / "Raw_data" / who).rename(raw / "Raw_data" / name)
    labels = raw / "Processed_data" / "synthetic_labels.csv"
    old, new = (f"\n{int(one[1:])}," for one in (who, name))
    labels.write_text(labels.read_text().replace(old, new))
    prepare(make_reader("e4", raw, **config.data.reader.to_dict()), out, workers=1)
    return out


def test_of_other_recordings_those_of_people_seen_are_left_out_and_counted(trained, tmp_path, caplog):
    caplog.set_level("INFO", "jmt_jax")
    config, workdir = trained
    people = {name: part["subjects"] for name, part in run_record.read(workdir)["parts"].items()}
    taught, tested = people["train"][0], people["test"]
    other = _renamed(config, workdir.parent / "elsewhere", taught, "S77")
    before = _files(workdir)
    config = _with(config, eval__data_dir=str(other), data__dir="gone")  # its own need not be there
    written = study.run_evaluation(config, workdir)
    found = written["data"]["other"]
    assert set(found["left_out"]) == {"S77", *people["train"], *people["validation"]} - {taught}
    assert f"content, {taught} of the train part" in found["left_out"]["S77"]
    assert found["left_out_subjects"] == len(found["left_out"]) and found["subjects"] == len(tested)
    assert set(written["per_subject"]) == set(tested)
    (folder,) = (workdir / "evaluations").glob("on_elsewhere_*_best")
    after = _files(workdir)
    assert {name: after[name] for name in before} == before
    # The constants of normalisation are the run's: the same people get the very same answers.
    own, again = ((place / "predictions" / "test.csv").read_bytes() for place in (workdir, folder))
    assert own == again
    assert written["controls"] == {} and "no simple models stand beside these figures" in caplog.text
    # Raw recordings are prepared in the cache; the name is of the folder that was given.
    raw = study.run_evaluation(_with(config, eval__data_dir=f"{other}_raw/"), workdir)
    assert raw["data"]["other"]["folder"] == "elsewhere_raw"
    assert len(list((workdir / "evaluations").glob("on_elsewhere-raw_*_best"))) == 1
    path, kept = _change(workdir, _taught_on_tested)
    try:
        with pytest.raises(UsageError, match="nobody is left to evaluate"):
            study.run_evaluation(config, workdir)
    finally:
        path.write_bytes(kept)


def test_an_evaluation_writes_nothing_over(trained, capsys):
    config, workdir = trained
    before = _files(workdir)
    first = study.run_evaluation(config, workdir)
    again = study.run_evaluation(_with(config, eval__num_resamples=20), workdir)
    moved = shutil.move(config.data.dir, workdir.parent / "moved")
    study.run_evaluation(_with(config, data__dir=str(moved), eval__split="validation"), workdir)
    shutil.move(moved, config.data.dir)
    after = _files(workdir)
    assert {name: after[name] for name in before} == before
    folder = workdir / "evaluations"
    for name, written in (("test_best", first), ("test_best_2", again)):
        assert json.loads((folder / name / "results.json").read_text()) == written
    part = json.loads((folder / "validation_best" / "results_validation.json").read_text())
    step = part["split"]["parts"][0]["checkpoint"]["step"]
    # The run's name leads to its evaluation of another part; what nobody evaluated is a command.
    assert compare.main([str(workdir), "--split=validation"]) == 0
    assert compare.main([str(workdir), "--split=train"]) == 3
    said = capsys.readouterr()
    assert "it has results.json, evaluations/" in said.err and "--config.eval.split=train" in said.err
    assert f"| {workdir.name} |" in said.out
    assert compare.main([str(workdir), str(folder / "test_best")]) == 0
    assert compare.main([str(folder / "validation_best")]) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if f"| fusion {step} |" in line]
    assert len(shown) == 3


def test_an_evaluation_that_fails_leaves_no_folder(trained, others, tmp_path):
    config, workdir = trained
    other = pathlib.Path(shutil.copytree(others["grown"], tmp_path / "damaged"))
    for path in (other / "chunks").glob("*/*/*.array_record*"):
        path.write_bytes(bytes(path.stat().st_size))
    before = set(workdir.rglob("*")) | {workdir / "evaluations"}
    with pytest.raises(BadDataError, match="damaged"):
        study.run_evaluation(_with(config, eval__data_dir=str(other)), workdir)
    assert not set(workdir.rglob("*")) - before


def test_a_checkpoint_that_was_moved_knows_its_data(trained, tmp_path):
    """A checkpoint of the same run with other people in training, put in the place of its own."""
    config, workdir = trained
    (first, *_) = (workdir / "checkpoints" / "fusion").glob("[0-9]*")
    progress = json.loads((first / "progress" / "metadata").read_text())
    assert progress["record"] == run_record.read(workdir)
    run = shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(run / "evaluations", ignore_errors=True)
    for path in run.glob("checkpoints/*/*/progress/metadata"):
        progress = json.loads(path.read_text())
        _taught_on_tested(progress["record"])
        path.write_text(json.dumps(progress))
        checkpoint_manifest.write(epath.Path(path.parent.parent))
    before = _files(run)
    with pytest.raises(UsageError, match="trained on other data than the run that it lies in"):
        study.run_evaluation(config, run)
    with pytest.raises(UsageError, match="checkpoint .* was trained on .* of our test part"):
        study.run(_with(config, training__backbones_from=str(run)), tmp_path / "other")
    (run / "results.json").unlink()
    with pytest.raises(UsageError, match="trained on other data than the run that it lies in"):
        study.run(config, run)
    assert not set(before) - set(_files(run)) - {str(run / "results.json")}


def test_results_of_another_split_are_not_compared(trained):
    config, workdir = trained
    path, kept = _change(workdir, _taught_on_tested)
    try:
        with pytest.raises(BadDataError, match="another split"):
            compare.load(workdir)
    finally:
        path.write_bytes(kept)
