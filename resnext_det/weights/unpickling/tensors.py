"""torch's tensors in a pickle, and the storages outside of it that hold their values."""

from __future__ import annotations

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
    read_exactly,
    read_values,
    view_values,
)
from resnext_det.weights.unpickling.objects import (
    Admitted,
    PendingTuple,
    admit,
    finish,
    refuse_call,
)
from resnext_det.weights.unpickling.stream import Pending, PickleStream

_STORAGES = {
    f"{module}.{name}Storage": dtype
    for module in ("torch", "torch.cuda")
    for name, dtype in DTYPES.items()
}
_STORAGES |= dict.fromkeys(("torch.UntypedStorage", "torch.storage.UntypedStorage"), torch.uint8)


@dataclass(frozen=True, slots=True)
class Storage(Pending):
    """The flat values that tensors are views of."""

    values: Tensor


class _Request(NamedTuple):
    """A pickle's request for a storage, or for a part of one in old files."""

    key: str
    elements: int
    dtype: torch.dtype
    part: tuple[str, int, int] | None

    @property
    def nbytes(self) -> int:
        return self.elements * self.dtype.itemsize


def _check_request(identifier: Any) -> _Request:
    """Check a persistent id: ("storage", kind, key, device, elements[, part])."""
    items: tuple[Any, ...] = identifier if isinstance(identifier, PendingTuple) else ()
    if len(items) not in (5, 6) or items[0] != "storage":
        known = len(items) > 1 and isinstance(items[1], Admitted)
        raise Unreadable(
            f"is refused: it holds {items[1].name if known else str(items[:1]):.80}, where tensors "
            "are needed; save a model's state_dict()"
        )
    _, kind, key, _, elements, *more = items
    name = kind.name if isinstance(kind, Admitted) else "?"
    if (
        name not in _STORAGES
        or not isinstance(key, str)
        or type(elements) is not int
        or not 0 <= elements < 2**48
    ):
        raise Unreadable(
            f"is refused or damaged: it has a storage of {name}, {elements!r:.40} elements; save "
            "float tensors"
        )
    part = more[0] if more else None
    if part is not None and not (
        isinstance(part, tuple)
        and [type(item) for item in part] == [str, int, int]
        and min(part[1:]) >= 0
    ):
        raise Unreadable(
            f"is damaged: a storage is the part {part!r:.60} of another; save it again with a "
            "newer torch"
        )
    return _Request(key, elements, _STORAGES[name], part)


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

    def find(self, identifier: Any) -> Storage:
        request = _check_request(identifier)
        start, size = self.entries.get(request.key, (0, 0))
        if request.part is not None or size != request.nbytes:
            raise Unreadable(
                f"is damaged: a storage of {request.elements} {request.dtype} has {size} bytes, "
                f"not {request.nbytes}; {AGAIN}"
            )
        if request.key not in self.found:
            self.found[request.key] = self._read(start, size)
        return Storage(self.found[request.key].view(request.dtype))

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

    def find(self, identifier: Any) -> Storage:
        request = _check_request(identifier)
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
            return Storage(values)
        _, offset, elements = request.part
        if offset + elements > len(values):
            raise Unreadable(f"is damaged: a part of a storage reaches beyond it; {AGAIN}")
        return Storage(values[offset : offset + elements])

    def fill(self, file: BufferedReader, keys: Any) -> None:
        """Read the values of all storages, in the order of their keys."""
        if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(self.found):
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
) -> Tensor:
    """Rebuild a tensor; behind the strides come requires_grad, hooks and metadata."""
    if not isinstance(storage, Storage):
        raise TypeError("no storage")
    for metadata in more[2:]:
        if metadata:
            raise Unreadable(
                f"is refused: a tensor is stored as {metadata!r:.60}; save float tensors"
            )
    stream.budget.take(1000)
    return view_values(storage.values, offset, sizes, strides)


def _rebuild_tensor_of_dtype(stream: PickleStream, storage: Any, *more: Any) -> Tensor:
    """Rebuild a tensor whose storage has no type, but which names its dtype."""
    offset, sizes, strides, requires_grad, hooks, dtype, *metadata = more
    if not isinstance(dtype, torch.dtype) or dtype not in DTYPES.values():
        raise Unreadable(f"is refused: a tensor is of {dtype!r:.40}; save float tensors")
    if storage.values.nbytes % dtype.itemsize:
        raise TypeError("no whole elements")
    typed = Storage(storage.values.view(dtype))
    place = (offset, sizes, strides, requires_grad, hooks, *metadata)
    return _rebuild_tensor(stream, typed, *place)


def _rebuild_parameter(stream: PickleStream, data: Any, *more: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise TypeError("no tensor")
    return data


def _rebuild_from_type(
    stream: PickleStream, rebuild: Any, kind: Any, arguments: Any, state: Any
) -> Any:
    """Rebuild a tensor that has attributes of its own, without them."""
    name = kind.name if isinstance(kind, Admitted) else "?"
    if not isinstance(rebuild, Admitted) or name not in _TENSOR_CLASSES:
        raise Unreadable(
            f"is refused: it holds a tensor of the class {name!r:.60}; save plain tensors"
        )
    return rebuild.call(stream, *arguments)


def _make_size(stream: PickleStream, sizes: Any = ()) -> tuple[Any, ...]:
    return tuple(finish(stream, sizes))


def _name_device(stream: PickleStream, kind: Any, index: Any = None) -> str:
    return f"{kind!s:.20}" if index is None else f"{kind!s:.20}:{index!s:.20}"


_TENSOR_CLASSES = ("torch.Tensor", "torch.nn.parameter.Parameter")
TORCH: dict[str, Any] = {
    **admit(
        {
            **dict.fromkeys((*_STORAGES, *_TENSOR_CLASSES), refuse_call),
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
"""The names that pickles of torch's tensors ask for."""
