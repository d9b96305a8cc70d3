"""Reads the pickles inside torch's files without executing anything of them.

Python's own unpickler calls what a file names. This one is a small machine of its own that knows the few
operations of which files of tensors are made: numbers, strings, containers, and five names from torch and
collections that it takes as signs and never imports. Whatever else a file holds is refused by name. The work
is bounded: bytes, operations, key lengths and every number that becomes a size are limited before their use.
"""

from __future__ import annotations

import io
import pickletools
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from data_pipelines.errors import BadDataError

MAX_BYTES = 32 << 20
"""Of one pickle; the tensors' values are not in it."""
MAX_OPERATIONS = 400_000
"""A tensor takes about 30."""
MAX_KEY_LENGTH = 500
MAX_MEMO_INDEX = 1 << 32

STORAGE_TYPES: dict[str, np.dtype] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    # Bytes that are neither 0 nor 1 are no valid booleans, and weights are none anyway.
    "BoolStorage": np.dtype("u1"),
    "ComplexFloatStorage": np.dtype("<c8"),
    "ComplexDoubleStorage": np.dtype("<c16"),
}


class Storage(NamedTuple):
    """A run of values that stands elsewhere in the file; nothing of it is checked yet.

    Attributes:
      dtype: Of one value.
      key: Its name in the file.
      count: How many values it claims to have.
      first, length: The part of it that is meant; old files have storages that look into others.
    """

    dtype: np.dtype
    key: str
    count: int
    first: int
    length: int


class Tensor(NamedTuple):
    """A look at a storage; shape and strides count values and are not checked yet."""

    storage: Storage
    offset: Any
    shape: Any
    strides: Any


class Global(NamedTuple):
    """A name that a file mentions, such as torch.FloatStorage."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


ORDERED_DICT = Global("collections", "OrderedDict")
_TENSORS = (Global("torch._utils", "_rebuild_tensor_v2"), Global("torch._utils", "_rebuild_tensor"))
_PARAMETER = Global("torch._utils", "_rebuild_parameter")
_STORAGES = {Global("torch", name): dtype for name, dtype in STORAGE_TYPES.items()}
_KNOWN = {ORDERED_DICT, *_TENSORS, _PARAMETER, *_STORAGES}

_VALUES = frozenset(
    "NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING "
    "SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8".split()
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


def shown(text: object) -> str:
    """Something out of a file, made fit for a message: one line, printable, short."""
    if isinstance(text, int) and text.bit_length() > 64:
        return f"a number of {text.bit_length()} bits"
    if not isinstance(text, str | int | float | Global):
        return f"a {type(text).__name__}"
    printable = "".join(c if c.isprintable() else "?" for c in str(text)[:101])
    return printable if len(printable) <= 100 else printable[:100] + "..."


def read_pickle(data: bytes, file_name: str) -> tuple[Any, int]:
    """What a pickle at the start of `data` holds.

    Args:
      data: The pickle and perhaps more; only its first `MAX_BYTES` are looked at.
      file_name: For messages.

    Returns:
      The value: None, bool, int, float, str, list, tuple and dict (whose keys are str, int, bool or None) of
      these and of `Tensor`, `Storage` and `Global`; containers may be shared or contain themselves. And how
      many bytes the pickle takes.

    Raises:
      BadDataError: it holds something else, is damaged, or is larger than any file of tensors.
    """
    stream = io.BytesIO(data[:MAX_BYTES])
    machine = _Machine(file_name)
    try:
        value = machine.run(stream)
    except (ValueError, IndexError, KeyError, struct.error, OverflowError) as error:
        raise BadDataError(
            f"{file_name} is cut off or damaged: its list of tensors ends or breaks after {stream.tell():,} "
            f"bytes ({shown(str(error))}); get the file again"
        ) from error
    return value, stream.tell()


class _Machine:
    """The stack, the marks and the memo of one pickle."""

    def __init__(self, file_name: str) -> None:
        self._file_name = file_name
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._pairs = 0

    def run(self, stream: io.BytesIO) -> Any:
        """Runs to the end of the pickle."""
        operations: dict[str, Callable[[Any], None]] = {
            name.removeprefix("_do_"): getattr(self, name) for name in dir(self) if name.startswith("_do_")
        }
        for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if number >= MAX_OPERATIONS:
                raise self._refusal(f"more than {MAX_OPERATIONS:,} pickle operations")
            name = opcode.name
            if name in _VALUES:
                self._stack.append(_CONSTANTS.get(name, argument))
            elif name in operations:
                operations[name](argument)
            elif name == "STOP":
                break
            else:
                raise self._refusal(f"the pickle operation {name}")
        return self._stack.pop()

    def _refusal(self, what: str) -> BadDataError:
        return BadDataError(
            f"{self._file_name} holds {what}, which is not a tensor; only tensors and containers of them are "
            "read, and nothing of it was executed. Where you trust it, save its state_dict alone with torch "
            "and convert that"
        )

    # --- stack and memo ---

    def _do_PROTO(self, version: int) -> None:
        if version > 5:
            raise ValueError(f"pickle protocol {version}")

    def _do_FRAME(self, length: int) -> None:
        del length  # says where a frame ends, which a reader that holds the whole pickle need not know

    def _do_MARK(self, _: None) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _pop_to_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _do_POP(self, _: None) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_to_mark()

    def _do_POP_MARK(self, _: None) -> None:
        self._pop_to_mark()

    def _put(self, index: int) -> None:
        if not 0 <= index < MAX_MEMO_INDEX:
            raise self._refusal(f"{shown(index)} as the number of a value")
        self._memo[index] = self._stack[-1]

    def _do_MEMOIZE(self, _: None) -> None:
        self._put(len(self._memo))

    def _get(self, index: int) -> None:
        if not 0 <= index < MAX_MEMO_INDEX or index not in self._memo:
            raise ValueError(f"value {shown(index)} is used before it is there")
        self._stack.append(self._memo[index])

    _do_PUT = _do_BINPUT = _do_LONG_BINPUT = _put
    _do_GET = _do_BINGET = _do_LONG_BINGET = _get

    # --- containers ---

    def _do_EMPTY_TUPLE(self, _: None) -> None:
        self._stack.append(())

    def _last_as_tuple(self, count: int) -> None:
        if len(self._stack) < count:
            raise IndexError("stack is empty")
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _do_TUPLE1(self, _: None) -> None:
        self._last_as_tuple(1)

    def _do_TUPLE2(self, _: None) -> None:
        self._last_as_tuple(2)

    def _do_TUPLE3(self, _: None) -> None:
        self._last_as_tuple(3)

    def _do_TUPLE(self, _: None) -> None:
        items = self._pop_to_mark()
        self._stack.append(tuple(items))

    def _do_EMPTY_LIST(self, _: None) -> None:
        self._stack.append([])

    def _do_LIST(self, _: None) -> None:
        items = self._pop_to_mark()
        self._stack.append(items)

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise self._refusal("a list operation on something else")
        self._stack[-1].extend(items)

    def _do_APPEND(self, _: None) -> None:
        item = self._stack.pop()
        self._extend([item])

    def _do_APPENDS(self, _: None) -> None:
        self._extend(self._pop_to_mark())

    def _do_EMPTY_DICT(self, _: None) -> None:
        self._stack.append({})

    def _do_DICT(self, _: None) -> None:
        items = self._pop_to_mark()
        self._stack.append({})
        self._set(items)

    def _set(self, items: list[Any]) -> None:
        """Keys and values in turn, into the dict on top of the stack."""
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise self._refusal("a dict operation on something else")
        if len(items) % 2:
            raise ValueError("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # A tuple could be nested so that its hash never ends; large numbers can collide on purpose.
            if not (key is None or isinstance(key, str | int)):
                raise self._refusal(f"{shown(key)} as a key")
            if (isinstance(key, str) and len(key) > MAX_KEY_LENGTH) or (
                isinstance(key, int) and key.bit_length() > 60
            ):
                raise self._refusal(f"a key as long as {shown(key)}")
            target[key] = value

    def _do_SETITEM(self, _: None) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def _do_SETITEMS(self, _: None) -> None:
        self._set(self._pop_to_mark())

    # --- what stands for torch's objects ---

    def _name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("a name that is no string")
        found = Global(module, name)
        if found not in _KNOWN:
            raise self._refusal(shown(found))
        self._stack.append(found)

    def _do_GLOBAL(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._name(module, name)

    def _do_STACK_GLOBAL(self, _: None) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._name(module, name)

    def _do_BINPERSID(self, _: None) -> None:
        """('storage', type, key, device, count[, (view key, first, length)])."""
        reference = self._stack.pop()
        if not isinstance(reference, tuple) or len(reference) not in (5, 6) or reference[0] != "storage":
            raise self._refusal("a reference that is not one to a storage")
        storage_type, key, _, count = reference[1:5]
        if not isinstance(storage_type, Global) or storage_type not in _STORAGES:
            raise self._refusal(f"a storage of type {shown(storage_type)}")
        view = reference[5] if len(reference) == 6 else None
        first, length = 0, count
        if view is not None:
            if not isinstance(view, tuple) or len(view) != 3:
                raise self._refusal("a storage with an unknown kind of view")
            _, first, length = view
        for number in (count, first, length):
            if not is_size(number):
                raise self._refusal(f"a storage with {shown(number)} values")
        if not isinstance(key, str) or first + length > count:
            raise self._refusal(f"a view of {shown(length)} values in a storage of {shown(count)}")
        self._stack.append(Storage(_STORAGES[storage_type], key, count, first, length))

    def _do_REDUCE(self, _: None) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise self._refusal("a call of something that has no name")
        if function == ORDERED_DICT:
            self._ordered_dict(arguments)
        elif function in _TENSORS and len(arguments) >= 4 and isinstance(arguments[0], Storage):
            self._stack.append(Tensor(*arguments[:4]))
        elif function == _PARAMETER and arguments and isinstance(arguments[0], Tensor):
            self._stack.append(arguments[0])
        else:
            raise self._refusal(f"a call of {function} that makes no tensor")

    def _ordered_dict(self, arguments: tuple[Any, ...]) -> None:
        """OrderedDict(), or OrderedDict(pairs) as Python 2 wrote it."""
        pairs = arguments[0] if arguments else []
        if len(arguments) > 1 or not isinstance(pairs, list):
            raise self._refusal("an OrderedDict made of something else than pairs")
        self._pairs += len(pairs)  # one list can be named again and again
        if self._pairs > MAX_OPERATIONS:
            raise self._refusal(f"more than {MAX_OPERATIONS:,} keys")
        flat = []
        for pair in pairs:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise self._refusal("an OrderedDict made of something else than pairs")
            flat += pair
        self._stack.append({})
        self._set(flat)

    def _do_BUILD(self, _: None) -> None:
        """Attributes of an OrderedDict: the versions of the modules, which torch notes and we do not need."""
        state, target = self._stack.pop(), self._stack[-1]
        if not isinstance(target, dict) or not isinstance(state, dict):
            raise self._refusal("an object with attributes of its own")


def is_size(value: Any) -> bool:
    """Whether this can be a number of values, an offset or a stride of a real tensor."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48
