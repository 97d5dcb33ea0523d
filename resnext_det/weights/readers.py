"""Reading weight files. No file that a user brings runs code: tensors and plain data only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_ENVELOPES = ("model", "state_dict", "model_state")


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a ``.pth`` file by name, on the CPU; ``model`` or ``state_dict`` around them is taken off.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds no tensors by name, or asks for code.
    """
    path = Path(path)
    if "://" in str(path) or str(path).startswith(("http:", "https:", "detectron2:")):
        raise ValueError(
            f"MODEL.WEIGHTS = {path} is an address, and nothing is downloaded; download it yourself and give the file's path"
        )
    if not path.is_file():
        raise FileNotFoundError(f"weights {path} do not exist; give the path of a file in MODEL.WEIGHTS")
    try:
        contents: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0][:200]
        raise ValueError(
            f"weights {path} are not read: they are damaged, no file of torch.save, or ask for code beyond tensors and plain data "
            f"({type(error).__name__}: {reason}); fetch the file again, or save a plain dict of tensors"
        ) from error
    for name in _ENVELOPES:
        if isinstance(contents, dict) and isinstance(contents.get(name), dict):
            contents = contents[name]
    if (
        not isinstance(contents, dict)
        or not contents
        or not all(isinstance(value, Tensor) for value in contents.values())
    ):
        raise ValueError(
            f"weights {path} hold no tensors by name, but a {type(contents).__name__}; give a state dict, bare or under 'model' or "
            "'state_dict'"
        )
    return {str(name).removeprefix("module."): value for name, value in contents.items()}
