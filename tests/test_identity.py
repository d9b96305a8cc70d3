"""Prepared folders tell which options they were made with, and whose files they were made from."""

import pytest

from data_pipelines import identity, inputs
from data_pipelines.errors import UsageError
from data_pipelines.raw_files import InputFile
from data_pipelines.recording import Recording
from data_pipelines.storage import StoredSource


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 64}, r"data\.reader\.size=64, there 48"),
        ({"crop": "fixed"}, r"data\.reader\.crop='fixed', there 'auto'"),
        ({"classes": (0, 4)}, r"data\.reader\.classes=\(0, 4\), there \[0, 1, 2, 3, 4\]"),
        ({"sise": 48}, "did you mean size"),
        ({"size": 48, "crop": "", "classes": None}, ""),
        ({"size": 48, "classes": (0, 1, 2, 3, 4), "video": True}, ""),
    ],
)
def test_options_that_differ_from_the_card_are_named(tmp_path, options, words):
    settings = {"size": 48, "crop": "auto", "classes": [0, 1, 2, 3, 4]}
    card = {"dataset": "biovid", "fingerprints": {"settings": settings}, "streams": {"physio": {}}}
    if words:
        with pytest.raises(UsageError, match=words):
            identity.check_reader(tmp_path, card, "biovid", options)
    else:
        identity.check_reader(tmp_path, card, "biovid", options)


def test_a_folder_with_more_streams_than_are_asked_for_is_taken(tmp_path):
    settings = {"streams_used": ["pulse", "temperature"], "labels": "stress.csv"}
    streams = {"pulse": {}, "temperature": {}}
    card = {"dataset": "e4", "fingerprints": {"settings": settings}, "streams": streams}
    identity.check_reader(tmp_path, card, "e4", {"streams_used": ("pulse",), "labels": "/there/stress.csv"})
    with pytest.raises(UsageError, match="skin_conductance"):
        identity.check_reader(tmp_path, card, "e4", {"streams_used": ("pulse", "skin_conductance")})
    with pytest.raises(UsageError, match="holds prepared e4 data"):
        identity.check_reader(tmp_path, card, "biovid", {})


def test_files_are_of_the_subject_whose_recordings_they_became(tmp_path):
    def stored(source, *names):
        files = [InputFile(name, len(sha), 0, sha * 32) for name, sha in names]
        return StoredSource("pulse", source, "f", tuple(files))

    def recording(name, subject):
        return Recording(name, subject, sources={"pulse": name}, annotation=None)

    inputs.write(
        tmp_path,
        [
            stored("one", ("one.csv", "ab"), ("all.csv", "00")),
            stored("two", ("two.csv", "cd"), ("all.csv", "00")),
            stored("three", ("three.csv", "ef"), ("empty.csv", "")),
        ],
    )
    people = [recording("one", "anna"), recording("two", "ben"), recording("three", "anna")]
    found = identity.files_of_subjects(tmp_path, people)
    assert found == {"anna": ["ab" * 8, "ef" * 8], "ben": ["cd" * 8]}  # what both share tells nobody apart
    path = tmp_path / inputs.INPUTS_FILE
    path.write_text(path.read_text().replace('"sources"', '"earlier"'))
    assert identity.files_of_subjects(tmp_path, people) is None
