"""numpy's arrays and scalars in a pickle, made without numpy's own functions for it: every size is checked before memory is taken."""

from __future__ import annotations

import codecs
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from resnext_det.weights.limits import Unreadable
from resnext_det.weights.unpickling.objects import Packed, Unbuilt, admit
from resnext_det.weights.unpickling.stream import LongText

if TYPE_CHECKING:
    from resnext_det.weights.unpickling.stream import PickleSource

_DTYPES = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
_PIECE = 1 << 20
_MOST_DIMENSIONS = 32


class UnbuiltDtype(Unbuilt):
    """A dtype of bool, int, uint or float; the byte order is its state."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: np.dtype[Any]) -> None:
        super().__init__()
        self.dtype = dtype

    def build(self, source: PickleSource, state: Any) -> UnbuiltDtype:
        if state[1] not in ("<", ">", "|", "=") or any(state[2:5]):
            raise Unreadable("is refused: it holds an array of records; save arrays of numbers")
        self.dtype = self.dtype.newbyteorder(state[1])
        self.built = self
        return self


class UnbuiltArray(Unbuilt):
    """An array whose shape, dtype and values are its state."""

    __slots__ = ()

    def build(self, source: PickleSource, state: Any) -> np.ndarray[Any, Any]:
        _, shape, dtype, fortran, values = state.items if isinstance(state, Packed) else state
        self.built = read_array(source, values, dtype, shape, "F" if fortran else "C")
        return self.built


def read_array(
    source: PickleSource, values: Any, dtype: Any, shape: Any, order: str
) -> np.ndarray[Any, Any]:
    """An array in this machine's byte order, from bytes or from what the file holds."""
    if not isinstance(dtype, UnbuiltDtype):
        raise TypeError("no dtype")
    if len(shape) > _MOST_DIMENSIONS or not all(
        type(size) is int and 0 <= size < 2**48 for size in shape
    ):
        raise Unreadable(
            f"is damaged: an array has the shape {shape!r:.80}; copy or download the file again"
        )
    needed = math.prod(shape) * dtype.dtype.itemsize
    longest = len(values) if not isinstance(values, LongText) else values.size
    # A byte of 128 and more takes two in UTF-8.
    shortest = (
        (longest + 1) // 2
        if isinstance(values, LongText) and values.encoding == "utf-8"
        else longest
    )
    if not shortest <= needed <= longest:
        raise Unreadable(
            f"is damaged: an array of shape {tuple(shape)} needs {needed} bytes, and {longest} are there; copy or download the file again"
        )
    source.budget.take(256 + needed)
    flat = np.empty(math.prod(shape), dtype.dtype)
    _fill(source, flat.view(np.uint8), values)
    if flat.dtype.kind == "b":
        np.not_equal(flat.view(np.uint8), 0, out=flat)  # a bool of 2 is undefined
    elif not flat.dtype.isnative:
        flat = flat.byteswap(inplace=True).view(flat.dtype.newbyteorder("="))
    return flat.reshape(tuple(shape), order="F" if order == "F" else "C")


def _fill(source: PickleSource, target: np.ndarray[Any, Any], values: Any) -> None:
    if not isinstance(values, LongText):
        target[:] = np.frombuffer(
            values.encode("latin1") if isinstance(values, str) else values, np.uint8
        )
        return
    file = source.file
    position = file.tell()
    file.seek(values.start)
    in_utf8 = values.encoding == "utf-8"
    filled = _fill_from_utf8(source, target, values.size) if in_utf8 else file.readinto(target.data)
    if filled != len(target):
        raise Unreadable("is cut short; copy or download the file again")
    file.seek(position)


def _fill_from_utf8(source: PickleSource, target: np.ndarray[Any, Any], size: int) -> int:
    """Python 3 writes an array's bytes in protocol 2 as the text that latin1 makes of them."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    filled = 0
    while size:
        piece = source.take(min(size, _PIECE))
        size -= len(piece)
        values = np.frombuffer(decoder.decode(piece, final=size == 0).encode("latin1"), np.uint8)
        target[filled : filled + len(values)] = (
            values  # of another length where the text is longer than the array
        )
        filled += len(values)
    return filled


def _dtype(source: PickleSource, name: Any, align: Any = False, copy: Any = False) -> UnbuiltDtype:
    text = name.decode("latin1") if isinstance(name, bytes) else name
    if not isinstance(text, str) or not _DTYPES.fullmatch(text):
        raise Unreadable(
            f"is refused: it holds an array of dtype {text!r:.40}; arrays of bool, int, uint and float are read"
        )
    return UnbuiltDtype(np.dtype(text))


def _reconstruct(source: PickleSource, kind: Any, shape: Any, code: Any) -> UnbuiltArray:
    if getattr(kind, "name", "") != "numpy.ndarray":
        raise Unreadable("is refused: it holds a subclass of numpy's array; save plain arrays")
    return UnbuiltArray()


def _from_buffer(
    source: PickleSource, values: Any, dtype: Any, shape: Any, order: Any
) -> np.ndarray[Any, Any]:
    """Arrays of protocol 5."""
    return read_array(source, values, dtype, shape, order)


def _scalar(source: PickleSource, dtype: Any, values: Any) -> Any:
    return read_array(source, values, dtype, (1,), "C")[0]


def _not_called(source: PickleSource, *arguments: Any) -> Any:
    raise Unreadable(
        "is refused: it makes an array in a way that no library writes; save plain arrays"
    )


_FUNCTIONS = {
    "multiarray._reconstruct": _reconstruct,
    "multiarray.scalar": _scalar,
    "numeric._frombuffer": _from_buffer,
}
# What numpy's arrays ask for, since 2.0 under "_core".
NUMPY = {
    **admit({"numpy.dtype": _dtype, "numpy.ndarray": _not_called}),
    **admit({f"numpy.core.{name}": call for name, call in _FUNCTIONS.items()}),
    **admit({f"numpy._core.{name}": call for name, call in _FUNCTIONS.items()}),
}
