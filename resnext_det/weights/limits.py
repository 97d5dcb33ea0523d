"""What every reader of weight files checks before it takes memory: how much there is, and where a tensor's values lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BufferedReader

import torch
from torch import Tensor

_SLACK = 64 << 20
_MOST_DIMENSIONS = 32
_LARGEST = 2**62
AGAIN = "copy or download the file again"


class Unreadable(ValueError):
    """A file is refused, damaged or cut short. The text follows the file's name: "is cut short; copy or download the file again"."""


class Budget:
    """Memory that the contents of a file may take: twice the file and 64 MiB.

    What is freed in between is not given back, so it is an upper bound.
    """

    def __init__(self, file_size: int) -> None:
        self.left = 2 * file_size + _SLACK

    def take(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise Unreadable(
                "is refused: its contents would take more than twice its size in memory, which no weights do"
            )


def read_exactly(file: BufferedReader, size: int) -> bytes:
    """Few bytes from where a file stands."""
    taken = file.read(size)
    if len(taken) != size:
        raise Unreadable(f"is cut short; {AGAIN}")
    return taken


def read_values(file: BufferedReader, values: Tensor) -> None:
    """Fill a flat tensor, in little-endian bytes, from where a file stands."""
    if len(values) and file.readinto(values.view(torch.uint8).numpy().data) != values.nbytes:
        raise Unreadable(f"is cut short; {AGAIN}")


def view_of(values: Tensor, offset: int, sizes: Sequence[int], strides: Sequence[int]) -> Tensor:
    """A tensor over a part of flat values, as ``torch.as_strided``, but checked.

    Raises:
        Unreadable: the sizes reach beyond the values, or the tensor would have more elements than they.
    """
    numbers = (offset, *sizes, *strides)
    if not all(type(number) is int and 0 <= number < _LARGEST for number in numbers) or not (
        len(sizes) == len(strides) <= _MOST_DIMENSIONS
    ):
        raise Unreadable(
            f"is damaged: a tensor has sizes {tuple(sizes)!r:.80} and strides {tuple(strides)!r:.80}; {AGAIN}"
        )
    elements = math.prod(sizes)
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides))
    if elements > len(values) > last:
        raise Unreadable(
            f"is refused: a tensor of sizes {tuple(sizes)!r:.80} has only {len(values)} values, by strides of 0; save its clone()"
        )
    if elements and last >= len(values):
        raise Unreadable(
            f"is damaged: a tensor of sizes {tuple(sizes)!r:.80} and strides {tuple(strides)!r:.80} at {offset} reaches beyond its "
            f"{len(values)} values; {AGAIN}"
        )
    if not elements:
        if math.prod(size for size in sizes if size) > 2**40:
            raise Unreadable(f"is damaged: an empty tensor has sizes {tuple(sizes)!r:.80}; {AGAIN}")
        return values.new_empty(tuple(sizes))
    return values.as_strided(tuple(sizes), tuple(strides), offset)
