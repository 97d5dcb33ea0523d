"""Writing the safetensors format: a header's length (uint64), the header in JSON, and the tensors' values one after the other.

Source: the format's description in huggingface/safetensors.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import IO, Any

import torch
from torch import Tensor

from resnext_det.weights.safetensors import _DTYPES

_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_ALIGNMENT = 8


def write_safetensors(
    file: IO[bytes], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors by name, and texts by name, into a file that is open for writing.

    Values of wide types come first, so that every tensor is aligned; the header keeps the order in which they were given.

    Args:
        file: written from where it stands.
        tensors: dense, on any device.
        metadata: texts by name; they stand under ``__metadata__``.

    Raises:
        ValueError: a tensor is of a type that the format lacks, or has the name ``__metadata__``.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offsets, reached = {}, 0
    by_width = sorted(tensors, key=lambda name: -tensors[name].element_size())
    for name in by_width:
        if tensors[name].dtype not in _CODES:
            raise ValueError(
                f"{name} is of {tensors[name].dtype}, which safetensors files do not hold here; convert it to torch.float32"
            )
        offsets[name] = [reached, reached + tensors[name].nbytes]
        reached += tensors[name].nbytes
    for name, tensor in tensors.items():
        if name == "__metadata__":
            raise ValueError(
                f"a tensor is called {name!r}, which safetensors keeps for texts; rename it"
            )
        code, shape = _CODES[tensor.dtype], list(tensor.shape)
        header[name] = {"dtype": code, "shape": shape, "data_offsets": offsets[name]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    file.write(struct.pack("<Q", len(text)))
    file.write(text)
    for name in by_width:
        values = tensors[name].detach().cpu().contiguous().reshape(-1)
        file.write(values.view(torch.uint8).numpy().data)
