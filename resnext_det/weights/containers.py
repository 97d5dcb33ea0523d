"""Find out what kind of file weights are in, from its contents alone, and read it."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from resnext_det.weights.limits import AGAIN, Unreadable
from resnext_det.weights.safetensors import read_safetensors
from resnext_det.weights.torch7 import read_torch7
from resnext_det.weights.unpickling.pickle_files import (
    TORCH_LEGACY,
    read_plain_pickle,
    read_torch_legacy,
    read_torch_zip,
)

_PICKLE = re.compile(
    rb"\x80[\x02-\x05]"  # since protocol 2
    rb"|[\]}(]q[\x00-\x05]|\(.{0,3}(?:q[\x00-\x05]|U|X|r)"  # protocol 1
    rb"|\([dl](?:p\d+)?\n|\(l?p\d+\n|c[A-Za-z_][\w.]*\n[A-Za-z_]\w*\n",  # protocol 0
    re.DOTALL,
)
_TORCH_7 = re.compile(rb"[\x03\x04]\0\0\0\x01\0\0\0", re.DOTALL)

# How other files begin, what they are, and what to do with them.
_OTHERS = (
    (rb"\x89HDF\r\n\x1a\n", "is an HDF5 file (Keras, TensorFlow)", "give PyTorch's weights"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!", "is compressed", "unpack it"),
    (rb"PK\x05\x06", "is an empty zip archive", AGAIN),
    (rb"\x08[\x01-\x14](?:\x12.|:)", "is an ONNX network", "give the weights it was made from"),
    (rb"\x93NUMPY", "is a single array of numpy", "save tensors by name with torch.save"),
    (rb"version https://git-lfs", "is a pointer of Git LFS", "fetch the file with git lfs pull"),
    (rb"\s*<(?:!DOCTYPE|html|\?xml|Error)", "is a web page, not weights", "get the file itself"),
    (rb"\x7fELF|MZ|#!", "is a program", "give a file of weights"),
    (rb"[34]\n\d+\n", "is a Torch 7 file in ASCII", "save it as 'binary' in Torch 7"),
    (rb"\s*[\[{]", "is text (JSON?)", "give a file of weights"),
    (
        rb"(?:\s|#[^\n]*\n)*[a-z0-9_]+:\s",
        "is text (a configuration in YAML?)",
        "give a file of weights, and a configuration as --config-file, or to load_config",
    ),
)

# Under which names checkpoints hold weights. Averaged ones come first, as in timm and torchvision,
# which evaluate those.
_ENVELOPES: tuple[str, ...] = ("state_dict_ema", "model_ema", "model", "state_dict", "model_state")
_ENVELOPES += ("model_state_dict", "ema_state_dict", "ema_state", "ema", "network", "blobs")
_DEEPEST = 4
_LONGEST_NOTE = 1 << 20


def read_container(path: str | Path, *, mapped: bool = False) -> tuple[str, Any]:
    """Read a file of weights or a checkpoint: plain data with tensors or numpy arrays in it.

    Nothing that a file names is imported or called, and memory stays below twice the file plus
    64 MiB.

    Args:
        path: of the file; its suffix says nothing.
        mapped: leave the tensors of ``torch zip`` and ``safetensors`` in the mapped file, where
            they take memory only as they are used. The file must then stay as it is as long as
            they live: copy them before you write it.

    Returns:
        The kind of the file, and its contents:
        ``torch zip`` or ``torch legacy`` (before torch 1.6): what was given to ``torch.save``, with
        parameters as plain tensors;
        ``pickle``: its object, with numpy arrays as such;
        ``safetensors``: {"state_dict": tensors by name, "__metadata__": texts by name};
        ``torch7``: its object (see ``read_torch7``).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of another format, damaged, cut short, or asks for what is neither
            a tensor nor plain data; the text says which, and what to do.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give a file of weights in it")
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there; give the path of a file of weights (MODEL.WEIGHTS, in a "
            "configuration)"
        )
    with path.open("rb") as file:
        kind = _find_kind(path, file.read(512))
    if kind == "pickle":
        return kind, read_plain_pickle(path)
    try:
        if kind == "torch zip":
            return kind, read_torch_zip(path, mapped=mapped)
        if kind == "torch legacy":
            return kind, read_torch_legacy(path)
        if kind == "torch7":
            return kind, read_torch7(path)
        tensors, metadata = read_safetensors(path, mapped=mapped)
        return kind, {"state_dict": tensors, "__metadata__": metadata}
    except Unreadable as error:
        raise ValueError(f"{path} {error}") from error.__cause__


def _find_kind(path: Path, head: bytes) -> str:
    """Tell the kind of a file from its first bytes, or say what else it is in a ValueError."""
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
            f"{path} is a tar archive; unpack it and give the file in it (torch before 0.1.12 "
            "saved such: save it again)"
        )
    for pattern, what, remedy in _OTHERS:
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            raise ValueError(f"{path} {what}; {remedy}")
    raise ValueError(
        f"{path} is of no known format (it begins with {head[:8]!r}), or damaged; give a file of "
        "torch.save, safetensors, detectron2's .pkl or Torch 7"
    )


class Contents(NamedTuple):
    """The weights in a file, and what stands beside them.

    Attributes:
        state: the weights by the file's names, on the CPU.
        beside: what stands beside them: author, meta data, configuration.
        envelope: the name under which the weights stood; "" where they stood alone.
    """

    state: dict[str, Tensor]
    beside: dict[str, Any]
    envelope: str


def unpack_weights(contents: Any) -> Contents:
    """Take the weights out of a checkpoint, as tensors.

    Raises:
        ValueError: there are no tensors or arrays by name.
    """
    beside: dict[str, Any] = {}
    envelope = ""
    for _ in range(_DEEPEST):
        inner = _find_envelope(contents)
        if inner is None:
            break
        beside = {**{key: value for key, value in contents.items() if key != inner}, **beside}
        contents, envelope = contents[inner], inner
    if isinstance(beside.get("__metadata__"), dict):  # of safetensors, where every value is a text
        beside |= {key: _parse_note(text) for key, text in beside.pop("__metadata__").items()}
    if not isinstance(contents, dict) or not contents:
        what = "nothing" if contents == {} else _describe(contents)
        raise ValueError(
            f"there is {what}, where tensors by name are needed; save a model's state_dict()"
        )
    state = {_check_name(name): _make_tensor(name, value) for name, value in contents.items()}
    return Contents(state, beside, envelope)


def _find_envelope(contents: Any) -> str | None:
    if not isinstance(contents, dict):
        return None
    found = [name for name in _ENVELOPES if isinstance(contents.get(name), dict) and contents[name]]
    if {"model_state", "ema_state"} <= set(found):  # pycls takes the better of the two
        errors = [contents.get(name) for name in ("test_err", "ema_err")]
        best, ema = (error if isinstance(error, int | float) else 100 for error in errors)
        return "model_state" if best <= ema else "ema_state"
    return found[0] if found else None


def _parse_note(text: str) -> Any:
    if text[:1] not in ("{", "[", '"') or len(text) > _LONGEST_NOTE:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _check_name(name: Any) -> str:
    if not isinstance(name, str):
        raise ValueError(
            f"there is {_describe(name)} as a name of a tensor; save a model's state_dict()"
        )
    return name


def _make_tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return torch.from_numpy(np.ascontiguousarray(value).reshape(value.shape))
    raise ValueError(
        f"there is {_describe(value)} under {name!a:.80}, where a tensor is needed; save a model's "
        "state_dict(), bare or under 'model' or 'state_dict'"
    )


def _describe(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
