"""Weights from a file into a detector, a backbone or a classifier: all that the file is for, or an error."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from resnext_det.weights.formats import format_of, from_torchvision
from resnext_det.weights.readers import read_tensors

logger = logging.getLogger(__name__)

_SHOWN = 5


@dataclass(frozen=True)
class LoadReport:
    """What loading did, as names of the model's state (``unused``: of the file's, under our names)."""

    format: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{self.format} weights: {len(self.loaded)} tensors loaded"
        if self.missing:
            text += f"; {len(self.missing)} keep their random start ({_some(self.missing)})"
        if self.unused:
            text += f"; {len(self.unused)} of the file have no place here ({_some(self.unused)})"
        return text


def load_weights(model: nn.Module, path: str | Path) -> LoadReport:
    """Load a file's weights into a model, by our names.

    A file of a whole detector must fit whole. A file of a classifier or backbone goes into the part of the model that is one:
    ``backbone``, ``backbone.bottom_up`` of a pyramid, and its res5 into ``roi_heads.res5`` of a C4 detector.

    Args:
        model: a detector, a ResNeXt or a ResNeXtClassifier.
        path: a ``.pth`` file of tensors, bare or under ``model`` or ``state_dict``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or would run code; names or shapes do not fit; less than the whole backbone was given.
    """
    state = read_tensors(path)
    kind = format_of(state)
    if kind == "torchvision":
        state = from_torchvision(state)
    own = model.state_dict()
    placed = state if kind == "detector" else _placed(state, own)
    counters = {name for name in placed if name.endswith("num_batches_tracked") and name not in own}
    unused = tuple(name for name in placed if name not in own and name not in counters)
    loaded = {name: tensor for name, tensor in placed.items() if name in own}
    missing = tuple(name for name in own if name not in loaded and not name.endswith("num_batches_tracked"))
    _check(path, kind, own, loaded, missing, unused)
    with torch.no_grad():
        for name, tensor in loaded.items():
            own[name].copy_(tensor)
    report = LoadReport(kind, tuple(loaded), missing, unused)
    logger.info("%s: %s", path, report)
    return report


def _placed(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A backbone's weights under the names that they have in this model."""
    stem = next((name for name in own if name.endswith("stem.conv1.weight")), None)
    if stem is None:
        raise ValueError(
            "the model has no stem, so it is no ResNeXt; give a detector, a ResNeXt or a ResNeXtClassifier"
        )
    prefix = stem.removesuffix("stem.conv1.weight")
    res5_in_heads = any(name.startswith("roi_heads.res5.") for name in own)
    return {
        f"roi_heads.{name}" if res5_in_heads and name.startswith("res5.") else f"{prefix}{name}": tensor
        for name, tensor in state.items()
    }


def _is_backbone(name: str) -> bool:
    return ".stem." in f".{name}" or any(f".res{stage}." in f".{name}" for stage in range(2, 6))


def _check(
    path: str | Path,
    kind: str,
    own: Mapping[str, Tensor],
    loaded: Mapping[str, Tensor],
    missing: tuple[str, ...],
    unused: tuple[str, ...],
) -> None:
    shapes = [
        f"{name} is {tuple(tensor.shape)} in the file and {tuple(own[name].shape)} in the model"
        for name, tensor in loaded.items()
        if tensor.shape != own[name].shape
    ]
    remedy = "give the weights of this architecture, or set MODEL.RESNETS.DEPTH, NUM_GROUPS and WIDTH_PER_GROUP to the file's"
    if kind == "detector":
        remedy = "use the configuration that the file was trained with (config.yaml beside it)"
        if missing or unused:
            raise ValueError(
                f"{path} does not fit the detector: {len(missing)} names are missing ({_some(missing)}) and {len(unused)} have no "
                f"place ({_some(unused)}); {remedy}"
            )
    gaps = [name for name in missing if _is_backbone(name)]
    extra = [name for name in unused if _is_backbone(name) and ".res5." not in f".{name}"]
    if shapes:
        raise ValueError(
            f"{path} does not fit the model: {len(shapes)} shapes differ: {_some(shapes)}; {remedy}"
        )
    if gaps or extra:
        raise ValueError(
            f"{path} is not the whole backbone: {len(gaps)} names are missing ({_some(gaps)}), {len(extra)} have no place "
            f"({_some(extra)}); {remedy}"
        )


def _some(names: tuple[str, ...] | list[str]) -> str:
    more = len(names) - _SHOWN
    return (", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")) or "none"
