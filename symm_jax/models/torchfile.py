"""Reads the tensors of a PyTorch file of the old format (before 1.6) without PyTorch. No code of the file is run.

The file has five pickles: a magic number, a version, facts about the machine, the object with references to storages,
and the names of the storages. The storages follow, each with its length (int64) and its values. A pickle is a program.
This module only lists its instructions, and follows the few that tensors need on a stack of plain data.
"""

import io
import math
import pickletools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from symm_jax.errors import InputError

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_MAX_RANK = 8
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS_AND_STRINGS = {"BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE"}


class _Global(NamedTuple):
    """A name that the file may refer to. It is never imported."""

    name: str


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    length: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_DICT, _REBUILD = _Global("collections OrderedDict"), _Global("torch._utils _rebuild_tensor_v2")
_DTYPES = {
    _Global("torch DoubleStorage"): np.dtype("<f8"),
    _Global("torch FloatStorage"): np.dtype("<f4"),
    _Global("torch HalfStorage"): np.dtype("<f2"),
    _Global("torch LongStorage"): np.dtype("<i8"),
}
_GLOBALS = {_DICT, _REBUILD, *_DTYPES}


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file with a state dict, {name: read-only array}.

    Raises:
      InputError: the file has another format, is damaged, or holds anything but tensors by name.
    """
    content = path.read_bytes()
    if content.startswith(b"PK"):
        raise InputError("it is a PyTorch file of the new format (zip), not of the old one")
    try:
        return _parse(content)
    # pickletools raises these for truncated or damaged pickles, and the code below for values of other kinds.
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise InputError(f"it cannot be read as a PyTorch file of the old format: {error or 'damaged'}") from error


def _parse(content: bytes) -> dict[str, np.ndarray]:
    file = io.BytesIO(content)
    _require(_run(file) == _MAGIC, "its magic number is wrong")
    _require(_run(file) == _VERSION, "its version is unknown")
    machine, tensors, keys = _run(file), _run(file), _run(file)
    _require(isinstance(machine, dict) and machine.get("little_endian") is True, "it is from a big-endian machine")
    _require(isinstance(tensors, dict), "it does not hold a state dict")
    for name, tensor in tensors.items():
        _require(isinstance(tensor, _Tensor), f"{name} is not a tensor")
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    _require(isinstance(keys, list) and all(isinstance(key, str) for key in keys), "its storages have no names")
    values, position = {}, file.tell()
    for key in keys:
        storage, start = storages[key], position + 8
        length = int.from_bytes(content[position:start], "little")
        position = start + length * storage.dtype.itemsize
        _require(length == storage.length and position <= len(content), f"storage {key} is truncated")
        values[storage] = np.frombuffer(content, storage.dtype, length, start)
    return {name: _view(name, tensor, values[tensor.storage]) for name, tensor in tensors.items()}


def _view(name: str, tensor: _Tensor, values: np.ndarray) -> np.ndarray:
    """The tensor as a view of its storage's values. Each value may be used once."""
    _, offset, shape, strides = tensor
    _require(len(shape) == len(strides) <= _MAX_RANK, f"{name} has {len(shape)} sizes and {len(strides)} strides")
    numbers = (offset, *shape, *strides)
    _require(all(type(x) is int and 0 <= x <= len(values) for x in numbers), f"{name} has an impossible size")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    fits = 0 < math.prod(shape) <= len(values) and last < len(values)
    _require(fits or 0 in shape, f"{name} of shape {shape} is larger than its storage")
    if 0 in shape:
        return np.empty(shape, values.dtype)
    bytes_ = [stride * values.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(values[offset:], shape, bytes_, writeable=False)


def _run(file: io.BytesIO) -> Any:
    """Follows one pickle, and leaves `file` at its end.

    Returns:
      Numbers, strings, None, tuples, lists, dicts with strings as keys, and _Tensor.

    Raises:
      InputError: an instruction or a name that tensors do not need.
      ValueError, IndexError, KeyError, TypeError: a damaged pickle.
    """
    stack, marks, memo = [], [], {}
    for instruction, argument in _instructions(file):
        match instruction:
            case "PROTO":
                pass
            case "GLOBAL":
                _require(_Global(argument) in _GLOBALS, f"it asks for {argument[:100]!r}, which tensors do not need")
                stack.append(_Global(argument))
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append(_CONSTANTS[instruction])
            case _ if instruction in _NUMBERS_AND_STRINGS:
                stack.append(argument)
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(_pop(stack, marks.pop())))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(_pop(stack, len(stack) - int(instruction[-1]))))
            case "APPEND":
                _append(stack, [stack.pop()])
            case "APPENDS":
                _append(stack, _pop(stack, marks.pop()))
            case "SETITEM":
                _set(stack, _pop(stack, len(stack) - 2))
            case "SETITEMS":
                _set(stack, _pop(stack, marks.pop()))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                function, arguments = _pop(stack, len(stack) - 2)
                stack.append(_call(function, arguments))
            case "BUILD":
                stack.pop()  # the attributes of an OrderedDict, such as the versions of its layers
            case "STOP":
                (result,) = stack
                return result
            case _:
                raise InputError(f"it contains the instruction {instruction}, which tensors do not need")


def _instructions(file: io.BytesIO) -> Iterator[tuple[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escape sequences in damaged names
        for operation, argument, _ in pickletools.genops(file):
            yield operation.name, argument


def _pop(stack: list, start: int) -> list:
    """Removes and returns the part of the stack from `start` on."""
    _require(0 <= start <= len(stack), "its stack is empty")
    taken = stack[start:]
    del stack[start:]
    return taken


def _append(stack: list, values: list) -> None:
    _require(isinstance(stack[-1], list), "it appends to something other than a list")
    stack[-1].extend(values)


def _set(stack: list, items: list) -> None:
    _require(isinstance(stack[-1], dict), "it sets an item of something other than a dict")
    _require(all(isinstance(key, str) for key in items[::2]), "a key is not a string")
    stack[-1].update(zip(items[::2], items[1::2], strict=True))


def _storage(reference: tuple) -> _Storage:
    kind, storage, key, _, length, view = reference
    known = isinstance(storage, _Global) and storage in _DTYPES
    _require(kind == "storage" and known and view is None, "it refers to something other than a storage")
    _require(isinstance(key, str) and type(length) is int and length >= 0, "a storage has no name or no length")
    return _Storage(key, _DTYPES[storage], length)


def _call(function: _Global, arguments: tuple) -> dict | _Tensor:
    if function == _DICT and arguments == ():
        return {}
    _require(function == _REBUILD, "it calls something other than the function that makes a tensor")
    storage, offset, shape, strides, *_ = arguments
    _require(isinstance(storage, _Storage), "a tensor has no storage")
    _require(isinstance(shape, tuple) and isinstance(strides, tuple), "a tensor has no shape")
    return _Tensor(storage, offset, shape, strides)


def _require(condition: bool, fault: str) -> None:
    if not condition:
        raise InputError(fault)
