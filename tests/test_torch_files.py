"""Files of weights that torch or the tests wrote are read as they are."""

from __future__ import annotations

import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from torch_files_case import FILES, FLOATS, SHAPES, expected_state
from torch_writer import WRITERS, Raw, call, older_of, plain, storage, tensor, zip_of

from data_pipelines.errors import BadDataError
from jmt_jax import torch_files


# --- files that torch wrote ---
@pytest.mark.parametrize("name", ["state_dict_zip.pt", "state_dict_older.pth", "state_dict_protocol4.t7"])
def test_state_dicts_of_torch(name):
    state = torch_files.read(FILES / name)
    assert list(state) == list(SHAPES)
    for key, expected in expected_state().items():
        assert state[key].dtype == (np.int64 if key.endswith("tracked") else np.float32)
        np.testing.assert_array_equal(state[key], expected)


@pytest.mark.parametrize("name", ["checkpoint_zip.pt", "checkpoint_older.pth"])
def test_checkpoints_of_torch(name):
    tree = torch_files.read(FILES / name)
    plain_values = {key: tree[key] for key in ("epoch", "best", "name", "done", "nothing", "shape")}
    assert plain_values == {
        "epoch": 3, "best": 0.5, "name": "net", "done": True, "nothing": None, "shape": (1, 2)
    }  # fmt: skip
    for key, expected in expected_state().items():
        np.testing.assert_array_equal(tree["state_dict"][f"module.{key}"], expected)
    kinds = [np.float64, np.float16, ml_dtypes.bfloat16, np.int64, np.int32, np.int16, np.int8, np.uint8]
    kinds += [np.uint8, np.complex64]
    assert [array.dtype for array in tree["kinds"]] == [np.dtype(kind) for kind in kinds]
    for array in tree["kinds"][:8]:
        np.testing.assert_array_equal(array.astype(int), np.arange(6))
    np.testing.assert_array_equal(tree["kinds"][8], [0, 1, 1, 1, 1, 1])
    base = np.arange(24)
    views = tree["views"]
    np.testing.assert_array_equal(views["transposed"], base.reshape(4, 6).T)
    np.testing.assert_array_equal(views["part"], [5, 7, 9])
    np.testing.assert_array_equal(views["parameter"], [0, 1])
    assert views["scalar"] == 7 and views["scalar"].shape == () and views["empty"].shape == (0, 3)


def test_names_of_tensors():
    flat = torch_files.flatten(torch_files.read(FILES / "checkpoint_zip.pt"))
    assert "state_dict.module.conv.weight" in flat and "kinds.9" in flat and "views.scalar" in flat
    assert "epoch" not in flat
    with pytest.raises(BadDataError, match="two tensors of the file are called a.b"):
        torch_files.flatten({"a.b": np.zeros(1), "a": {"b": np.zeros(1)}})
    assert list(torch_files.flatten(np.zeros(1))) == [""]


# --- files that the tests write ---
@pytest.mark.parametrize("format_name", WRITERS)
def test_written_files(tmp_path, format_name):
    tree = {
        "weights": [np.arange(6, dtype=dtype).reshape(2, 3) for dtype in ("f8", "f4", "f2", "i8")],
        "epoch": 12345678901234567890,
        "": {"none": None, 3: -1.5, "text": "Größe\n"},
    }
    read = torch_files.read(WRITERS[format_name](tmp_path / "x.bin", tree))
    for ours, theirs in zip(read["weights"], tree["weights"], strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    del read["weights"], tree["weights"]
    assert read == tree


def test_shared_storages_are_shared(tmp_path):
    tied = storage("0", 4)
    index = (
        b"\x80\x02}(" + plain("a") + tensor(tied, 0, (4,), (1,)) + plain("b") + tensor(tied, 2, (2,), (1,))
    )
    tree = torch_files.read(zip_of(tmp_path / "x.pt", index + b"u.", {"0": FLOATS}))
    assert np.shares_memory(tree["a"], tree["b"])
    np.testing.assert_array_equal(tree["b"], [2, 3])


def test_views_of_the_oldest_files(tmp_path):
    view = plain("v") + plain(1) + plain(3)
    index = b"\x80\x02" + tensor(storage("7", 4, view=Raw(b"(" + view + b"t")), 1, (2,), (1,)) + b"."
    path = older_of(tmp_path / "x.t7", index, ["7"], struct.pack("<q", 4) + FLOATS)
    np.testing.assert_array_equal(torch_files.read(path), [2, 3])


def test_ordered_dict_of_pairs(tmp_path):
    pairs = Raw(b"](" + b"](" + plain("a") + plain(1) + b"ee")
    index = b"\x80\x02" + call("collections.OrderedDict", pairs) + b"."
    assert torch_files.read(zip_of(tmp_path / "x.pt", index, {})) == {"a": 1}


def test_parameters_are_tensors(tmp_path):
    hooks = call("collections.OrderedDict")
    parameter = call("torch._utils._rebuild_parameter", tensor(storage("0", 4), 0, (4,), (1,)), True, hooks)
    path = zip_of(tmp_path / "x.pt", b"\x80\x02" + parameter + b".", {"0": FLOATS})
    np.testing.assert_array_equal(torch_files.read(path), [0, 1, 2, 3])


def test_safetensors(tmp_path):
    tensors = {
        "a.b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "c": np.float16([1, 2]),
        "d": np.asarray([1, 2], ml_dtypes.bfloat16),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    read = torch_files.read(tmp_path / "x.safetensors")
    assert set(read) == set(tensors)
    for name, array in tensors.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)
