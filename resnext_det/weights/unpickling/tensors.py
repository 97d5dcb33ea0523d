"""torch's tensors in a pickle, and the storages outside of it that hold their values."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from typing import Any, NamedTuple

import torch
from torch import Tensor

from resnext_det.weights.limits import (
    AGAIN,
    DTYPES,
    Budget,
    Unreadable,
    check_shape,
    read_exactly,
    read_values,
    view_values,
)
from resnext_det.weights.unpickling.objects import (
    Name,
    Placeholder,
    admit,
    finish,
    make_placeholder,
)
from resnext_det.weights.unpickling.stream import Pending, PickleStream

_STORAGES = {
    f"{module}.{name}Storage": dtype
    for module in ("torch", "torch.cuda")
    for name, dtype in DTYPES.items()
}
_STORAGES |= dict.fromkeys(("torch.UntypedStorage", "torch.storage.UntypedStorage"), torch.uint8)
# Of tensors that are not read. Old files tell how many elements a storage has, and not its bytes.
_OTHERS = {
    **{"ComplexDouble": torch.complex128, "ComplexFloat": torch.complex64},
    **{"QInt32": torch.int32, "QInt8": torch.int8, "QUInt8": torch.uint8},
    **{"QUInt4x2": torch.uint8, "QUInt2x4": torch.uint8},
}
_OTHER_STORAGES = {
    f"{module}.{name}Storage": dtype
    for module in ("torch", "torch.cuda")
    for name, dtype in _OTHERS.items()
}


@dataclass(frozen=True, slots=True)
class Storage(Pending):
    """The flat values that tensors are views of, and the name of their class."""

    values: Tensor
    name: str
    class_name = "torch.UntypedStorage"


class _Request(NamedTuple):
    """A pickle's request for a storage, or for a part of one in old files."""

    name: str
    key: str
    elements: int
    dtype: torch.dtype
    part: tuple[str, int, int] | None

    @property
    def nbytes(self) -> int:
        return self.elements * self.dtype.itemsize


def _check_request(stream: PickleStream, identifier: Any) -> _Request | Name | Placeholder:
    """Check a persistent id: ("storage", kind, key, device, elements[, part]).

    Returns a placeholder where it is of no storage, or of one whose size is not known.
    """
    items: tuple[Any, ...] = identifier if isinstance(identifier, tuple) else ()
    if items[:1] == ("module",) and len(items) > 1 and isinstance(items[1], Name):
        return items[1]  # a class, with its source behind it
    if len(items) not in (5, 6) or items[0] != "storage":
        return make_placeholder(stream, "a persistent id")
    _, kind, key, _, elements, *more = items
    name = kind.name if isinstance(kind, Name) else "?"
    if not isinstance(key, str) or type(elements) is not int or not 0 <= elements < 2**48:
        raise Unreadable(f"is damaged: it has a storage of {name:.80} without its size; {AGAIN}")
    if name not in _STORAGES and name not in _OTHER_STORAGES:
        return make_placeholder(stream, name)
    part = more[0] if more else None
    if part is not None and not (
        isinstance(part, tuple)
        and [type(item) for item in part] == [str, int, int]
        and min(part[1:]) >= 0
    ):
        raise Unreadable(
            "is damaged: a storage is a part of another, and it is not told which; save it again "
            "with a newer torch"
        )
    dtype = _STORAGES.get(name) or _OTHER_STORAGES[name]
    return _Request(name, key, elements, dtype, part)


class StoredInside:
    """The storages of a zip archive, each an entry of its own, read when the pickle names it.

    Args:
        file: of the archive.
        entries: start and size of each entry in the file, by its key.
        budget: of memory.
        mapped: the whole file as bytes, if storages are to be parts of it; None: they are read.
    """

    def __init__(
        self,
        file: BufferedReader,
        entries: Mapping[str, tuple[int, int]],
        budget: Budget,
        mapped: Any | None,
    ) -> None:
        self.file = file
        self.entries = entries
        self.budget = budget
        self.mapped = mapped
        self.found: dict[str, Tensor] = {}

    def find(self, stream: PickleStream, identifier: Any) -> Any:
        request = _check_request(stream, identifier)
        if not isinstance(request, _Request):
            return request
        start, size = self.entries.get(request.key, (0, 0))
        if request.part is not None or size != request.nbytes:
            raise Unreadable(
                f"is damaged: a storage of {request.elements} {request.dtype} has {size} bytes, "
                f"not {request.nbytes}; {AGAIN}"
            )
        if request.key not in self.found:
            self.found[request.key] = self._read(start, size)
        return Storage(self.found[request.key].view(request.dtype), request.name)

    def _read(self, start: int, size: int) -> Tensor:
        if self.mapped is not None and start % 8 == 0 and size:
            return torch.empty(0, dtype=torch.uint8).set_(self.mapped[start : start + size])
        self.budget.take(size)
        values = torch.empty(size, dtype=torch.uint8)
        position = self.file.tell()
        self.file.seek(start)
        read_values(self.file, values)
        self.file.seek(position)
        return values


class StoredBehind:
    """The storages of an old file, which follow the pickle that names them.

    Their memory is taken before they are reached, so their sizes are held to the file's.
    """

    def __init__(self, file_size: int, budget: Budget) -> None:
        self.left = file_size
        self.budget = budget
        self.found: dict[str, Tensor] = {}

    def find(self, stream: PickleStream, identifier: Any) -> Any:
        request = _check_request(stream, identifier)
        if isinstance(request, Placeholder):  # it cannot be told where the next one begins
            raise Unreadable(
                f"is refused: it holds {request.name:.80}, of a size that is not known; save it "
                "again with a newer torch"
            )
        if not isinstance(request, _Request):
            return request
        values = self.found.get(request.key)
        if values is None:
            self.left -= request.nbytes
            if self.left < 0:
                raise Unreadable(
                    f"is damaged or cut short: a storage of {request.elements} {request.dtype} is "
                    f"larger than what is left of it; {AGAIN}"
                )
            self.budget.take(request.nbytes + 1000)
            values = self.found[request.key] = torch.empty(request.elements, dtype=request.dtype)
        if values.dtype != request.dtype or len(values) != request.elements:
            raise Unreadable(f"is damaged: it describes a storage in two ways; {AGAIN}")
        if request.part is None:
            return Storage(values, request.name)
        _, offset, elements = request.part
        if offset + elements > len(values):
            raise Unreadable(f"is damaged: a part of a storage reaches beyond it; {AGAIN}")
        return Storage(values[offset : offset + elements], request.name)

    def fill(self, file: BufferedReader, keys: Any) -> None:
        """Read the values of all storages, in the order of their keys."""
        known = isinstance(keys, list) and all(isinstance(key, str | int) for key in keys)
        if not known or sorted(map(str, keys)) != sorted(self.found):
            raise Unreadable(
                f"is damaged: its storages are not those that its tensors need; {AGAIN}"
            )
        for key in keys:
            values = self.found[str(key)]
            (elements,) = struct.unpack("<q", read_exactly(file, 8))
            if elements != len(values):
                raise Unreadable(
                    f"is damaged: a storage has {elements} elements, not {len(values)}; {AGAIN}"
                )
            read_values(file, values)


def _rebuild_tensor(
    stream: PickleStream, storage: Any, offset: Any, sizes: Any, strides: Any, *more: Any
) -> Tensor | Placeholder:
    """Rebuild a tensor; behind the strides come requires_grad, hooks and metadata.

    One of complex or quantized numbers becomes a placeholder, and so does one that was expanded: it
    has more elements than values.
    """
    if isinstance(storage, Placeholder) or (
        isinstance(storage, Storage) and (storage.name not in _STORAGES or any(more[2:]))
    ):
        return make_placeholder(stream, storage.name)
    if not isinstance(storage, Storage):
        raise TypeError("no storage")
    if not isinstance(sizes, tuple | list) or not isinstance(strides, tuple | list):
        raise TypeError("no sizes and strides")
    check_shape(sizes)
    if 0 in strides and math.prod(sizes) > len(storage.values):
        return make_placeholder(stream, "torch.Tensor.expand")
    stream.budget.take(1000)
    return view_values(storage.values, offset, sizes, strides)


def _rebuild_tensor_of_dtype(
    stream: PickleStream, storage: Any, *more: Any
) -> Tensor | Placeholder:
    """Rebuild a tensor whose storage has no type, but which names its dtype."""
    offset, sizes, strides, requires_grad, hooks, dtype, *metadata = more
    if not isinstance(dtype, torch.dtype) or not isinstance(storage, Storage):
        return make_placeholder(stream, dtype.name if isinstance(dtype, Name) else "torch.Tensor")
    if storage.values.nbytes % dtype.itemsize:
        raise TypeError("no whole elements")
    typed = Storage(storage.values.view(dtype), storage.name)
    place = (offset, sizes, strides, requires_grad, hooks, *metadata)
    return _rebuild_tensor(stream, typed, *place)


def _rebuild_parameter(stream: PickleStream, data: Any, *more: Any) -> Tensor | Placeholder:
    if not isinstance(data, Tensor | Placeholder):
        raise TypeError("no tensor")
    return data


def _rebuild_from_type(
    stream: PickleStream, rebuild: Any, kind: Any, arguments: Any, state: Any
) -> Any:
    """Rebuild a tensor that has attributes of its own, without them.

    One of a subclass becomes a placeholder: its numbers may mean something else.
    """
    name = kind.name if isinstance(kind, Name) else "?"
    if not isinstance(rebuild, Name) or rebuild.call is None or name not in _TENSOR_CLASSES:
        return make_placeholder(stream, rebuild.name if name in _TENSOR_CLASSES else name)
    return rebuild.call(stream, *arguments)


def _make_size(stream: PickleStream, sizes: Any = ()) -> tuple[Any, ...]:
    stream.budget.take(64 + 8 * len(sizes))
    return tuple(finish(stream, sizes))


def _name_device(stream: PickleStream, kind: str, index: int | None = None) -> str:
    if not isinstance(kind, str) or type(index) not in (int, type(None)):
        raise TypeError("no device")
    return f"{kind:.20}" if index is None else f"{kind:.20}:{index:d}"


_TENSOR_CLASSES = ("torch.Tensor", "torch.nn.parameter.Parameter")
TORCH: dict[str, Any] = {
    **admit(
        {
            "torch._utils._rebuild_tensor": _rebuild_tensor,
            "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
            "torch._utils._rebuild_tensor_v3": _rebuild_tensor_of_dtype,
            "torch._utils._rebuild_parameter": _rebuild_parameter,
            "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
            "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
            "torch.Size": _make_size,
            "torch.device": _name_device,
        }
    ),
    **{str(dtype): dtype for dtype in DTYPES.values()},
}
"""The names of torch that something is done for."""
