"""Writes torch's two formats without torch, also such files as torch would never write."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np

STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
}


class Raw(bytes):
    """Pickle operations that stand for themselves."""


def plain(value) -> bytes:
    """A value of Python as pickle operations."""
    return pickle.dumps(value, 2)[2:-1]


def call(name: str, *arguments) -> Raw:
    """`module.name(*arguments)`, as REDUCE writes it."""
    module, _, function = name.rpartition(".")
    inside = b"".join(part if isinstance(part, Raw) else plain(part) for part in arguments)
    return Raw(b"c" + f"{module}\n{function}\n".encode() + b"(" + inside + b"tR")


def storage(key: str, count, kind: str = "FloatStorage", view: bytes = b"") -> Raw:
    return Raw(
        b"("
        + plain("storage")
        + b"ctorch\n"
        + kind.encode()
        + b"\n"
        + plain(key)
        + plain("cpu")
        + plain(count)
        + view
        + b"tQ"
    )


def tensor(of: Raw, offset, shape, strides) -> Raw:
    hooks = call("collections.OrderedDict")
    return call("torch._utils._rebuild_tensor_v2", of, offset, shape, strides, False, hooks)


class Writer:
    """Turns a tree into pickle operations and notes the storages of its arrays."""

    def __init__(self) -> None:
        self.storages: dict[str, np.ndarray] = {}

    def operations(self, value) -> bytes:
        if isinstance(value, Raw):
            return value
        if isinstance(value, np.ndarray):
            key = str(len(self.storages))
            self.storages[key] = value = np.ascontiguousarray(value).reshape(value.shape)
            strides = tuple(step // value.itemsize for step in value.strides)
            return tensor(storage(key, value.size, STORAGES[value.dtype.name]), 0, value.shape, strides)
        if isinstance(value, dict):
            items = b"".join(plain(key) + self.operations(part) for key, part in value.items())
            return b"}(" + items + b"u"
        if isinstance(value, list):
            return b"](" + b"".join(map(self.operations, value)) + b"e"
        return plain(value)


def zip_of(
    path: Path, index: bytes, storages: dict[str, bytes], order: bytes = b"little", folder: str = "archive"
) -> Path:
    """torch's zip format around a pickle."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.writestr(f"{folder}/data.pkl", index)
        file.writestr(f"{folder}/byteorder", order)
        for key, content in storages.items():
            file.writestr(f"{folder}/data/{key}", content)
        file.writestr(f"{folder}/version", b"3\n")
    return path


def write_zip(path: Path, tree) -> Path:
    writer = Writer()
    index = b"\x80\x02" + writer.operations(tree) + b"."
    return zip_of(path, index, {key: array.tobytes() for key, array in writer.storages.items()})


def older_of(path: Path, index: bytes, keys: list, storages: bytes, little_endian: bool = True) -> Path:
    """torch's older format around a pickle."""
    system = {"protocol_version": 1001, "little_endian": little_endian, "type_sizes": {"long": 4}}
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system)]
    path.write_bytes(b"".join(head) + index + pickle.dumps(keys, 2) + storages)
    return path


def write_older(path: Path, tree) -> Path:
    writer = Writer()
    index = b"\x80\x02" + writer.operations(tree) + b"."
    storages = b"".join(struct.pack("<q", x.size) + x.tobytes() for x in writer.storages.values())
    return older_of(path, index, list(writer.storages), storages)


WRITERS = {"zip": write_zip, "older": write_older}
