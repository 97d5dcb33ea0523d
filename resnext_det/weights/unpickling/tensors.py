"""torch's tensors in a pickle. Their values lie outside of it, in storages that it names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from resnext_det.weights.limits import Unreadable, view_of
from resnext_det.weights.unpickling.objects import Admitted, Packed, Pending, admit

if TYPE_CHECKING:
    from resnext_det.weights.unpickling.stream import PickleSource

_DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
_STORAGES = {
    f"{module}.{name}Storage": dtype
    for module in ("torch", "torch.cuda")
    for name, dtype in _DTYPES.items()
}
_STORAGES |= dict.fromkeys(("torch.UntypedStorage", "torch.storage.UntypedStorage"), torch.uint8)


@dataclass(frozen=True, slots=True)
class Storage(Pending):
    """The values that tensors are made of, flat."""

    values: Tensor


@dataclass(frozen=True)
class StorageRequest:
    """What a pickle says of a storage: its key, its elements and their dtype; and of a part of it, in old files."""

    key: str
    elements: int
    dtype: torch.dtype
    part: tuple[str, int, int] | None

    @property
    def nbytes(self) -> int:
        return self.elements * self.dtype.itemsize


def storage_request(identifier: Any) -> StorageRequest:
    """What the persistent id ("storage", kind, key, device, elements[, part]) asks for."""
    items = identifier.items if isinstance(identifier, Packed) else ()
    if len(items) not in (5, 6) or items[0] != "storage":
        what = (
            items[1].name if len(items) > 1 and isinstance(items[1], Admitted) else str(items[:1])
        )
        raise Unreadable(
            f"is refused: it holds {what:.80}, where tensors are needed; save a model's state_dict()"
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
            f"is refused or damaged: it has a storage of {name}, {elements!r:.40} elements; save float tensors"
        )
    part = more[0] if more else None
    if part is not None and not (
        isinstance(part, tuple)
        and [type(item) for item in part] == [str, int, int]
        and min(part[1:]) >= 0
    ):
        raise Unreadable(
            f"is damaged: a storage is the part {part!r:.60} of another; save it again with a newer torch"
        )
    return StorageRequest(key, elements, _STORAGES[name], part)


def _tensor(
    source: PickleSource,
    storage: Any,
    offset: Any,
    sizes: Any,
    strides: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> Tensor:
    if not isinstance(storage, Storage):
        raise TypeError("no storage")
    if isinstance(metadata, dict) and any(metadata.values()):
        raise Unreadable(f"is refused: a tensor is stored as {metadata!r:.60}; save float tensors")
    source.budget.take(1000)
    return view_of(storage.values, offset, sizes, strides)


def _tensor_of_dtype(
    source: PickleSource,
    storage: Any,
    offset: Any,
    sizes: Any,
    strides: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> Tensor:
    if not isinstance(dtype, torch.dtype) or dtype not in _DTYPES.values():
        raise Unreadable(f"is refused: a tensor is of {dtype!r:.40}; save float tensors")
    values = storage.values
    if values.nbytes % dtype.itemsize:
        raise TypeError("no whole elements")
    return _tensor(source, Storage(values.view(dtype)), offset, sizes, strides, metadata=metadata)


def _parameter(source: PickleSource, data: Any, *more: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise TypeError("no tensor")
    return data


def _from_type(source: PickleSource, rebuild: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """A tensor with attributes of its own: without them."""
    if not isinstance(rebuild, Admitted) or getattr(kind, "name", "") not in _TENSOR_CLASSES:
        raise Unreadable(
            f"is refused: it holds a tensor of the class {getattr(kind, 'name', kind)!r:.60}; save plain tensors"
        )
    return rebuild.call(source, *(arguments.items if isinstance(arguments, Packed) else arguments))


def _size(source: PickleSource, sizes: Any = ()) -> tuple[Any, ...]:
    return tuple(sizes)


def _device(source: PickleSource, kind: Any, index: Any = None) -> str:
    return f"{kind!s:.20}" if index is None else f"{kind!s:.20}:{index!s:.20}"


def _not_called(source: PickleSource, *arguments: Any) -> Any:
    raise Unreadable(
        "is refused: it makes tensors in a way that torch.save does not; save a model's state_dict()"
    )


_TENSOR_CLASSES = ("torch.Tensor", "torch.nn.parameter.Parameter")
# What torch's tensors ask for.
TORCH: dict[str, Any] = {
    **admit(dict.fromkeys((*_STORAGES, *_TENSOR_CLASSES), _not_called)),
    **admit(
        {
            "torch._utils._rebuild_tensor": _tensor,
            "torch._utils._rebuild_tensor_v2": _tensor,
            "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
            "torch._utils._rebuild_parameter": _parameter,
            "torch._utils._rebuild_parameter_with_state": _parameter,
            "torch._tensor._rebuild_from_type_v2": _from_type,
            "torch.Size": _size,
            "torch.device": _device,
        }
    ),
    **{str(dtype): dtype for dtype in _DTYPES.values()},
}
