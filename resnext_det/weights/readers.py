"""Reading weight files. No file that a user brings runs code: tensors and plain data only."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_ENVELOPES = ("model", "state_dict", "model_state")
_ADDRESSES = ("http:", "https:", "detectron2:", "catalog:", "s3:", "hdfs:", "manifold:")


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a ``.pth`` file by name, on the CPU.

    What surrounds them in a checkpoint (``model``, ``state_dict``, ``model_state``) and the ``module.`` of a model that was trained by
    several processes are taken off.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds no tensors by name, or asks for code.
    """
    if str(path).startswith(_ADDRESSES):
        raise ValueError(
            f"MODEL.WEIGHTS = {path} is an address, and nothing is downloaded; download it yourself and give the file's path"
        )
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"weights {path} are not there; give the path of a file in MODEL.WEIGHTS")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols: the error says enough
            contents: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises some six kinds
        raise ValueError(f"weights {path} {_why_unreadable(path, error)}") from error
    for name in _ENVELOPES:
        if isinstance(contents, dict) and isinstance(contents.get(name), dict):
            contents = contents[name]
    if not isinstance(contents, dict) or not contents:
        raise ValueError(
            f"weights {path} hold {type(contents).__name__} {str(contents)[:60]!r}, not tensors by name; save a model's state_dict()"
        )
    for name, value in contents.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"weights {path} hold {type(value).__name__} under {name!r}, where a tensor under a name is needed; save a model's "
                "state_dict(), bare or under 'model' or 'state_dict'"
            )
    return {name.removeprefix("module."): value for name, value in contents.items()}


def _why_unreadable(path: Path, error: Exception) -> str:
    """What is wrong with a file that torch refuses; torch's own text recommends to run its code."""
    if zipfile.is_zipfile(path):
        try:
            requested = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        except Exception:
            requested = []
        if requested:
            return (
                f"are refused: the file asks for {', '.join(requested[:5])}, which could run code; where you trust its source, save its "
                "state_dict() alone"
            )
    with path.open("rb") as file:
        begins_as_checkpoint = file.read(4) == b"PK\x03\x04"
    if begins_as_checkpoint or path.stat().st_size == 0:
        return "are damaged or cut short; copy or download the file again"
    return (
        f"are no file of torch.save, or ask for code ({type(error).__name__}); give a .pth file of tensors, bare or under 'model' or "
        "'state_dict'"
    )
