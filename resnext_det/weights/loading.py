"""Weights from a file into a detector, a backbone or a classifier: all that the file is for, or an error."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from resnext_det.weights.formats import to_native
from resnext_det.weights.readers import read_tensors

logger = logging.getLogger(__name__)

_SHOWN = 5
_PREDICTOR = "roi_heads.box_predictor."


@dataclass(frozen=True)
class LoadReport:
    """What loading did, by names of the model's state.

    Attributes:
        format: what the file is: ``detector``, ``detectron2`` (a backbone or classifier) or ``torchvision``.
        loaded: have the file's values.
        missing: are not in the file, and keep their random start.
        unused: are in the file (under our names) and have no place in the model.
        new_classes: the outputs of the box predictor that keep their random start because the file has other classes.
    """

    format: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    new_classes: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.format} weights: {len(self.loaded)} tensors loaded"
        if self.new_classes:
            text += f"; the file has other classes, so {len(self.new_classes)} start at random ({_some(self.new_classes)})"
        if self.missing:
            text += f"; {len(self.missing)} keep their random start ({_some(self.missing)})"
        if self.unused:
            text += f"; {len(self.unused)} of the file have no place here ({_some(self.unused)})"
        return text


def load_weights(model: nn.Module, path: str | Path, *, allow_new_classes: bool = False) -> LoadReport:
    """Load a file's weights into a model, by our names: as a whole, or not at all.

    A file of a whole detector must fit whole. A file of a classifier or backbone goes into the part of the model that is one:
    ``backbone``, ``backbone.bottom_up`` of a pyramid, and its res5 into ``roi_heads.res5`` of a C4 detector.

    Args:
        model: a detector, a ResNeXt or a ResNeXtClassifier.
        path: a ``.pth`` file of tensors, bare or under ``model`` or ``state_dict``.
        allow_new_classes: for training on one's own classes from another detector: the two linear outputs of the box predictor
            may be of another number of classes, or absent, and then keep their random start, with a warning.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or would run code; names or shapes do not fit; less than the whole backbone was given.
    """
    kind, state = to_native(read_tensors(path))
    own = model.state_dict()
    placed = state if kind == "detector" else _placed(state, own)
    restarted = _of_other_classes(placed, own) if kind == "detector" and allow_new_classes else ()
    loaded = {name: tensor for name, tensor in placed.items() if name in own and name not in restarted}
    report = LoadReport(
        format=kind,
        loaded=tuple(loaded),
        missing=tuple(n for n in own if n not in loaded and n not in restarted and not _is_counter(n)),
        unused=tuple(name for name in placed if name not in own and not _is_counter(name)),
        new_classes=restarted,
    )
    _check(path, report, own, loaded)
    with torch.no_grad():
        for name, tensor in loaded.items():
            own[name].copy_(tensor)
    logger.log(logging.WARNING if restarted else logging.INFO, "%s: %s", path, report)
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


def _of_other_classes(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The box predictor's outputs that the file lacks, or has for another number of classes and the same features."""
    return tuple(
        name
        for name, tensor in own.items()
        if name.startswith(_PREDICTOR)
        and (
            name not in state
            or (state[name].shape != tensor.shape and state[name].shape[1:] == tensor.shape[1:])
        )
    )


def _is_counter(name: str) -> bool:
    """Batch norms count their batches, frozen ones do not; nothing is computed from the count."""
    return name.endswith("num_batches_tracked")


def _is_backbone(name: str) -> bool:
    return ".stem." in f".{name}" or any(f".res{stage}." in f".{name}" for stage in range(2, 6))


def _check(
    path: str | Path, report: LoadReport, own: Mapping[str, Tensor], loaded: Mapping[str, Tensor]
) -> None:
    whole = report.format == "detector"
    missing = [name for name in report.missing if whole or _is_backbone(name)]
    # A C4 backbone ends at res4, and a classifier's file does not.
    ends_early = not any(".res5." in f".{name}" for name in own)
    unused = [
        name
        for name in report.unused
        if whole or (_is_backbone(name) and not (ends_early and ".res5." in f".{name}"))
    ]
    shapes = [name for name, tensor in loaded.items() if tensor.shape != own[name].shape]
    if not missing and not unused and not shapes:
        return
    if shapes and not missing and not unused and all(name.startswith(_PREDICTOR) for name in shapes):
        raise ValueError(f"{path} does not fit the model: {_about_classes(own, loaded, shapes)}")
    problems = []
    if missing:
        problems.append(f"{len(missing)} names are missing in the file ({_some(missing)})")
    if unused:
        problems.append(f"{len(unused)} of the file have no place in the model ({_some(unused)})")
    if shapes:
        differing = [f"{n} is {tuple(loaded[n].shape)}, not {tuple(own[n].shape)}" for n in shapes]
        problems.append(f"{len(shapes)} shapes differ ({_some(differing)})")
    raise ValueError(
        f"{path} does not fit the model: {', '.join(problems)}; {_remedy(whole, [*missing, *unused], shapes)}"
    )


def _about_classes(own: Mapping[str, Tensor], loaded: Mapping[str, Tensor], shapes: Sequence[str]) -> str:
    """What to say where nothing but the number of classes differs."""
    name = f"{_PREDICTOR}cls_score.bias"
    if name not in shapes:
        return (
            f"its {shapes[0]} is {tuple(loaded[shapes[0]].shape)}, not {tuple(own[shapes[0]].shape)}; write "
            "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG as in the configuration that the file was trained with"
        )
    theirs, ours = len(loaded[name]) - 1, len(own[name]) - 1
    return (
        f"it has {theirs} classes, and the model {ours}; write MODEL.ROI_HEADS.NUM_CLASSES {theirs}. (A training takes it as it is: the "
        "box predictor then starts at random)"
    )


def _remedy(whole: bool, names: Sequence[str], shapes: Sequence[str]) -> str:
    if whole:
        return "use the configuration that the file was trained with (config.yaml beside it)"
    if names and not shapes and all(".norm." in name for name in names):
        return "the norm is another: set MODEL.RESNETS.NORM to the file's, FrozenBN for any batch norm"
    return (
        "give all the weights of this architecture, or set MODEL.RESNETS.DEPTH, NUM_GROUPS, WIDTH_PER_GROUP, STEM_OUT_CHANNELS and "
        "RES2_OUT_CHANNELS to the file's"
    )


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
