"""Files of the safetensors format, read and written by the package of that name."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import safetensors.torch
from torch import Tensor

from resnext_det.weights.limits import AGAIN, DTYPES, Unreadable, check_shape, read_exactly

_LARGEST_HEADER = 3 << 19


def read_safetensors(
    path: Path, *, mapped: bool = False
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors of a safetensors file by name, in the header's order, and its metadata.

    Args:
        path: of the file.
        mapped: see ``read_container``.

    Raises:
        Unreadable: the file is cut short or damaged, has a name twice, or holds another dtype than
            weights have.
    """
    text = _read_header(path)
    tensors = {}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            # of two equal names the package takes the last; it has checked the numbers
            header = json.loads(
                text, object_pairs_hook=_refuse_repeated, parse_int=str, parse_float=str
            )
            for name in header:
                if name == "__metadata__":
                    continue
                tensor = file.get_tensor(name)
                if tensor.dtype not in DTYPES.values():
                    raise Unreadable(
                        f"is refused: its tensor {name!a:.80} is of {tensor.dtype}; save it as "
                        "torch.float32"
                    )
                check_shape(tensor.shape)
                unaligned = tensor.data_ptr() % tensor.element_size()
                tensors[name] = tensor if mapped and not unaligned else tensor.clone()
            return tensors, file.metadata() or {}
    except (safetensors.SafetensorError, RuntimeError, AttributeError) as error:
        raise Unreadable(
            f"is damaged or cut short, as a safetensors file: {ascii(str(error))[1:-1]:.200}; "
            f"{AGAIN}"
        ) from error


def _read_header(path: Path) -> bytes:
    """Read the header of a file, the JSON text at its start, unless it is too large."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", read_exactly(file, 8))
        if length > _LARGEST_HEADER:
            raise Unreadable(
                f"is refused: its header has {length} bytes, and weights need less than "
                f"{_LARGEST_HEADER}; {AGAIN}"
            )
        return read_exactly(file, length)


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Unreadable(f"is refused: its header has a name twice; {AGAIN}")
    return found


def write_safetensors(
    file: IO[bytes], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors by name, and texts by name, as a safetensors file.

    Args:
        file: open for writing bytes, at its start.
        tensors: dense, on any device.
        metadata: texts, which stand in the header under ``__metadata__``.

    Raises:
        ValueError: a tensor is of a type that the format lacks, or has the name ``__metadata__``.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES.values():
            raise ValueError(
                f"{name} is of {tensor.dtype}, which safetensors files do not hold here; convert "
                "it to torch.float32"
            )
        if name == "__metadata__":
            raise ValueError(
                f"a tensor is called {name!r}, which safetensors keeps for texts; rename it"
            )
    # copies: the package refuses tensors that share memory
    copies = {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()
    }
    data = memoryview(safetensors.torch.save(copies, dict(metadata) if metadata else None))
    (length,) = struct.unpack("<Q", data[:8])
    # the package orders the texts anew in every run; the same weights shall give the same file
    header = json.loads(bytes(data[8 : 8 + length]))
    if metadata:
        header["__metadata__"] = dict(metadata)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    file.write(data[8 + length :])
