"""numpy's arrays and scalars in a pickle, made with every size checked before memory is taken."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from resnext_det.weights.limits import AGAIN, Unreadable, check_shape, read_exactly
from resnext_det.weights.unpickling.objects import (
    Name,
    Placeholder,
    Unbuilt,
    admit,
    make_placeholder,
)
from resnext_det.weights.unpickling.stream import LongText, PickleStream

_DTYPES = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
_PIECE = 1 << 20


class UnbuiltDtype(Unbuilt):
    """A dtype of bool, int, uint or float, whose byte order is its state.

    Attributes:
        dtype: in the file's byte order, once that is known.
        native: in this machine's byte order.
    """

    __slots__ = ("dtype", "native")
    class_name = "numpy.dtype"

    def __init__(self, dtype: np.dtype[Any]) -> None:
        super().__init__()
        self.dtype = dtype
        self.native = dtype.newbyteorder("=")

    def build(self, stream: PickleStream, state: Any) -> Any:
        if state[1] not in ("<", ">", "|", "=") or any(state[2:5]):
            self.built = make_placeholder(stream, "numpy.dtype", (self.dtype.str,))
        else:
            self.dtype = self.dtype.newbyteorder(state[1])
            self.built = self
        return self.built


class UnbuiltArray(Unbuilt):
    """An array whose shape, dtype and values are its state."""

    __slots__ = ()
    class_name = "numpy.ndarray"

    def build(self, stream: PickleStream, state: Any) -> Any:
        _, shape, dtype, fortran, values = state
        self.built = _read_array(stream, values, dtype, shape, "F" if fortran else "C")
        return self.built


def _read_array(stream: PickleStream, values: Any, dtype: Any, shape: Any, order: Any) -> Any:
    """Read an array, in this machine's byte order, from bytes or from their place in the file.

    One of another dtype (texts, objects, dates, complex numbers) becomes a placeholder.
    """
    if not isinstance(dtype, UnbuiltDtype):
        kind = dtype.arguments if isinstance(dtype, Placeholder) else ("?",)
        return make_placeholder(stream, "numpy.ndarray", kind[:1])
    check_shape(shape)
    needed = math.prod(shape) * dtype.dtype.itemsize
    longest = shortest = values.size if isinstance(values, LongText) else len(values)
    if isinstance(values, LongText) and values.encoding == "utf-8":
        shortest = (longest + 1) // 2  # a byte of 128 and more takes two
    if not shortest <= needed <= longest:
        raise Unreadable(
            f"is damaged: an array of shape {tuple(shape)} needs {needed} bytes, and {longest} are "
            f"there; {AGAIN}"
        )
    stream.budget.take(176 + needed)
    array = np.empty(tuple(shape), dtype.native, order="F" if order == "F" else "C")
    flat = array.reshape(-1, order="A")  # of the same memory
    _fill(stream, flat.view(np.uint8), values)
    if flat.dtype.kind == "b":
        np.not_equal(flat.view(np.uint8), 0, out=flat)  # a bool of 2 is undefined
    elif not dtype.dtype.isnative:
        flat.byteswap(inplace=True)
    return array


def _fill(stream: PickleStream, target: np.ndarray[Any, Any], values: Any) -> None:
    if not isinstance(values, LongText):
        known = values.encode("latin1") if isinstance(values, str) else values
        target[:] = np.frombuffer(known, np.uint8)
        return
    file = stream.file
    position = file.tell()
    file.seek(values.start)
    in_utf8 = values.encoding == "utf-8"
    filled = _fill_from_utf8(stream, target, values.size) if in_utf8 else file.readinto(target.data)
    if filled != len(target):
        raise Unreadable(f"is cut short; {AGAIN}")
    file.seek(position)


def _fill_from_utf8(stream: PickleStream, target: np.ndarray[Any, Any], size: int) -> int:
    """Fill an array from bytes that Python 3 wrote, in protocol 2, as the text of latin1."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    filled = 0
    while size:
        piece = read_exactly(stream.file, min(size, _PIECE))
        size -= len(piece)
        values = np.frombuffer(decoder.decode(piece, final=size == 0).encode("latin1"), np.uint8)
        target[filled : filled + len(values)] = values  # fails where the text is too long
        filled += len(values)
    return filled


def _make_dtype(
    stream: PickleStream, name: Any, align: Any = False, copy: Any = False
) -> UnbuiltDtype | Placeholder:
    text = name.decode("latin1") if isinstance(name, bytes) else name
    if not isinstance(text, str) or not _DTYPES.fullmatch(text):
        return make_placeholder(stream, "numpy.dtype", (name,))
    return UnbuiltDtype(np.dtype(text))


def _reconstruct(
    stream: PickleStream, kind: Any, shape: Any, code: Any
) -> UnbuiltArray | Placeholder:
    """Begin an array; one of a subclass becomes a placeholder."""
    name = kind.name if isinstance(kind, Name) else "?"
    return UnbuiltArray() if name == "numpy.ndarray" else make_placeholder(stream, name)


def _make_scalar(stream: PickleStream, dtype: Any, values: Any = b"") -> Any:
    found = _read_array(stream, values, dtype, (1,), "C")
    return found if isinstance(found, Placeholder) else found[0]


def _read_buffer(
    stream: PickleStream, values: Any, dtype: Any, shape: Any, order: Any, axes: Any = None
) -> Any:
    """Read an array of protocol 5, with its axes in another order since numpy 2.3."""
    array = _read_array(stream, values, dtype, shape, order)
    return array if axes is None or isinstance(array, Placeholder) else array.transpose(axes)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "multiarray._reconstruct": _reconstruct,
    "multiarray.scalar": _make_scalar,
    "numeric._frombuffer": _read_buffer,
}
NUMPY = admit(
    {
        "numpy.dtype": _make_dtype,
        **{f"numpy.core.{name}": function for name, function in _FUNCTIONS.items()},
        **{f"numpy._core.{name}": function for name, function in _FUNCTIONS.items()},
    }
)
"""The names that pickles of numpy's arrays call, under "_core" since numpy 2.0."""
