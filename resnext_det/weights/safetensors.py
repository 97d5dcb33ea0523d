"""Files of the safetensors format: a header's length (uint64), the header in JSON, and the tensors' values one after the other.

Source: the format's description in huggingface/safetensors.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnext_det.weights.limits import AGAIN, Unreadable, read_exactly, read_values

_LARGEST_HEADER = 2 << 20
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_safetensors(
    path: Path, *, mapped: bool = False
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file by name, and its metadata.

    Args:
        path: of the file.
        mapped: tensors are parts of the mapped file and take memory only where they are used. The file must then stay as it is as
            long as they live.

    Raises:
        Unreadable: the header is damaged or the file cut short; tensors overlap, leave gaps or have the same name.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", read_exactly(file, 8))
        if length > size - 8:
            raise Unreadable(
                f"is cut short: its header has {length} bytes, and {size - 8} are there; {AGAIN}"
            )
        if length > _LARGEST_HEADER:
            raise Unreadable(
                f"is refused: its header has {length} bytes; weights need less than {_LARGEST_HEADER}"
            )
        header = _parse(read_exactly(file, length))
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(
            isinstance(value, str) for value in metadata.values()
        ):
            raise Unreadable(
                f"is damaged: its metadata is {metadata!r:.60}, not texts by name; {AGAIN}"
            )
        places = _places(header, size - 8 - length)
        whole: Any = torch.UntypedStorage.from_file(str(path), False, size) if mapped else None
        tensors = {}
        for name, (dtype, shape, begin, end) in places.items():
            start = 8 + length + begin
            if whole is not None and end > begin and start % dtype.itemsize == 0:
                part = torch.empty(0, dtype=torch.uint8).set_(whole[start : start + end - begin])
                values = part.view(dtype)
            else:
                file.seek(start)
                values = torch.empty(math.prod(shape), dtype=dtype)
                read_values(file, values)
            tensors[name] = values.view(shape)
    return {name: tensors[name] for name in header}, metadata


def _parse(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_constant=_no_constant,
        )
    except Unreadable:
        raise
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"is damaged: its header is no JSON; {AGAIN}") from error
    if not isinstance(header, dict):
        raise Unreadable(f"is damaged: its header is no table of tensors; {AGAIN}")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Unreadable(f"is refused: its header has a name twice; {AGAIN}")
    return found


def _integer(text: str) -> int:
    if len(text) > 20:
        raise Unreadable(f"is damaged: its header has a number of {len(text)} digits; {AGAIN}")
    return int(text)


def _no_constant(text: str) -> Any:
    raise Unreadable(f"is damaged: its header has {text}; {AGAIN}")


def _places(
    header: Mapping[str, Any], available: int
) -> dict[str, tuple[torch.dtype, tuple[int, ...], int, int]]:
    """dtype, shape, begin and end of every tensor, in the order of the file: without a gap, to the end of the file."""
    places = {name: _place(name, described) for name, described in header.items()}
    reached = 0
    for name, (_, _, begin, end) in sorted(places.items(), key=lambda item: item[1][2:]):
        if begin != reached:
            raise Unreadable(
                f"is refused: its tensor {name!a:.80} overlaps another one or follows a gap; {AGAIN}"
            )
        reached = end
    if reached != available:
        problem = "is cut short" if reached > available else "is damaged"
        raise Unreadable(
            f"{problem}: its tensors have {reached} bytes, and {available} are there; {AGAIN}"
        )
    return places


def _place(name: str, described: Any) -> tuple[torch.dtype, tuple[int, ...], int, int]:
    if not isinstance(described, dict) or set(described) != {"dtype", "shape", "data_offsets"}:
        raise Unreadable(
            f"is damaged: its header describes {name!a:.80} by {described!r:.60}; {AGAIN}"
        )
    code, shape, offsets = described["dtype"], described["shape"], described["data_offsets"]
    if not isinstance(code, str) or code not in _DTYPES:
        raise Unreadable(
            f"is refused: its tensor {name!a:.80} is of dtype {code!r:.20}; {', '.join(_DTYPES)} are read"
        )
    numbers = [shape, offsets]
    if not all(
        isinstance(each, list) and all(type(item) is int and 0 <= item < 2**48 for item in each)
        for each in numbers
    ):
        raise Unreadable(
            f"is damaged: its tensor {name!a:.80} has the shape {shape!r:.60} at {offsets!r:.60}; {AGAIN}"
        )
    needed = math.prod(shape) * _DTYPES[code].itemsize
    if (
        len(shape) > 32
        or len(offsets) != 2
        or offsets[1] - offsets[0] != needed
        or math.prod(filter(None, shape)) > 2**48
    ):
        raise Unreadable(
            f"is damaged: its tensor {name!a:.80} of shape {shape!r:.60} lies at {offsets!r:.60}; {AGAIN}"
        )
    return _DTYPES[code], tuple(shape), offsets[0], offsets[1]
