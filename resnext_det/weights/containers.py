"""What kind of file weights come in, told by its contents and never by its name, and reading it."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

from resnext_det.weights.limits import AGAIN, Unreadable
from resnext_det.weights.pickles import read_plain_pickle
from resnext_det.weights.safetensors import read_safetensors
from resnext_det.weights.torch7 import read_torch7
from resnext_det.weights.torch_files import TORCH_LEGACY, read_torch_legacy, read_torch_zip

_PICKLE = re.compile(
    rb"\x80[\x02-\x05]"  # since protocol 2
    rb"|[\]}(]q[\x00-\x05]|\(.{0,3}(?:q[\x00-\x05]|U|X|r)"  # protocol 1
    rb"|\([dl](?:p\d+)?\n|\(l?p\d+\n|c[A-Za-z_][\w.]*\n[A-Za-z_]\w*\n",  # protocol 0
    re.DOTALL,
)
_TORCH_7 = re.compile(rb"[\x03\x04]\0\0\0\x01\0\0\0", re.DOTALL)

# How other files begin, what they are, and what to do with them.
_OTHERS = (
    (
        rb"\x89HDF\r\n\x1a\n",
        "is an HDF5 file (Keras, TensorFlow)",
        "give the weights in one of PyTorch's formats",
    ),
    (
        rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!",
        "is compressed",
        "unpack it and give the file in it",
    ),
    (rb"PK\x05\x06", "is an empty zip archive", AGAIN),
    (rb"\x08[\x01-\x14](?:\x12.|:)", "is an ONNX network", "give the weights that it was exported from"),
    (rb"\x93NUMPY", "is a single array of numpy", "save tensors by name with torch.save"),
    (
        rb"version https://git-lfs",
        "is a pointer of Git LFS, not the file",
        "fetch the file with git lfs pull",
    ),
    (
        rb"\s*<(?:!DOCTYPE|html|\?xml|Error)",
        "is a web page, not weights",
        "download the file itself, its raw contents",
    ),
    (rb"\x7fELF|MZ|#!", "is a program", "give a file of weights"),
    (
        rb"[34]\n\d+\n",
        "is a Torch 7 file in ASCII",
        "save it in Torch 7 with torch.save(name, object, 'binary')",
    ),
    (rb"\s*[\[{]", "is text (JSON?)", "give a file of weights"),
)


def read_container(path: str | Path, *, mapped: bool = False) -> tuple[str, Any]:
    """What a file of weights is, and what it holds: plain data with tensors or numpy arrays in it.

    Nothing that a file names is imported or called, and memory stays below twice the file plus 64 MiB.

    Args:
        path: of the file; its suffix says nothing.
        mapped: tensors of ``torch zip`` and ``safetensors`` are parts of the mapped file and take memory only where they are used.
            The file must then stay as it is as long as they live: copy them before you write it.

    Returns:
        ``torch zip`` or ``torch legacy`` (before torch 1.6) and what was given to ``torch.save``, parameters as plain tensors;
        ``pickle`` and its contents, numpy arrays as such; ``safetensors`` and {"state_dict": tensors by name, "__metadata__": texts
        by name}; ``torch7`` and its object (see ``read_torch7``).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of another format, damaged, cut short, or asks for what is no weights; the text says which, and what
            to do.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give a file of weights in it")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; give the path of a file of weights")
    with path.open("rb") as file:
        kind = _kind(path, file.read(512), path.stat().st_size)
    try:
        if kind == "torch zip":
            return kind, read_torch_zip(path, mapped=mapped)
        if kind == "torch legacy":
            return kind, read_torch_legacy(path)
        if kind == "safetensors":
            tensors, metadata = read_safetensors(path, mapped=mapped)
            return kind, {"state_dict": tensors, "__metadata__": metadata}
    except Unreadable as error:
        raise ValueError(f"{path} {error}") from error.__cause__
    return kind, read_torch7(path) if kind == "torch7" else read_plain_pickle(path)


def _kind(path: Path, head: bytes, size: int) -> str:
    if not head:
        raise ValueError(f"{path} is empty; {AGAIN}")
    if head.startswith(b"PK\x03\x04"):
        return "torch zip"
    if TORCH_LEGACY.match(head):
        return "torch legacy"
    if _TORCH_7.match(head):
        return "torch7"
    if len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 2**40:
        return "safetensors"
    if _PICKLE.match(head):
        return "pickle"
    if head[257:262] == b"ustar":
        raise ValueError(
            f"{path} is a tar archive; unpack it and give the file in it (torch before 0.1.12 saved such: save it again)"
        )
    for pattern, what, remedy in _OTHERS:
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            raise ValueError(f"{path} {what}; {remedy}")
    raise ValueError(
        f"{path} is of no known format (it begins with {head[:8]!r}), or damaged; give a file of torch.save, safetensors, detectron2's "
        ".pkl or Torch 7"
    )
