"""Write weights into files: detectron2's .pkl, our .pth, safetensors, torchvision's .pth."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from resnext_det.architecture import Architecture
from resnext_det.files import write_file
from resnext_det.weights.conversion import ROUNDING, convert_preprocessing
from resnext_det.weights.file import WeightFile
from resnext_det.weights.name_tables import TORCHVISION
from resnext_det.weights.preprocessing import KNOWN, Preprocessing, are_close
from resnext_det.weights.safetensors import write_safetensors
from resnext_det.weights.structure import (
    find_architecture,
    find_deformable_settings,
    guess_architecture,
)
from resnext_det.weights.trained_detector import KEY

logger = logging.getLogger(__name__)

SUFFIXES: dict[str, tuple[str, ...]] = {
    "detectron2": (".pkl",),
    "native": (".pth", ".pt"),
    "safetensors": (".safetensors",),
    "torchvision": (".pth", ".pt"),
}
"""The formats that ``write_weights`` writes, and the suffixes by which other programs know them."""

_AUTHOR = "not known (the file was written by resnext_det)"  # detectron2 looks for an author
_PICKLE_PROTOCOL = 3  # it writes names of modules as lines, see _OldNumpyNames
_COUNTER = "num_batches_tracked"


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
    """Write weights into a file, whole or not at all; a file that is there is replaced.

    detectron2: a .pkl of numpy arrays that its own checkpointer loads. native: a .pth, which
    detectron2 loads too. safetensors: our names. These carry preprocessing, architecture, metadata,
    class names and what the file of a detector says of it along, and no counters of batch norms.
    torchvision: its names, for its own preprocessing, and nothing else; see
    ``make_torchvision_state``. Values stay as they are; a type that a format lacks (bfloat16 in a
    .pkl, float8) becomes float32, with a warning.

    Args:
        source: a ResNeXt, a ResNeXtClassifier, a detector, or the state of one, under our names; or
            what ``read_weights`` gave.
        path: of the file; its folder is made.
        format: a key of ``SUFFIXES``, one of whose suffixes the path must have.
        preprocessing: which the weights need; None: as known to ``source``.
        architecture: of the weights; None: found by their shapes.
        metadata: texts by name, such as author and license; None: those of ``source``.
        class_names: of the classifier's outputs, in their order; None: those of ``source``.

    Raises:
        ValueError: format or suffix are wrong; the weights are not what was said, or do not fit
            into the format.
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
    state = _widen(_get_state(source), format)
    found = guess_architecture(state)
    if architecture is not None and found != architecture:
        raise ValueError(
            f"the weights are of {found or 'no ResNeXt'}, not of {architecture}; give the right "
            "ones"
        )
    if format == "torchvision":
        plain = _make_plain(make_torchvision_state(state, preprocessing))
        _write(path, lambda file: torch.save(plain, file))
        return
    if preprocessing is None:
        logger.warning(
            "%s will not say which preprocessing its weights need: it is not known; say it with "
            "--preprocessing (preprocessing= in Python)",
            path,
        )
    state = {name: tensor for name, tensor in state.items() if not name.endswith(_COUNTER)}
    metadata = dict(metadata or {})
    label: dict[str, Any] = {
        "preprocessing": preprocessing and preprocessing.as_dict(),
        "architecture": found and asdict(found),
        "metadata": metadata,
        "class_names": list(class_names or ()) if "linear.weight" in state else None,
    }
    if isinstance(source, WeightFile):
        # What is only usual stays so: the file must not say it as a fact.
        label["origins"] = {
            fact: origin
            for fact, origin in source.origins.items()
            if source.is_usual(fact) and (fact in metadata or preprocessing is source.preprocessing)
        }
    if isinstance(source, WeightFile) and source.detector is not None:
        label[KEY] = source.detector.as_dict()
    label = {key: value for key, value in label.items() if value}
    if format == "safetensors":
        notes = {key: json.dumps(value) for key, value in label.items()}
        _write(path, lambda file: write_safetensors(file, state, notes))
        return
    if "stem.conv1.weight" in state:
        # detectron2 then looks for where a backbone's names end in its model's names.
        label["matching_heuristics"] = True
    if format == "native":
        contents = {"model": _make_plain(state), **label}
        _write(path, lambda file: torch.save(contents, file))
        return
    label["__author__"] = metadata.get("author", _AUTHOR)
    arrays = {name: _make_array(tensor) for name, tensor in state.items()}
    _write(path, lambda file: _pickle({"model": arrays, **label}, file))


def _check_path(path: Path, format: str) -> None:
    if format not in SUFFIXES:
        raise ValueError(f"format {format!r} is not known; choose one of {', '.join(SUFFIXES)}")
    if path.suffix not in SUFFIXES[format]:
        raise ValueError(
            f"{path} does not end in {' or '.join(SUFFIXES[format])}, by which other programs know "
            f"the format {format}; rename it, or choose another format"
        )
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of a file")


def _get_state(source: nn.Module | Mapping[str, Tensor] | WeightFile) -> dict[str, Tensor]:
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


def _make_plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put tensors on the CPU, each alone in its storage: torch.save writes whole storages."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    return {
        name: tensor.clone() if tensor.untyped_storage().nbytes() != tensor.nbytes else tensor
        for name, tensor in plain.items()
    }


def _widen(state: Mapping[str, Tensor], format: str) -> dict[str, Tensor]:
    """Convert tensors of types that a format lacks to float32, which holds them exactly."""
    lacks_bfloat16 = format == "detectron2"  # numpy does; and no format here has float8
    wide = {
        name: tensor.float()
        for name, tensor in state.items()
        if tensor.is_floating_point()
        and (tensor.element_size() == 1 or (lacks_bfloat16 and tensor.dtype == torch.bfloat16))
    }
    if wide:
        kinds = sorted({str(state[name].dtype) for name in wide})
        logger.warning(
            "%d tensors of %s are written as torch.float32, with the same values: the format %s "
            "has no such type.",
            *(len(wide), " and ".join(kinds), format),
        )
    return {**state, **wide}


def _make_array(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().numpy()


class _OldNumpyNames:
    """Write the name of a module, before the first array, as numpy 1 and 2 both know it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.found = False

    def write(self, data: Any) -> int:
        if not self.found and b"multiarray\n_reconstruct\n" in bytes(data):
            data = bytes(data).replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n", 1)
            self.found = True
        return self.file.write(data)


def _pickle(contents: Mapping[str, Any], file: IO[bytes]) -> None:
    pickle.Pickler(_OldNumpyNames(file), _PICKLE_PROTOCOL).dump(contents)


def _write(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    try:
        write_file(path, write)
    except OSError as error:
        raise OSError(
            f"{path} could not be written ({error}); make room on that disk, or choose another"
        ) from error
    logger.info("%s: written, %.1f MB", path, path.stat().st_size / 1e6)


# From our names to torchvision's; of several that are one of ours, the first.
_TO_TORCHVISION = replace(
    TORCHVISION,
    rows=tuple((ours, theirs) for theirs, ours in TORCHVISION.rows),
    first_stage=4 - TORCHVISION.first_stage,
)
_TORCHVISION_CHANNELS = (64, 256, 3)  # of the stem, of res2 and of the images


def make_torchvision_state(
    state: Mapping[str, Tensor], preprocessing: Preprocessing | None
) -> dict[str, Tensor]:
    """Convert weights under our names to a state that torchvision's ``ResNet`` loads strictly.

    Such a file says nothing about its preprocessing, and every reader takes it for torchvision's,
    so the weights are converted to that. The batch norms' counters, where absent, are 0. Without a
    classifier it fits a ResNet whose ``fc`` is ``nn.Identity()``. Folded batch norms are written
    with the mean 0 and variance 1: right in evaluation, and not to be trained, as a warning says.

    Raises:
        ValueError: torchvision has no such network, or the weights cannot be made for its
            preprocessing.
    """
    if any(name.startswith(("roi_heads.", "proposal_generator.", "backbone.")) for name in state):
        raise ValueError(
            "these weights are a detector's, which torchvision builds in another way; take its "
            "backbone out (extract_backbone, or resnext-det convert --backbone-only)"
        )
    _check_network(find_architecture(state), state)
    preprocessing = _check_preprocessing(preprocessing)
    swapped = preprocessing.channel_order != "RGB"
    mean = preprocessing.mean[::-1] if swapped else preprocessing.mean
    if not are_close(mean, KNOWN["torchvision"].mean, ROUNDING):
        raise ValueError(
            f"these weights are for the mean {list(mean)} in RGB, and torchvision's format implies "
            f"{list(KNOWN['torchvision'].mean)}, for which no weights make up; write another format"
        )
    target = replace(KNOWN["torchvision"], batch_norm=preprocessing.batch_norm)
    state = convert_preprocessing(state, preprocessing, target)
    renamed = {}
    for name, tensor in state.items():
        renamed[_rename(name)] = tensor
        if name.endswith(".norm.running_var"):
            counter = name.replace("running_var", _COUNTER)
            renamed[_rename(counter)] = state.get(counter, torch.zeros((), dtype=torch.int64))
    return renamed


def _rename(name: str) -> str:
    renamed = _TO_TORCHVISION.rename(name)
    if renamed is None:
        raise ValueError(
            f"torchvision's ResNet has nothing for {name!a:.80}; remove it, or write another format"
        )
    return renamed


def _check_network(architecture: Architecture, state: Mapping[str, Tensor]) -> None:
    if find_deformable_settings(state):
        raise ValueError(
            "these weights have deformable convolutions, and torchvision's ResNet has none; write "
            "another format"
        )
    if "res5.0.conv1.weight" not in state:
        raise ValueError(
            f"these weights end before res5, and torchvision's {architecture} does not; give those "
            "of a whole network"
        )
    input_channels = state["stem.conv1.weight"].shape[1]
    channels = (architecture.stem_channels, architecture.res2_channels, input_channels)
    if channels != _TORCHVISION_CHANNELS:
        raise ValueError(
            "these weights' stem, res2 and images have {}, {} and {} channels, and torchvision's "
            "ResNet always {}, {} and {}; write another format".format(
                *channels, *_TORCHVISION_CHANNELS
            )
        )
    for convolution in [name.removesuffix(".weight") for name in state if state[name].ndim == 4]:
        for key in ("weight", "bias", "running_mean", "running_var"):
            if f"{convolution}.norm.{key}" not in state:
                raise ValueError(
                    f"{convolution}.norm has no {key}, so it is no batch norm, and torchvision's "
                    "ResNet has batch norms; write another format"
                )


def _check_preprocessing(preprocessing: Preprocessing | None) -> Preprocessing:
    if preprocessing is None:
        raise ValueError(
            "the preprocessing of these weights is not known, and torchvision's format implies "
            "one; say it (preprocessing=, or resnext-det convert --preprocessing)"
        )
    if preprocessing.stride_in_1x1:
        raise ValueError(
            "these weights have their stride in the 1x1 convolutions (STRIDE_IN_1X1 True), and "
            "torchvision's ResNet has it in the 3x3: the shapes would fit and the features be "
            "wrong; write another format"
        )
    if preprocessing.batch_norm == "folded":
        logger.warning(
            "the batch norms of these weights are folded into scale and bias; in torchvision's "
            "network they are right in evaluation (eval()) alone: do not train them, and read the "
            "file as one of FrozenBN"
        )
    return preprocessing
