"""Files of Torch 7 (``.t7``), its binary serialization on 64-bit machines.

They are read without Lua and without running any of their functions.

An object is its type (int32), and then: a number (float64), a string (int32 length, bytes), a
boolean (int32); for a table and a Torch object an index (int32) by which later ones refer to it. A
table is its length (int32) and as many keys and values, which are objects. A Torch object is its
version "V n" and its class name (strings without a type) and its contents: a tensor's are
dimensions (int32), sizes, strides and offset from 1 (int64) and its storage, an object; a storage's
are length (int64) and values; any other's are a table.

Source: ``File.lua``, ``generic/Tensor.c``, ``generic/Storage.c`` of Torch 7.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnext_det.weights.limits import (
    AGAIN,
    DTYPES,
    MOST_DIMENSIONS,
    Budget,
    Unreadable,
    read_exactly,
    read_values,
    view_values,
)

_NIL, _NUMBER, _STRING, _TABLE, _OBJECT, _BOOLEAN = range(6)
_FUNCTIONS = (6, 7, 8)
_DEEPEST = 150

_TENSORS = {f"torch.{name}Tensor": dtype for name, dtype in DTYPES.items()}
_TENSORS |= {f"torch.Cuda{name}Tensor": dtype for name, dtype in DTYPES.items()}
_TENSORS |= {"torch.CudaTensor": torch.float32}
_STORAGES = {name.replace("Tensor", "Storage"): dtype for name, dtype in _TENSORS.items()}


@dataclass(eq=False)
class TorchObject:
    """An object of a Lua class, such as ``nn.Sequential``.

    Attributes:
        class_name: as in the file.
        fields: by name; ``modules`` of a container is a dict that counts from 1.
    """

    class_name: str
    fields: dict[Any, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class _Storage:
    values: Tensor


def read_torch7(path: Path) -> Any:
    """Read the object that a Torch 7 file holds.

    Tables become dict, whole numbers int, strings str by latin1, tensors and storages tensors on
    the CPU, other objects ``TorchObject``. Tensors that shared a storage share it again.

    Raises:
        Unreadable: the file is damaged, cut short, nested too deep, of another format, or holds Lua
            functions.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        contents = _Reader(file, size).read()
        if file.tell() != size:
            raise Unreadable(
                f"is damaged: its object ends {size - file.tell()} bytes before it; {AGAIN}"
            )
    return contents.values if isinstance(contents, _Storage) else contents


class _Reader:
    def __init__(self, file: BufferedReader, size: int) -> None:
        self.file = file
        self.size = size
        self.budget = Budget(size)
        self.objects: dict[int, Any] = {}
        self.depth = 0

    def read(self) -> Any:
        """Read the object that follows."""
        kind = self._read_int()
        self.budget.take(120)
        if kind == _NIL:
            return None
        if kind == _NUMBER:
            number: float = struct.unpack("<d", read_exactly(self.file, 8))[0]
            return int(number) if number.is_integer() and abs(number) < 2**53 else number
        if kind == _STRING:
            return self._read_string()
        if kind == _BOOLEAN:
            return self._read_int() == 1
        if kind in (_TABLE, _OBJECT):
            return self._read_indexed(kind)
        if kind in _FUNCTIONS:
            raise Unreadable(
                "is refused: it holds a Lua function, which could run code; save its network alone"
            )
        raise Unreadable(
            f"is no file of Torch 7, or damaged: it has an object of type {kind}; {AGAIN}"
        )

    def _read_indexed(self, kind: int) -> Any:
        """Read a table or a Torch object, or find the earlier one of the same index."""
        index = self._read_int()
        if index in self.objects:
            return self.objects[index]
        self.depth += 1
        if self.depth > _DEEPEST:
            raise Unreadable(
                f"is refused: its objects are nested over {_DEEPEST} deep; save its network alone"
            )
        self.budget.take(200)
        found = self._read_table(index) if kind == _TABLE else self._read_object(index)
        self.depth -= 1
        return found

    def _read_table(self, index: int) -> dict[Any, Any]:
        entries = self._read_count(least_size=4 + 4, what="table")
        table: dict[Any, Any] = {}
        self.objects[index] = table
        for _ in range(entries):
            key = self.read()
            if not isinstance(key, str | int | float):
                raise Unreadable(
                    f"is refused: a table has a {type(key).__name__} as a key; save its network "
                    "alone"
                )
            value = self.read()
            table[key] = value.values if isinstance(value, _Storage) else value
            self.budget.take(200)
        return table

    def _read_object(self, index: int) -> Any:
        version = self._read_string()
        old = not version.startswith("V ")  # of before there were versions
        name = version if old else self._read_string()
        if name in _TENSORS:
            self.objects[index] = self._read_tensor(_TENSORS[name])
        elif name in _STORAGES:
            self.objects[index] = self._read_storage(_STORAGES[name])
        else:
            self.objects[index] = TorchObject(name)
            fields = self.read()
            if not isinstance(fields, dict):
                raise Unreadable(
                    f"is refused: it holds {name!a:.80}, which is no module; save its network alone"
                )
            self.objects[index].fields = fields
        return self.objects[index]

    def _read_tensor(self, dtype: torch.dtype) -> Tensor:
        dimensions = self._read_count(least_size=16, what="tensor")
        if dimensions > MOST_DIMENSIONS:
            raise Unreadable(f"is damaged: a tensor has {dimensions} dimensions; {AGAIN}")
        size = 16 * dimensions + 8
        numbers = struct.unpack(f"<{size // 8}q", read_exactly(self.file, size))
        storage = self.read()
        if storage is None:
            storage = _Storage(torch.empty(0, dtype=dtype))
        if not isinstance(storage, _Storage) or storage.values.dtype != dtype:
            raise Unreadable(f"is damaged: a tensor has no storage of its type; {AGAIN}")
        self.budget.take(1000)
        if not dimensions:
            return storage.values[:0]
        sizes, strides = numbers[:dimensions], numbers[dimensions:-1]
        return view_values(storage.values, numbers[-1] - 1, sizes, strides)

    def _read_storage(self, dtype: torch.dtype) -> _Storage:
        length: int = struct.unpack("<q", read_exactly(self.file, 8))[0]
        self._check_left(length, dtype.itemsize, "storage")
        self.budget.take(1000 + length * dtype.itemsize)
        values = torch.empty(length, dtype=dtype)
        read_values(self.file, values)
        return _Storage(values)

    def _read_int(self) -> int:
        number: int = struct.unpack("<i", read_exactly(self.file, 4))[0]
        return number

    def _read_string(self) -> str:
        size = self._read_count(least_size=1, what="string")
        self.budget.take(2 * size + 60)
        return read_exactly(self.file, size).decode("latin1")

    def _read_count(self, *, least_size: int, what: str) -> int:
        count = self._read_int()
        self._check_left(count, least_size, what)
        return count

    def _check_left(self, count: int, size: int, what: str) -> None:
        left = self.size - self.file.tell()
        if not 0 <= count * size <= left:
            raise Unreadable(
                f"is cut short or damaged: a {what} of {count} elements should follow where {left} "
                f"bytes are left; {AGAIN}"
            )
