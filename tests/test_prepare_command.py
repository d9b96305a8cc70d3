"""The preparation's command line, the options of readers on it, and its progress."""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import json
import pathlib
import re

import numpy as np
import pytest

from data_pipelines import prepare, progress, reader_options
from data_pipelines.errors import UsageError


@pytest.fixture
def fake_on_the_command_line(monkeypatch):
    monkeypatch.setattr(reader_options, "READERS", {"fake": "fake_reader:Fake"})


def test_command_line(raw, tmp_path, decoded, fake_on_the_command_line, capsys):
    command = ["--dataset=fake", f"--raw={raw}", f"--out={tmp_path / 'out'}"]
    assert prepare.main([*command, "--workers=1", "--scale=2"]) == 0
    card = json.loads((tmp_path / "out" / "data_card.json").read_text())
    assert card["fingerprints"]["settings"]["scale"] == 2.0
    assert "8 recordings of 4 subjects" in capsys.readouterr().err
    assert prepare.main(command) == 2
    assert "scale was 2.0" in capsys.readouterr().err
    assert prepare.main(["--dataset=fake", f"--raw={tmp_path / 'no'}", f"--out={tmp_path / 'x'}"]) == 3
    assert "has no people.txt" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--dataset=nothing"], ["--dataset=fake", "--out=x"]])
def test_command_line_says_what_is_missing(arguments, fake_on_the_command_line, capsys):
    with pytest.raises(SystemExit) as stopped:
        prepare.main(arguments)
    assert stopped.value.code == 2
    assert "see python -m data_pipelines.prepare --help" in capsys.readouterr().err


def test_help_lists_every_readers_options(capsys):
    with pytest.raises(SystemExit) as stopped:
        prepare.main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for option in (
        "--biosignals",
        "--channels",
        "--size",
        "--crop",
        "--classes",
        "--labels",
        "--beam_runner",
    ):
        assert option in text
    assert "75 interrupted" in " ".join(text.split())


def test_reader_options_are_read_by_their_types(tmp_path):
    parser = prepare.make_parser()
    given = parser.parse_args(
        ["--dataset=biovid", "--raw=x", "--out=y", "--size=64", "--classes=0,4", "--channels=gsr, ecg"]
    )
    assert reader_options.chosen(given) == {"size": 64, "classes": (0, 4), "channels": ("gsr", "ecg")}
    assert prepare.make_reader("biovid", tmp_path, **reader_options.chosen(given)).size == 64


def test_unknown_reader_or_option_names_the_nearest(tmp_path):
    with pytest.raises(UsageError, match="it is one of affwild2, biovid, e4"):
        prepare.make_reader("bivid", tmp_path)
    with pytest.raises(UsageError, match="did you mean biosignals"):
        prepare.make_reader("biovid", tmp_path, biosignal="raw")


def test_progress_writes_few_plain_lines_to_a_log(monkeypatch):
    clock = iter(np.arange(0, 1000, 1.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    log = io.StringIO()
    with progress.Progress(60, "decoding", "sources", done=10, file=log) as shown:
        for _ in range(50):
            shown.advance()
    lines = log.getvalue().splitlines()
    assert 3 <= len(lines) <= 7
    assert lines[0].startswith("decoding: 20/60 sources, 0.")
    assert lines[0].endswith(" left")
    assert lines[-1].startswith("decoding: 60/60 sources")
    assert "\r" not in log.getvalue()


def test_progress_is_a_bar_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    with progress.Progress(3, "decoding", "sources", file=terminal) as shown:
        shown.advance(3)
    assert "100%" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (18420, "5 h 07 min")]
)
def test_durations_are_readable(seconds, text):
    assert progress.format_seconds(seconds) == text


@pytest.mark.parametrize("shard", ["3/3", "1", "-1/2", "a/b"])
def test_what_is_no_shard_is_a_sentence(raw, tmp_path, fake_on_the_command_line, capsys, shard):
    command = ["--dataset=fake", f"--raw={raw}", f"--out={tmp_path / 'x'}", f"--shard={shard}"]
    assert prepare.main(command) == 2
    assert "part I of N" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["affwild2", "biovid", "stress"])
def test_runs_take_every_option_of_the_reader_as_the_command_does(tmp_path, name):
    data = importlib.import_module(f"configs.{name}").get_config().data
    reader = reader_options.reader_class(data.name)
    assert set(data.reader) == set(inspect.signature(reader).parameters) - {"root"}


def test_lists_are_written_alike_in_configurations_and_on_the_command_line(tmp_path):
    # ``--config.data.reader.streams_used=pulse,temperature`` is a tuple of one text.
    for streams in (("pulse, temperature",), "pulse,temperature", ["pulse", "temperature"]):
        assert reader_options.make_reader("e4", tmp_path, streams_used=streams).streams_used == (
            "pulse",
            "temperature",
        )
    own_choice = reader_options.make_reader("biovid", tmp_path, channels=(), classes=())
    assert own_choice.channels is None and own_choice.classes is None
    with pytest.raises(UsageError, match="streams_used is empty"):
        reader_options.make_reader("e4", tmp_path, streams_used=())


# Modules that run under one command alone, and the options that their messages may name.
_OF_THE_PREPARATION = {"prepare_flags.py": "", "reader_options.py": "dataset", "prepare.py": "shard"}
_OF_RUNS = "datasets stream_windows label_shuffle identity items tasks".split()


def test_no_message_names_an_option_of_another_command():
    root = pathlib.Path(prepare.__file__).parent
    named = []
    for path in sorted(root.rglob("*.py")):
        allowed = "config" if path.stem in _OF_RUNS else _OF_THE_PREPARATION.get(path.name, "help")
        tree = ast.parse(path.read_text())
        texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
                found = re.findall(r"--([a-z]\w*)", node.value)
                named += [f"{path.name}: --{option}" for option in found if not option.startswith(allowed)]
    assert not named
