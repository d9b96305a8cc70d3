"""Tensors out of files that others wrote: torch's zip and older format, and safetensors.

Without torch, and without trusting the file: nothing of it is executed (`torch_pickle`), nothing is inflated
(`torch_zip`), and no array is made before the bytes for it are known to be in the file. Arrays look into the
mapped file, so that reading costs next to no memory; the tensors of a safetensors file are copied.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from data_pipelines.errors import BadDataError, UsageError
from jmt_jax import torch_zip
from jmt_jax.torch_pickle import MAX_BYTES, Global, Storage, Tensor, is_size, read_pickle, shown

MAX_DEPTH = 32
MAX_VALUES = 100_000
MAX_DIMENSIONS = 16
MAX_NAME_LENGTH = 1000
MAX_SAFETENSORS_HEADER_BYTES = 4 << 20

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_KINDS = "torch's .pt, .pth and .t7 (as torch.save writes them) and .safetensors"

Find = Callable[[Storage], int]
"""Storage -> where in the file its first byte lies; its claimed length is known to be there."""


def read(path: Path) -> Any:
    """What a file of tensors holds.

    Args:
      path: A file in torch's zip format, in its older format, or in safetensors; the content decides, not the
        name.

    Returns:
      Nested dicts, lists and tuples of arrays (not to be written to) and of None, bool, int, float and str.
      bfloat16 stays bfloat16 (ml_dtypes), half float16; torch's booleans come as uint8.

    Raises:
      UsageError: there is no such file.
      BadDataError: it is in none of these formats, cut off or damaged, holds anything but tensors and
        containers, or claims more than is there.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}; give one of {_KINDS}")
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise BadDataError(f"{path} is empty; expected one of {_KINDS}")
        buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if buffer[:4] == b"PK\x03\x04":
        return _read_zip(buffer, path.name)
    if buffer[8:9] == b"{":
        return _read_safetensors(buffer, path)
    if buffer[:1] == b"\x80":
        return _read_older(buffer, path.name)
    raise BadDataError(
        f"{path} begins with {buffer[:4]!r}, as no file of the formats that are read does: {_KINDS}. Files "
        "of Lua torch and of torch before 0.1.10 must be saved again with a newer torch first"
    )


def flatten(tree: Any) -> dict[str, np.ndarray]:
    """Every tensor by its name: keys and list indices joined with dots.

    What is no tensor (an epoch, a learning rate) is left out.

    Raises:
      BadDataError: two tensors get the same name, or a name is longer than any real one.
    """
    flat: dict[str, np.ndarray] = {}
    _flatten(tree, "", flat)
    return flat


def _flatten(tree: Any, name: str, flat: dict[str, np.ndarray]) -> None:
    if isinstance(tree, np.ndarray):
        if name in flat:
            raise BadDataError(f"two tensors of the file are called {shown(name)}; expected each name once")
        flat[name] = tree
    elif isinstance(tree, dict | list | tuple):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, value in items:
            joined = f"{name}.{key}" if name else str(key)
            if len(joined) > MAX_NAME_LENGTH:
                raise BadDataError(
                    f"a tensor's name has more than {MAX_NAME_LENGTH} characters ({shown(joined)}); the file "
                    "is damaged or no file of weights"
                )
            _flatten(value, joined, flat)


# --- the formats ---


def _read_zip(buffer: mmap.mmap, file_name: str) -> Any:
    """torch >= 1.6: a zip of a pickle and one record a storage."""
    records = torch_zip.read_records(buffer, file_name)
    folders = [name.removesuffix("data.pkl") for name in records if f"/{name}".endswith("/data.pkl")]
    if len(folders) != 1:
        raise BadDataError(
            f"{file_name} is a zip file with {len(folders)} records data.pkl; torch's own have exactly one. "
            f"Give one of {_KINDS}"
        )
    (folder,) = folders
    order = records.get(f"{folder}byteorder")
    if order and buffer[order.start : order.start + min(order.size, 16)] != b"little":
        raise _other_byte_order(file_name)
    index = records[f"{folder}data.pkl"]
    _check_pickle_size(index.size, file_name)
    torch_zip.check(buffer, index, "data.pkl", file_name)
    tree, _ = read_pickle(buffer[index.start : index.start + index.size], file_name)
    checked = set()

    def find(storage: Storage) -> int:
        name = f"{folder}data/{storage.key}"
        if name not in records:
            raise BadDataError(f"{file_name} has no record {shown(name)}, which a tensor needs; get it again")
        record = records[name]
        _check_length(storage, record.size, file_name)
        if name not in checked:
            torch_zip.check(buffer, record, shown(name), file_name)
            checked.add(name)
        return record.start

    return _Resolver(buffer, find, file_name).resolve(tree)


def _read_older(buffer: mmap.mmap, file_name: str) -> Any:
    """torch < 1.6: magic number, version, system, content, storage keys (five pickles), then the storages."""
    position, parts = 0, []
    for number in range(5):
        part, length = read_pickle(buffer[position : position + MAX_BYTES], file_name)
        position += length
        parts.append(part)
        if number == 0 and part != _MAGIC:
            raise BadDataError(
                f"{file_name} is a pickle, but not one that torch.save wrote; give one of {_KINDS}"
            )
    _, protocol, system, tree, keys = parts
    if protocol != _PROTOCOL or not isinstance(system, dict):
        raise BadDataError(f"{file_name} is of an unknown version of torch's older format; save it again")
    if system.get("little_endian") is not True:
        raise _other_byte_order(file_name)
    resolver = _Resolver(buffer, lambda storage: starts[storage.key], file_name)
    starts = _older_storages(buffer, position, keys, resolver.storages(tree), file_name)
    return resolver.resolve(tree)


def _older_storages(
    buffer: mmap.mmap, position: int, keys: Any, storages: dict[str, Storage], file_name: str
) -> dict[str, int]:
    """Where the values of each storage begin; each stands behind its number of values, 8 bytes."""
    starts: dict[str, int] = {}
    for key in keys if isinstance(keys, list) else []:
        if not isinstance(key, str) or key in starts or key not in storages:
            raise BadDataError(
                f"{file_name} lists a storage {shown(key)} that no tensor or more than one entry has"
            )
        try:
            (count,) = struct.unpack_from("<q", buffer, position)
        except struct.error as error:
            raise BadDataError(f"{file_name} is cut off before storage {shown(key)}; get it again") from error
        if count != storages[key].count:
            raise BadDataError(
                f"{file_name} claims {storages[key].count:,} values in storage {shown(key)}, but {count:,} "
                "where it stands; the file is damaged, get it again"
            )
        starts[key] = position + 8
        _check_length(storages[key], len(buffer) - starts[key], file_name)
        position = starts[key] + count * storages[key].dtype.itemsize
    missing = sorted(set(storages) - set(starts))
    if missing:
        raise BadDataError(f"{file_name} has no values for storage {shown(missing[0])}; get the file again")
    return starts


def _read_safetensors(buffer: mmap.mmap, path: Path) -> dict[str, np.ndarray]:
    (header_bytes,) = struct.unpack_from("<Q", buffer)
    if header_bytes > min(MAX_SAFETENSORS_HEADER_BYTES, len(buffer) - 8):
        raise BadDataError(
            f"{path.name} claims a list of tensors of {header_bytes:,} bytes in a file of {len(buffer):,}; "
            f"expected at most {MAX_SAFETENSORS_HEADER_BYTES:,}. It is cut off or damaged, get it again"
        )
    try:
        with safetensors.safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadDataError(
            f"{path.name} is no safetensors file that can be read ({shown(str(error))}); get it again"
        ) from error
    return tensors


# --- storages and tensors ---


def _check_length(storage: Storage, available_bytes: int, file_name: str) -> None:
    claimed_bytes = storage.count * storage.dtype.itemsize
    if claimed_bytes > available_bytes:
        raise BadDataError(
            f"{file_name} claims {claimed_bytes:,} bytes in storage {shown(storage.key)}, and "
            f"{available_bytes:,} are there; the file is cut off or damaged, get it again"
        )


def _check_pickle_size(size: int, file_name: str) -> None:
    if size > MAX_BYTES:
        raise BadDataError(
            f"{file_name} has a list of tensors of {size:,} bytes; at most {MAX_BYTES:,} are read. Save the "
            "state_dict alone"
        )


def _other_byte_order(file_name: str) -> BadDataError:
    return BadDataError(
        f"{file_name} was written on a machine with the other byte order (big-endian); save it again on one "
        "with little-endian numbers"
    )


class _Resolver:
    """Puts arrays in the place of `Tensor`s; goes a limited way into a limited number of values."""

    def __init__(self, buffer: mmap.mmap, find: Find, file_name: str) -> None:
        self._buffer, self._find, self._file_name, self._count = buffer, find, file_name, 0
        self._arrays: dict[int, np.ndarray] = {}

    def storages(self, tree: Any) -> dict[str, Storage]:
        """Key -> storage of all tensors."""
        found: dict[str, Storage] = {}

        def note(tensor: Tensor) -> None:
            storage = tensor.storage
            known = found.setdefault(storage.key, storage)
            if (known.dtype, known.count) != (storage.dtype, storage.count):
                raise BadDataError(
                    f"{self._file_name} describes storage {shown(storage.key)} in two ways; it is damaged"
                )

        self._walk(tree, 0, note)
        self._count = 0
        return found

    def resolve(self, tree: Any) -> Any:
        """The same tree with arrays."""
        return self._walk(tree, 0, self._array)

    def _walk(self, value: Any, depth: int, of_tensor: Callable[[Tensor], Any]) -> Any:
        self._count += 1
        if depth > MAX_DEPTH or self._count > MAX_VALUES:
            raise BadDataError(
                f"{self._file_name} holds containers more than {MAX_DEPTH} deep or more than {MAX_VALUES:,} "
                "values; that is no file of weights. Save the state_dict alone"
            )
        if isinstance(value, Tensor):
            return of_tensor(value)
        if isinstance(value, Storage | Global):
            raise BadDataError(
                f"{self._file_name} holds a bare {'storage' if isinstance(value, Storage) else shown(value)} "
                "where a tensor was expected; nothing of it was executed. Save the state_dict alone"
            )
        if isinstance(value, dict):
            return {key: self._walk(part, depth + 1, of_tensor) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._walk(part, depth + 1, of_tensor) for part in value)
        return value

    def _array(self, tensor: Tensor) -> np.ndarray:
        """One array a `Tensor`, however often it is named."""
        if id(tensor) not in self._arrays:
            self._arrays[id(tensor)] = self._new_array(tensor)
        return self._arrays[id(tensor)]

    def _new_array(self, tensor: Tensor) -> np.ndarray:
        shape, strides, storage = tensor.shape, tensor.strides, tensor.storage
        for numbers in (shape, strides, (tensor.offset,)):
            if not isinstance(numbers, tuple | list) or len(numbers) > MAX_DIMENSIONS:
                raise BadDataError(f"{self._file_name} holds a tensor without a shape; it is damaged")
            if not all(map(is_size, numbers)):
                raise BadDataError(f"{self._file_name} holds a tensor of impossible shape; it is damaged")
        size = math.prod(shape)
        last = tensor.offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=False))
        # Torch can repeat values (stride 0), but no weight is larger than its storage.
        too_large = size > storage.length or (size > 0 and last >= storage.length)
        impossible = len(shape) != len(strides) or math.prod(filter(None, shape)) >= 1 << 48
        if impossible or too_large:
            raise BadDataError(
                f"{self._file_name} claims a tensor of shape {tuple(shape)} ({size:,} values) in a "
                f"storage of {storage.length:,} values, where it does not fit; the file is damaged"
            )
        dtype = storage.dtype
        if not size:
            return np.zeros(shape, dtype)
        start = self._find(storage) + (storage.first + tensor.offset) * dtype.itemsize
        return np.ndarray(shape, dtype, self._buffer, start, [step * dtype.itemsize for step in strides])
