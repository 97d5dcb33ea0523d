"""Find out what kind of file weights are in, from its contents alone, and read it."""

from __future__ import annotations

import functools
import json
import re
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from resnext_det.files import list_first
from resnext_det.weights.limits import AGAIN, Unreadable
from resnext_det.weights.safetensors import read_safetensors
from resnext_det.weights.torch7 import read_torch7
from resnext_det.weights.unpickling.descriptions import (
    describe_object,
    is_module,
    is_tensor_form,
    suggest_saving,
)
from resnext_det.weights.unpickling.pickle_files import (
    TORCH_LEGACY,
    find_damaged_entries,
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
_ENVELOPES += ("trunk",)  # of Classy Vision, beside "heads"
_NO_NETWORK = re.compile("optim|sched|scaler|rng|random", re.IGNORECASE)
_OF_A_WEIGHT = re.compile(r"(?:^|\.)(?:weight|bias|running_mean|running_var)$|_[wb]$")
_DEEPEST = 4
_LONGEST_WORD = 100
_MOST_NETWORKS = 16
_MOST_NAMES = 100_000
_LONGEST_NOTE = 1 << 20


def read_container(path: str | Path, *, mapped: bool = False) -> tuple[str, Any]:
    """Read a file of weights or a checkpoint: plain data with tensors or numpy arrays in it.

    Nothing that a file names is imported or called, and memory stays below twice the file plus
    64 MiB.

    Args:
        path: of the file; its suffix says nothing.
        mapped: leave the tensors of ``torch zip`` and ``safetensors`` in the mapped file, where
            they take memory only as they are used. The file must then stay as it is as long as
            they live: copy them before you write it. On Windows, which lets nobody replace a
            mapped file, they are read all the same.

    Returns:
        The kind of the file, and its contents:
        ``torch zip`` or ``torch legacy`` (before torch 1.6): what was given to ``torch.save``, with
        parameters as plain tensors, and ``Placeholder`` for what is neither a tensor nor plain data
        (see ``read_plain_pickle``);
        ``pickle``: its object, with numpy arrays as such;
        ``safetensors``: {"state_dict": tensors by name, "__metadata__": texts by name};
        ``torch7``: its object (see ``read_torch7``).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of another format, damaged or cut short, or takes too much memory;
            the text says which, and what to do.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give a file of weights in it")
    mapped = mapped and sys.platform != "win32"
    if not path.is_file() and path.exists():
        raise ValueError(f"{path} is a pipe, socket or device; give a file of weights")
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


def find_damage(path: str | Path) -> str | None:
    """Say what of a file that is read is not what its own checksums say; None where all is.

    Of the files that are read only zip archives of ``torch.save`` have checksums. A file that has
    not changed is looked through once.

    Raises:
        ValueError: as ``read_container``, of a file that is no container or no whole archive.
    """
    path = Path(path)
    written = path.stat()
    stamp = (written.st_dev, written.st_ino, written.st_size, written.st_mtime_ns)
    return _compare_checksums(path, stamp)


@functools.lru_cache(maxsize=64)
def _compare_checksums(path: Path, stamp: tuple[int, ...]) -> str | None:
    """Do what ``find_damage`` says; ``stamp`` tells one content of a file from another."""
    with path.open("rb") as file:
        if _find_kind(path, file.read(512)) != "torch zip":
            return None
    try:
        damaged = [ascii(name)[1:-1][:80] for name in find_damaged_entries(path)]
    except Unreadable as error:
        raise ValueError(f"{path} {error}") from error.__cause__
    if not damaged:
        return None
    return (
        f"damaged: {len(damaged)} entries are not what their checksums say "
        f"({list_first(damaged, 3)}); {AGAIN}"
    )


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
        left_out: names among the weights that hold no weights: None, a version, a step, a module's
            ``_extra_state``.
        passed_over: words under which other networks of the file stand, which are not read.
    """

    state: dict[str, Tensor]
    beside: dict[str, Any]
    envelope: str
    left_out: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()


def unpack_weights(contents: Any, path: str | Path = "FILE") -> Contents:
    """Take the weights out of a checkpoint, as tensors.

    They stand under one of the usual words, or under whatever word has the only tensors by name.
    Several networks under words of their own come back together, with the words before their names.

    Args:
        contents: as ``read_container`` gives them.
        path: of the file, for what an error advises.

    Raises:
        ValueError: there are no tensors or arrays by name, or something else under a weight's name.
    """
    beside: dict[str, Any] = {}
    envelope = ""
    passed_over: list[str] = []
    for _ in range(_DEEPEST):
        inner = _find_envelope(contents)
        if inner is None:
            break
        passed_over += _list_copies(contents, inner)
        beside = {**{key: value for key, value in contents.items() if key != inner}, **beside}
        contents, envelope = contents[inner], inner
    if isinstance(beside.get("__metadata__"), dict):  # of safetensors, where every value is a text
        beside |= {key: _parse_note(text) for key, text in beside.pop("__metadata__").items()}
    if not isinstance(contents, dict) or not contents:
        is_empty = type(contents) is dict and not contents
        what = "nothing" if is_empty else describe_object(contents)
        raise ValueError(
            f"there is {what}, where tensors by name are needed; {suggest_saving(contents, path)}"
        )
    if _is_of_optimizer_alone(contents):
        raise ValueError(
            "there is an optimizer's state and no network's; save the model's: "
            "torch.save(model.state_dict(), 'weights.pth')"
        )
    if not _has_weights(contents):
        networks = _list_networks(contents, depth=0)
        if len(networks) > 1:
            beside = {**{key: contents[key] for key in contents if key not in networks}, **beside}
            contents = {
                f"{name}.{key}": value for name in networks for key, value in contents[name].items()
            }
    sorted_out = _sort_entries(contents, beside, envelope, path)
    return sorted_out._replace(passed_over=tuple(passed_over))


def _is_of_optimizer_alone(contents: dict[Any, Any]) -> bool:
    """Tell whether a checkpoint has an optimizer's state and no weights."""
    optimizers = [each for each in (contents, *contents.values()) if isinstance(each, dict)]
    return (
        any("param_groups" in each for each in optimizers)
        and not _has_weights(contents)
        and not _list_networks(contents, depth=_DEEPEST)
    )


def _sort_entries(
    contents: dict[Any, Any], beside: dict[str, Any], envelope: str, path: str | Path
) -> Contents:
    """Tell tensors from what else stands under names; see ``unpack_weights``."""
    state: dict[str, Tensor] = {}
    others: dict[Any, Any] = {}
    for name, value in contents.items():
        is_number = isinstance(value, Tensor | np.ndarray | np.generic)
        if is_number and isinstance(name, str) and (value.ndim or "." in name):
            state[name] = _make_tensor(value)
        else:
            others[name] = value
    # Where there are no tensors at all, the cause is first of all what stands for a whole model.
    for name in others if state else sorted(others, key=lambda name: not is_module(others[name])):
        value = others[name]
        of_a_weight = isinstance(name, str) and _OF_A_WEIGHT.search(name)
        if not state or (of_a_weight and value is not None) or is_tensor_form(value):
            where = f"{ascii(envelope)[1:-1]:.40}[{name!a:.80}]" if envelope else f"{name!a:.80}"
            raise ValueError(
                f"{where} is {describe_object(value)}, where a tensor is needed; "
                f"{suggest_saving(value, path)}"
            )
    return Contents(state, beside, envelope, tuple(f"{name!s:.80}" for name in others))


def _find_envelope(contents: Any) -> str | None:
    if not isinstance(contents, dict):
        return None
    words = [word for word in _ENVELOPES if isinstance(contents.get(word), dict) and contents[word]]
    networks = _list_networks(contents, depth=_DEEPEST)
    found = [word for word in words if word in networks]
    if {"model_state", "ema_state"} <= set(found):  # pycls takes the better of the two
        errors = [contents.get(name) for name in ("test_err", "ema_err")]
        best, ema = (error if isinstance(error, int | float) else 100 for error in errors)
        return "model_state" if best <= ema else "ema_state"
    if not found and len(networks) == 1 and not _has_weights(contents):
        return networks[0]
    return next(iter(found or ([] if len(networks) > 1 else words)), None)


def _list_copies(contents: Mapping[Any, Any], chosen: str) -> list[str]:
    """List the words of other networks beside the chosen one; a head's few weights are none."""
    least = len(contents[chosen]) // 2
    return [
        name
        for name in _list_networks(contents, depth=_DEEPEST)
        if name != chosen and (name in _ENVELOPES or len(contents[name]) >= least)
    ]


def _list_networks(contents: Mapping[Any, Any], depth: int) -> list[str]:
    """List the words under which there are weights, at most so many dicts deep.

    Where there are very many, or very many names under them, none is listed.
    """
    known: dict[tuple[int, int], bool] = {}

    def holds_weights(name: Any, value: Any, left: int) -> bool:
        of_network = isinstance(name, str) and len(name) <= _LONGEST_WORD
        if not isinstance(value, dict) or not of_network or _NO_NETWORK.search(name):
            return False
        place = (id(value), left)  # what is referred to many times is looked through once
        if place not in known:
            known[place] = _has_weights(value) or (
                left > 0 and any(holds_weights(*item, left - 1) for item in value.items())
            )
        return known[place]

    found = [name for name, value in contents.items() if holds_weights(name, value, depth)]
    many = len(found) > _MOST_NETWORKS or sum(len(contents[name]) for name in found) > _MOST_NAMES
    return [name for name in found if name in _ENVELOPES] if many else found


def _has_weights(contents: Any) -> bool:
    """Tell whether there are tensors by name that could be a convolution's."""
    return isinstance(contents, dict) and any(
        isinstance(name, str) and isinstance(value, Tensor | np.ndarray) and value.ndim > 1
        for name, value in contents.items()
    )


def _parse_note(text: str) -> Any:
    if text[:1] not in ("{", "[", '"') or len(text) > _LONGEST_NOTE:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _make_tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    return torch.from_numpy(np.ascontiguousarray(value).reshape(value.shape))
