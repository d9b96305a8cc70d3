"""Files appear whole or not at all."""

from __future__ import annotations

import errno

import pytest

from data_pipelines import endings
from jmt_jax import files


def test_a_file_is_replaced_whole_and_its_folder_made(tmp_path):
    path = tmp_path / "new" / "notes.txt"
    for text in ("first\n", "zweitens: ä\n"):
        files.write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert list(path.parent.iterdir()) == [path]


def test_what_breaks_off_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "notes.txt"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.appearing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_says_of_which_file(tmp_path):
    with pytest.raises(OSError) as caught, files.appearing(tmp_path / "curves.png"):
        raise OSError(errno.ENOSPC, "No space left on device")  # as from a write: without a name
    assert str(tmp_path / "curves.png") in endings.of(caught.value).sentence
