"""Checks that the readers of weight files share, made before memory is taken."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from io import BufferedReader
from itertools import islice
from typing import Any

import torch
from torch import Tensor

_SLACK = 63 << 20  # and 1 MiB is for the reader itself
MOST_DIMENSIONS = 32
_MOST_ELEMENTS = 2**48
_SHOWN = 8
AGAIN = "copy or download the file again"

DTYPES = {
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
"""The dtypes of the tensors that are read, by torch's old names."""


class Unreadable(ValueError):
    """A file is refused, damaged or cut short.

    The text follows the file's name: "is cut short; copy or download the file again".
    """


class Budget:
    """The memory that the contents of a file may take: twice the file's size and 64 MiB.

    What is freed while reading is not given back, so the real peak is lower.
    """

    def __init__(self, file_size: int) -> None:
        self.left = 2 * file_size + _SLACK

    def take(self, size: int) -> None:
        """Count memory that the contents keep."""
        self.left -= size
        if self.left < 0:
            self._refuse()

    def check(self, size: int) -> None:
        """Refuse memory that there is no room for, without counting it: it is freed at once."""
        if size > self.left:
            self._refuse()

    def _refuse(self) -> None:
        raise Unreadable(
            "is refused: its contents would take more than twice its size in memory, which no "
            "weights do"
        )


def read_exactly(file: BufferedReader, size: int) -> bytes:
    """Read exactly `size` bytes."""
    taken = file.read(size)
    if len(taken) != size:
        raise Unreadable(f"is cut short; {AGAIN}")
    return taken


def read_values(file: BufferedReader, values: Tensor) -> None:
    """Fill a flat tensor from the little-endian bytes that follow in a file."""
    if len(values) and file.readinto(values.view(torch.uint8).numpy().data) != values.nbytes:
        raise Unreadable(f"is cut short; {AGAIN}")


def check_shape(shape: Sequence[int]) -> None:
    """Refuse a shape that no weights have, even where a 0 makes it empty."""
    if not (
        len(shape) <= MOST_DIMENSIONS
        and all(type(size) is int and size >= 0 for size in shape)
        and math.prod(filter(None, shape)) <= _MOST_ELEMENTS
    ):
        raise Unreadable(f"is damaged: a tensor has the shape {show_numbers(shape)}; {AGAIN}")


def show_numbers(numbers: Iterable[Any]) -> str:
    """Show the first few numbers; what else stands among them could be long, or be endless."""
    shown = (
        str(each) if type(each) is int and each.bit_length() < 64 else type(each).__name__
        for each in islice(numbers, _SHOWN)
    )
    return f"({', '.join(shown)})"


def view_values(
    values: Tensor, offset: int, sizes: Sequence[int], strides: Sequence[int]
) -> Tensor:
    """View a part of flat values as a tensor, as ``torch.as_strided`` does, but checked.

    Raises:
        Unreadable: the tensor reaches beyond the values or has more elements than they.
    """
    check_shape(sizes)
    place = (offset, *strides)
    if len(sizes) != len(strides) or not all(
        type(number) is int and 0 <= number < 2**62 for number in place
    ):
        raise Unreadable(
            f"is damaged: a tensor has strides {show_numbers(strides)} at "
            f"{show_numbers([offset])}; {AGAIN}"
        )
    elements = math.prod(sizes)
    if not elements:
        return values.new_empty(tuple(sizes))
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides))
    if last >= len(values):
        raise Unreadable(
            f"is damaged: a tensor of sizes {show_numbers(sizes)} and strides "
            f"{show_numbers(strides)} at {offset} reaches beyond its {len(values)} values; {AGAIN}"
        )
    if elements > len(values):
        raise Unreadable(
            f"is refused: a tensor of sizes {show_numbers(sizes)} has only {len(values)} values, "
            "by strides of 0; save its clone()"
        )
    return values.as_strided(tuple(sizes), tuple(strides), offset)
