"""Finding a setting: the list of all keys, one key for all stages, and what a wrong key meant."""

from __future__ import annotations

import pytest
import tiny
from absl import flags
from ml_collections import config_flags

from data_pipelines.errors import UsageError
from jmt_jax import config_comments, config_rules, main, settings


@pytest.mark.parametrize("name", ["biovid", "affwild2", "stress"])
def test_all_keys_are_listed_with_value_and_comment(name):
    path = tiny.CONFIGS / f"{name}.py"
    listed = settings.listing(str(path))
    for key, value in config_rules.leaves(tiny.load(name).to_dict()):
        assert f"  {key}={value!r}" in listed
    for line in (
        "  model.dtype='float32'",
        "  training.fusion.ema_decay=0.0  # above 0 (e.g. 0.999): averaged weights are evaluated and kept",
        "  training.all.OPTION=VALUE",
    ):
        assert line in listed
    # No comment of the file is lost, but for those about a variant.
    known = " ".join(config_comments.read(path.read_text()).values())
    assert known.count("a file of jmt_jax.convert that the network starts from") >= 2


def test_comments_belong_to_what_they_stand_beside():
    source = (
        "def _part(**options):\n    return {\n        'a': 1,  # of a\n        **options,\n    }\n"
        "def get_config():\n    # before\n    config.x = 1\n    config.y = {'m': 1, 'n': 2}  # of all\n"
        "    config.z = {\n        'p': _part(),\n        # of q\n        'q': 2,\n    }\n"
        "    config.w = _part()\n"
    )
    assert config_comments.read(source) == {
        "x": "before",
        "y": "of all",
        "z.p.a": "of a",
        "z.q": "of q",
        "w.a": "of a",
    }


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("epochs", "training.all.epochs"),
        ("learning_rate", "training.all.learning_rate"),
        ("lr", "training.all.learning_rate"),
        ("batch_size", "training.all.global_batch_size"),
        ("training.joint.learning_rte", "training.joint.learning_rate"),
        ("training.optimiser", "training.all.optimizer"),
        ("streams", "model.streams"),
        ("model.fusoin", "model.fusion"),
        ("fusion", "model.fusion"),
        ("task", "data.task"),
        ("folds", "protocol.folds"),
        ("data.directory", "data.dir"),
        ("split", "eval.split"),
    ],
)
def test_a_wrong_key_names_the_one_that_was_meant(wrong, meant):
    assert settings.nearest(wrong, tiny.load("biovid").to_dict()) == meant


def test_one_key_sets_all_stages_and_a_stages_own_wins():
    config = tiny.load("biovid")
    argv = ["main", "--config.training.visual.epochs=9", "--config.training.all.epochs=3", "--workdir=x"]
    spread = settings.spread(argv, config)
    stages = ("visual", "physio", "fusion", "joint")
    assert sorted(spread[1:-1]) == sorted(
        f"--config.training.{stage}.epochs={9 if stage == 'visual' else 3}" for stage in stages
    )
    with pytest.raises(UsageError, match=r"nearest that it has is 'training.all.epochs'"):
        settings.spread(["main", "--config.training.all.epoch=3"], config)


@pytest.mark.parametrize(
    ("words", "folds", "epochs"),
    [
        (["--config.protocol.folds=(0,)", "--config.protocol.folds=()"], (), 10),
        (["--config.protocol.folds=0", "--config.protocol.folds", "1,2"], (1, 2), 10),
        (["--config.protocol.folds=()", "-config.protocol.folds", "3"], (3,), 10),
        (["--config.training.fusion.epochs", "3", "--config.training.fusion.epochs=4"], None, 4),
        (["--config.training.all.epochs", "3", "--config.training.all.epochs=5"], None, 5),
    ],
)
def test_of_an_option_given_twice_the_last_one_counts(words, folds, epochs):
    config, values = tiny.load("stress"), flags.FlagValues()
    folds = tuple(config.protocol.folds) if folds is None else folds
    path = f"--config={tiny.CONFIGS / 'stress.py'}"
    argv = ["main", f"--config={tiny.CONFIGS / 'biovid.py'}", path, *words]
    config_flags.DEFINE_config_file(
        "config", flag_values=values, sys_argv=(spread := settings.spread(argv, config))
    )
    values(spread)
    assert tuple(values.config.protocol.folds) == folds
    assert values.config.training.fusion.epochs == epochs
    assert main._given(argv, "config") == path.removeprefix("--config=")


@pytest.mark.parametrize("text", ["def get_config(:", "import nothing_at_all", "x = 1", "\0"])
def test_a_file_that_is_no_configuration_is_a_sentence(tmp_path, text):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UsageError, match="is no configuration"):
        settings.load(str(path))


def test_the_command_lists_the_keys(capsys, monkeypatch):
    monkeypatch.setattr(main, "define_flags", lambda argv: argv)
    monkeypatch.setattr("sys.argv", ["main", f"--config={tiny.CONFIGS / 'stress.py'}", "--help"])
    assert main.main() == 0
    assert "  training.fusion.epochs=10" in capsys.readouterr().out
