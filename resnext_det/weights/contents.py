"""The weights in what a file holds, and what stands beside them there."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

# Under which names checkpoints hold weights. Averaged ones come first, as in timm and torchvision, which evaluate those.
_ENVELOPES: tuple[str, ...] = ("state_dict_ema", "model_ema", "model", "state_dict", "model_state")
_ENVELOPES += ("model_state_dict", "ema_state_dict", "ema_state", "ema", "network", "blobs")
_DEEPEST = 4
_LONGEST_NOTE = 1 << 20


class Contents(NamedTuple):
    """What a file holds.

    Attributes:
        state: the weights by the file's names, on the CPU.
        beside: what stands beside them: author, meta data, configuration.
        envelope: the name under which the weights stood; "" where they stood alone.
    """

    state: dict[str, Tensor]
    beside: dict[str, Any]
    envelope: str


def unpacked(contents: Any) -> Contents:
    """The weights out of a checkpoint, as tensors.

    Raises:
        ValueError: there are no tensors or arrays by name.
    """
    beside: dict[str, Any] = {}
    envelope = ""
    for _ in range(_DEEPEST):
        inner = _envelope(contents)
        if inner is None:
            break
        beside = {**{key: value for key, value in contents.items() if key != inner}, **beside}
        contents, envelope = contents[inner], inner
    if isinstance(beside.get("__metadata__"), dict):  # of safetensors, where every value is a text
        beside |= {key: _parsed(text) for key, text in beside.pop("__metadata__").items()}
    if not isinstance(contents, dict) or not contents:
        what = "nothing" if contents == {} else _kind(contents)
        raise ValueError(f"there is {what}, where tensors by name are needed; save a model's state_dict()")
    return Contents(
        {_checked(name): _tensor(name, value) for name, value in contents.items()}, beside, envelope
    )


def _envelope(contents: Any) -> str | None:
    if not isinstance(contents, dict):
        return None
    found = [name for name in _ENVELOPES if isinstance(contents.get(name), dict) and contents[name]]
    if {"model_state", "ema_state"} <= set(found):  # pycls takes the better of the two
        errors = [contents.get(name) for name in ("test_err", "ema_err")]
        best, ema = (error if isinstance(error, int | float) else 100 for error in errors)
        return "model_state" if best <= ema else "ema_state"
    return found[0] if found else None


def _parsed(text: str) -> Any:
    if text[:1] not in ("{", "[", '"') or len(text) > _LONGEST_NOTE:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _checked(name: Any) -> str:
    if not isinstance(name, str):
        raise ValueError(f"there is {_kind(name)} as a name of a tensor; save a model's state_dict()")
    return name


def _tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return torch.from_numpy(np.ascontiguousarray(value).reshape(value.shape))
    raise ValueError(
        f"there is {_kind(value)} under {name!a:.80}, where a tensor is needed; save a model's state_dict(), bare or under "
        "'model' or 'state_dict'"
    )


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
