"""Weights into files: detectron2's .pkl, our .pth, safetensors, torchvision's .pth."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from resnext_det.architecture import Architecture
from resnext_det.files import write_file
from resnext_det.weights.file import WeightFile
from resnext_det.weights.preprocessing import Preprocessing
from resnext_det.weights.recognition import recognise
from resnext_det.weights.safetensors_writing import write_safetensors
from resnext_det.weights.torchvision_writing import torchvision_state

logger = logging.getLogger(__name__)

SUFFIXES: dict[str, tuple[str, ...]] = {
    "detectron2": (".pkl",),
    "native": (".pth", ".pt"),
    "safetensors": (".safetensors",),
    "torchvision": (".pth", ".pt"),
}
"""The formats that ``write_weights`` writes, and the suffixes by which other programs know them."""

_AUTHOR = "not known (the file was written by resnext_det)"  # detectron2 knows its files by there being one
_PICKLE_PROTOCOL = 3  # it writes names of modules as lines, see _NumpyOneNames


def write_weights(
    source: nn.Module | Mapping[str, Tensor] | WeightFile,
    path: str | Path,
    format: str = "detectron2",
    *,
    preprocessing: Preprocessing | None = None,
    architecture: Architecture | None = None,
    metadata: Mapping[str, str] | None = None,
    class_names: Sequence[str] | None = None,
) -> None:
    """Write weights so that the name never stands for half a file; a file that is there is replaced.

    detectron2: a .pkl of numpy arrays that its own checkpointer loads into a backbone or a detector. native: a .pth, which detectron2
    loads too. safetensors: our names. These carry preprocessing, architecture and metadata along, which other programs ignore.
    torchvision: its names, for its own preprocessing (see ``torchvision_state``); nothing else fits into such a file. Every value is
    written as it is. The counters of batch norms are left out of all but torchvision's, where they are 0 if there are none.

    Args:
        source: a ResNeXt, a ResNeXtClassifier, a detector, or the state of one, under our names; or what ``read_weights`` gave.
        path: of the file. Its folder is made. Its suffix must be one by which other programs know the format: ``SUFFIXES``.
        format: one of ``SUFFIXES``.
        preprocessing: which the weights need; None: as known to ``source``.
        architecture: of the weights; None: recognised.
        metadata: texts by name, such as author and licence; None: those of ``source``.
        class_names: of the classifier's outputs, in their order; None: those of ``source``.

    Raises:
        ValueError: format or suffix are wrong; the weights are not what was said, or do not fit into the format.
        OSError: the file could not be written; what was there is untouched.
    """
    path = Path(path).expanduser()
    _check_path(path, format)
    if isinstance(source, WeightFile):
        preprocessing = source.preprocessing if preprocessing is None else preprocessing
        metadata = source.metadata if metadata is None else metadata
        class_names = source.class_names if class_names is None else class_names
        if source.left_out:
            logger.warning(
                "%d of the names in %s are no part of a ResNeXt and are left out (the first is %s)",
                *(len(source.left_out), source.path, ascii(source.left_out[0])[:80]),
            )
    state = _state(source)
    found = recognise(state)
    if architecture is not None and found != architecture:
        raise ValueError(
            f"the weights are of {found or 'no ResNeXt'}, not of {architecture}; give the right ones"
        )
    if format == "torchvision":
        plain = {
            name: _plain(tensor) for name, tensor in torchvision_state(state, preprocessing).items()
        }
        _write(path, lambda file: torch.save(plain, file))
        return
    if preprocessing is None:
        logger.warning(
            "%s will not say which preprocessing its weights need: it is not known; give preprocessing=",
            path,
        )
    state = {
        name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")
    }
    texts = dict(metadata or {})
    label: dict[str, Any] = {
        "preprocessing": preprocessing and preprocessing.as_dict(),
        "architecture": found and asdict(found),
        "metadata": texts,
        "class_names": list(class_names or ()) if "linear.weight" in state else None,
    }
    label = {key: value for key, value in label.items() if value}
    if format == "safetensors":
        notes = {key: json.dumps(value) for key, value in label.items()}
        _write(path, lambda file: write_safetensors(file, state, notes))
    elif format == "native":
        contents = {
            "model": {name: _plain(tensor) for name, tensor in state.items()},
            **_hints(state),
            **label,
        }
        _write(path, lambda file: torch.save(contents, file))
    else:
        author = texts.get("author", _AUTHOR)
        arrays = {name: _array(name, tensor) for name, tensor in state.items()}
        contents = {"model": arrays, "__author__": author, **_hints(state), **label}
        _write(path, lambda file: _pickle(file, contents))


def _check_path(path: Path, format: str) -> None:
    if format not in SUFFIXES:
        raise ValueError(f"format {format!r} is not known; choose one of {', '.join(SUFFIXES)}")
    if path.suffix not in SUFFIXES[format]:
        raise ValueError(
            f"{path} does not end in {' or '.join(SUFFIXES[format])}, by which other programs know the format {format}; rename it, or "
            "choose another format"
        )
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of a file")


def _state(source: nn.Module | Mapping[str, Tensor] | WeightFile) -> dict[str, Tensor]:
    if isinstance(source, WeightFile):
        source = source.state
    state = dict(source.state_dict() if isinstance(source, nn.Module) else source)
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(
                f"{name!a:.80} is {type(tensor).__name__}, not a tensor; give weights by name"
            )
    if not state:
        raise ValueError("there are no weights to write; give a network, or its state_dict()")
    return state


def _hints(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """detectron2 looks for where a backbone's names end in its model's names, if it is told to."""
    return {"matching_heuristics": True} if "stem.conv1.weight" in state else {}


def _plain(tensor: Tensor) -> Tensor:
    """On the CPU, in the usual memory format, and alone in its storage: torch.save writes whole storages."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor.clone() if tensor.untyped_storage().nbytes() != tensor.nbytes else tensor


def _array(name: str, tensor: Tensor) -> Any:
    if tensor.dtype == torch.bfloat16:
        raise ValueError(
            f"{name} is of {tensor.dtype}, which numpy lacks; convert it to torch.float32, or write another format"
        )
    return tensor.detach().cpu().contiguous().numpy()


class _NumpyOneNames:
    """numpy 2 writes a module's name that numpy 1 lacks; both know the old one. It stands before the first array's values."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.found = False

    def write(self, data: Any) -> int:
        if not self.found and b"multiarray\n_reconstruct\n" in bytes(data):
            data = bytes(data).replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n", 1)
            self.found = True
        return self.file.write(data)


def _write(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    try:
        write_file(path, write)
    except OSError as error:
        raise OSError(
            f"{path} could not be written ({error}); make room on that disk, or choose another"
        ) from error
    logger.info("%s: written, %.1f MB", path, path.stat().st_size / 1e6)


def _pickle(file: IO[bytes], contents: Mapping[str, Any]) -> None:
    pickle.Pickler(_NumpyOneNames(file), _PICKLE_PROTOCOL).dump(contents)
