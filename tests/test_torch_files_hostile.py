"""Files of weights that nobody should trust: nothing is executed, and what lies is refused."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from torch_files_case import FILES, FLOATS
from torch_writer import Raw, call, older_of, plain, storage, tensor, write_zip, zip_of

from data_pipelines.errors import BadDataError, UsageError
from jmt_jax import torch_files


# --- files that nobody should trust ---
def nested(opening: bytes, inside: bytes, closing: bytes, depth: int) -> bytes:
    return opening * depth + inside + closing * depth


def doubling(depth: int) -> bytes:
    """Tuples of twice the tuple before: 2 ** depth values out of a few bytes."""
    return plain(1) + b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(depth))


NUMBER = plain(1)
REFUSED = {
    # name: (pickle operations, what the message says)
    "eval": (call("builtins.eval", "1/0"), "builtins.eval, which is not a tensor.*nothing .* executed"),
    "system": (call("posix.system", "exit 1"), "posix.system"),
    "stack global": (b"\x8c\x02os\x8c\x06system\x93" + b"(" + plain("exit 1") + b"tR", "os.system"),
    "whole model": (b"ctorch.nn.modules.linear\nLinear\n)\x81}b", "torch.nn.modules.linear.Linear"),
    "numpy": (pickle.dumps(np.arange(3), 2)[2:-1], "numpy.*_reconstruct"),
    "name over two lines": (b"\x8c\x04o\n\ts\x8c\x06system\x93", r"o\?\?s.system"),
    "long name": (plain("m" * 5000) + plain("n") + b"\x93", "mmm\\.\\.\\., which"),
    "instance": (b"(" + plain("exit 1") + b"ios\nsystem\n", "INST"),
    "object": (b"(ccollections\nOrderedDict\no", "OBJ"),
    "new object": (b"ccollections\nOrderedDict\n)\x81", "NEWOBJ"),
    "extension": (b"\x82\x01", "EXT1"),
    "set": (b"\x8f", "EMPTY_SET"),
    "bytes": (b"C\x01a", "SHORT_BINBYTES"),
    "text reference": (b"Pabc\n", "PERSID"),
    "buffer": (b"\x97", "NEXT_BUFFER"),
    "attributes": (b"]}b", "attributes"),
    "call of a value": (b"](" + b"tR", "call of something that has no name"),
    "call of a storage type": (call("torch.FloatStorage", 5), "call of torch.FloatStorage"),
    "bare type": (b"ctorch\nFloatStorage\n", "bare torch.FloatStorage"),
    "bare storage": (storage("0", 4), "bare storage"),
    "reference to anything": (b"(" + plain("module") + NUMBER * 4 + b"tQ", "reference"),
    "storage of a wrong type": (
        b"(" + plain("storage") + b"ccollections\nOrderedDict\n" + plain("0") + plain("cpu") + NUMBER + b"tQ",
        "storage of type collections.OrderedDict",
    ),
    "list of a dict": (b"}" + NUMBER + b"a", "list operation"),
    "dict of a list": (b"]" + NUMBER + NUMBER + b"s", "dict operation"),
    "odd dict": (b"}(" + NUMBER + b"u", "damaged"),
    "tuple as a key": (b"}" + doubling(60) + NUMBER + b"s", "a tuple as a key"),
    "large key": (b"}" + plain(3 * (2**61 - 1)) + NUMBER + b"s", "a key as long"),
    "long key": (b"}" + plain("k" * 501) + NUMBER + b"s", "a key as long"),
    "deep": (nested(b"](", b"", b"e", 20_000), "32 deep"),
    "deep tuples": (b")" + b"\x85" * 100_000, "32 deep"),
    "contains itself": (b"]q\x00h\x00a", "32 deep"),
    "grows": (doubling(60), "32 deep|100,000 values"),
    "grows slowly": (b"](" + NUMBER * 999 + b"eq\x00" + b"](" + b"h\x00" * 999 + b"e", "100,000 values"),
    "many operations": (b"N0" * 300_000 + b"N", "400,000 pickle operations"),
    "many pairs": (
        b"](" + b"](NNe" * 1000 + b"eq\x000" + b"ccollections\nOrderedDict\n(h\x00tR0" * 1000 + b"N",
        "400,000 keys",
    ),
    "memo before use": (b"h\x05", "damaged"),
    "far memo": (b"N" + b"p" + str(1 << 40).encode() + b"\n", "as the number of a value"),
    "nothing": (b"", "damaged"),
    "marks only": (b"(" * 1000, "damaged"),
    "future protocol": (b"\x80\x63N", "damaged"),
    "endless text": (b"\x8d" + struct.pack("<Q", 1 << 60) + b"abc", "damaged"),
    "endless number": (b"\x8b" + struct.pack("<i", 2**31 - 1) + b"1", "damaged"),
    "endless bytes": (b"\x96" + struct.pack("<Q", 1 << 62), "damaged"),
    "long decimal": (b"I" + b"9" * 5000 + b"\n", "damaged"),
    "4 GB tensor": (tensor(storage("0", 4), 0, (1 << 30,), (1,)), r"\(1073741824,\).*does not fit"),
    "4 GB storage": (tensor(storage("0", 1 << 30), 0, (1 << 30,), (1,)), "4,294,967,296 bytes|claims 1,073"),
    "repeated value": (tensor(storage("0", 4), 0, (1 << 20, 1 << 20), (0, 0)), "does not fit"),
    "past the storage": (tensor(storage("0", 4), 3, (2,), (1,)), "does not fit"),
    "far stride": (tensor(storage("0", 4), 0, (2,), (1 << 40,)), "does not fit"),
    "negative stride": (tensor(storage("0", 4), 3, (4,), (-1,)), "impossible shape"),
    "negative offset": (tensor(storage("0", 4), -1, (4,), (1,)), "impossible shape"),
    "huge dimension": (tensor(storage("0", 4), 0, (1 << 5000,), (1,)), "impossible shape"),
    "huge and empty": (tensor(storage("0", 4), 0, (0, 1 << 40, 1 << 40), (1, 1, 1)), "does not fit"),
    "many dimensions": (tensor(storage("0", 4), 0, (1,) * 17, (1,) * 17), "without a shape"),
    "shape of text": (tensor(storage("0", 4), 0, "ab", (1,)), "without a shape"),
    "too few strides": (tensor(storage("0", 4), 0, (2, 2), (1,)), "does not fit"),
    "negative storage": (tensor(storage("0", -4), 0, (4,), (1,)), "storage with -4 values"),
    "huge storage": (tensor(storage("0", 1 << 9000), 0, (4,), (1,)), "a number of 9001 bits"),
    "other storage": (tensor(storage("1", 4), 0, (4,), (1,)), "data/1|lists a storage 0 that no tensor"),
    "view too long": (
        tensor(storage("0", 4, view=Raw(b"(" + plain("v") + plain(2) + plain(3) + b"t")), 0, (1,), (1,)),
        "view of 3 values in a storage of 4",
    ),
    "tensor of a number": (call("torch._utils._rebuild_tensor_v2", 1, 0, (1,), (1,)), "makes no tensor"),
    "parameter of a number": (call("torch._utils._rebuild_parameter", 1, True), "makes no tensor"),
}  # fmt: skip


@pytest.mark.parametrize("format_name", ["zip", "older"])
@pytest.mark.parametrize("name", REFUSED)
def test_anything_else_is_refused_by_name(tmp_path, name, format_name):
    operations, message = REFUSED[name]
    index = b"\x80\x04" + operations + b"."
    path = tmp_path / "weights.pt"
    if format_name == "zip":
        zip_of(path, index, {"0": FLOATS})
    else:
        older_of(path, index, ["0"], struct.pack("<q", 4) + FLOATS)
    with pytest.raises(BadDataError, match=message) as caught:
        torch_files.read(path)
    assert (
        "weights.pt" in str(caught.value) and len(str(caught.value)) < 500 and str(caught.value).isprintable()
    )


def test_nothing_is_executed(tmp_path):
    witness = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return Path.touch, (witness,)

    for protocol in range(6):
        for content in (Evil(), {"a": [Evil()]}):
            path = tmp_path / "weights.pth"
            index = pickle.dumps(content, protocol)
            zip_of(path, index, {})
            with pytest.raises(BadDataError):
                torch_files.read(path)
            older_of(path, index, [], b"")
            with pytest.raises(BadDataError):
                torch_files.read(path)
            path.write_bytes(index)
            with pytest.raises(BadDataError):
                torch_files.read(path)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello, this is no file of weights", "begins with b'hell'"),
        (struct.pack("<3i", 4, 1, 3) + b"V 1" * 9, "Lua torch"),
        (pickle.dumps({"a": 1}), "not one that torch.save wrote"),
        (b"\x80", "cut off or damaged"),
        (b"PK\x03\x04", "no directory"),
        (b"PK\x05\x06" + bytes(18), "begins with"),
    ],
)
def test_other_files(tmp_path, content, message):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(BadDataError, match=message):
        torch_files.read(tmp_path / "x.pt")


def test_no_file(tmp_path):
    with pytest.raises(UsageError, match="there is no file"):
        torch_files.read(tmp_path / "x.pt")
    with pytest.raises(UsageError, match="there is no file"):
        torch_files.read(tmp_path)


@pytest.mark.parametrize("name", ["checkpoint_zip.pt", "checkpoint_older.pth", "state_dict_protocol4.t7"])
def test_files_that_end_too_early(tmp_path, name):
    content = (FILES / name).read_bytes()
    for length in [*range(0, 40), *range(40, len(content), 61), len(content) - 1]:
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(BadDataError):
            torch_files.read(tmp_path / name)


def test_other_byte_order(tmp_path):
    index = b"\x80\x02" + plain(1) + b"."
    for path in (
        zip_of(tmp_path / "x.pt", index, {}, order=b"big"),
        older_of(tmp_path / "x.pth", index, [], b"", little_endian=False),
    ):
        with pytest.raises(BadDataError, match="other byte order"):
            torch_files.read(path)


# --- archives ---
def test_a_flipped_bit_is_noticed(tmp_path):
    path = write_zip(tmp_path / "x.pt", {"a": np.full(100, 7, np.float32)})
    content = bytearray(path.read_bytes())
    content[content.index(np.full(100, 7, np.float32).tobytes()) + 50] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadDataError, match="archive/data/0 does not fit its checksum"):
        torch_files.read(path)


def test_compressed_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\x80\x02N.")
        file.writestr("archive/data/0", bytes(1 << 20))
    with pytest.raises(BadDataError, match="compressed or encrypted"):
        torch_files.read(tmp_path / "bomb.pt")


def test_archives_without_one_index(tmp_path):
    for names in ([], ["a/data.pkl", "b/data.pkl"]):
        with zipfile.ZipFile(tmp_path / "x.pt", "w") as file:
            for name in [*names, "readme.txt"]:
                file.writestr(name, b"\x80\x02N.")
        with pytest.raises(BadDataError, match=f"with {len(names)} records data.pkl"):
            torch_files.read(tmp_path / "x.pt")


def test_records_that_overlap(tmp_path):
    """Two entries of the directory that lead to the same bytes: the start of an archive that grows."""
    path = zip_of(tmp_path / "x.pt", b"\x80\x02N.", {"0": FLOATS, "1": FLOATS})
    content = bytearray(path.read_bytes())
    entries = [n for n in range(len(content)) if content[n : n + 4] == b"PK\x01\x02"]
    content[entries[2] + 42 : entries[2] + 46] = content[entries[3] + 42 : entries[3] + 46]
    path.write_bytes(content)
    with pytest.raises(BadDataError, match="records overlap"):
        torch_files.read(path)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (8, struct.pack("<2H", 65535, 65535), "damaged"),  # more entries than there are
        (16, struct.pack("<L", 1 << 30), "damaged"),  # a directory past the end
    ],
)
def test_directories_that_lie(tmp_path, place, value, message):
    path = zip_of(tmp_path / "x.pt", b"\x80\x02N.", {"0": FLOATS})
    content = bytearray(path.read_bytes())
    end = content.rindex(b"PK\x05\x06")
    content[end + place : end + place + len(value)] = value
    path.write_bytes(content)
    with pytest.raises(BadDataError, match=message):
        torch_files.read(path)


def test_too_many_records(tmp_path):
    path = zip_of(tmp_path / "x.pt", b"\x80\x02N.", {})
    content = path.read_bytes()
    end = content.rindex(b"PK\x05\x06")
    large = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1 << 40, 1 << 40, 100, 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    path.write_bytes(content[:end] + large + locator + content[end:])
    with pytest.raises(BadDataError, match="1,099,511,627,776 records"):
        torch_files.read(path)


# --- older format ---
@pytest.mark.parametrize(
    ("keys", "storages", "message"),
    [
        (["0"], struct.pack("<q", 1 << 40) + FLOATS, "claims 4 values in storage 0, but 1,099,511,627,776"),
        (["0"], struct.pack("<q", 4) + FLOATS[:-1], "16 bytes in storage 0, and 15 are there"),
        (["0"], b"", "cut off before storage 0"),
        ([], b"", "no values for storage 0"),
        ({"0": 1}, b"", "no values for storage 0"),
        (["0", "0"], struct.pack("<q", 4) + FLOATS, "lists a storage 0"),
        (["1"], struct.pack("<q", 4) + FLOATS, "lists a storage 1"),
        ([7], struct.pack("<q", 4) + FLOATS, "lists a storage 7"),
    ],
)
def test_older_storages_that_lie(tmp_path, keys, storages, message):
    index = b"\x80\x02" + tensor(storage("0", 4), 0, (4,), (1,)) + b"."
    with pytest.raises(BadDataError, match=message):
        torch_files.read(older_of(tmp_path / "x.pth", index, keys, storages))


def test_a_storage_of_two_kinds(tmp_path):
    both = tensor(storage("0", 4), 0, (4,), (1,)) + tensor(storage("0", 4, "DoubleStorage"), 0, (4,), (1,))
    path = older_of(tmp_path / "x.pth", b"\x80\x02](" + both + b"e.", ["0"], struct.pack("<q", 4) + FLOATS)
    with pytest.raises(BadDataError, match="storage 0 in two ways"):
        torch_files.read(path)


# --- safetensors ---
def safetensors_of(header, content: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 1 << 40) + b"{}",
        struct.pack("<Q", 200) + b"{}",
        safetensors_of(b"{"),
        safetensors_of({"a": {"dtype": "F32", "shape": [1 << 30], "data_offsets": [0, 1 << 32]}}, FLOATS),
        safetensors_of({"a": {"dtype": "F32", "shape": [1 << 30], "data_offsets": [0, 16]}}, FLOATS),
        safetensors_of({"a": {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 16]}}, FLOATS),
        safetensors_of({"a": {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}}, FLOATS),
        safetensors_of({"a": {"dtype": "F8_E4M3", "shape": [16], "data_offsets": [0, 16]}}, FLOATS)[:-1],
        safetensors_of({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, FLOATS[:-1]),
        safetensors_of(b"{" + b'"a":{' * 10_000),
        safetensors_of(
            {n: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for n in "ab"}, FLOATS
        ),
    ],
)  # fmt: skip
def test_safetensors_that_lie(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(BadDataError, match="x.safetensors"):
        torch_files.read(tmp_path / "x.safetensors")
