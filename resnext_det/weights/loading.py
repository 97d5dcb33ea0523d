"""Weights into a detector, a backbone or a classifier: all that they are for, or an error."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from resnext_det.config.backbone import ARCHITECTURE_KEYS, write_architecture
from resnext_det.weights.file import WeightFile, read_weights
from resnext_det.weights.preprocessing import batch_norm_of
from resnext_det.weights.recognition import recognise
from resnext_det.weights.report import LoadReport, some

logger = logging.getLogger(__name__)

_PREDICTOR = "roi_heads.box_predictor."
_STEM = "stem.conv1.weight"


def load_weights(
    model: nn.Module,
    source: str | Path | WeightFile,
    *,
    allow_new_classes: bool = False,
    inflate_input: bool = False,
) -> LoadReport:
    """Load weights into a model, by our names: as a whole, or not at all.

    A file of a whole detector must fit whole. A file of a classifier or backbone goes into the part of the model that is one:
    ``backbone``, ``backbone.bottom_up`` of a pyramid, and its res5 into ``roi_heads.res5`` of a C4 detector.

    Args:
        model: a detector, a ResNeXt or a ResNeXtClassifier.
        source: a path, a name of the catalog, or what ``read_weights`` gave.
        allow_new_classes: for training on one's own classes from another detector: the two linear outputs of the box predictor
            may be of another number of classes, or absent, and then keep their random start, with a warning.
        inflate_input: where the model's images have another number of channels than three, make conv1's weights fit: summed for one
            channel (an image of three equal channels gives the same features), else repeated and scaled by 3 / channels.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or would run code; names or shapes do not fit; less than the whole backbone was given; batch
            norms that are folded into scale and bias would be trained as batch norms.
    """
    file = source if isinstance(source, WeightFile) else read_weights(source, mapped=True)
    own = model.state_dict()
    placed = dict(file.state) if file.format == "detector" else _placed(file.state, own)
    if inflate_input:
        placed = {
            n: _inflated(t, own[n]) if n in own and n.endswith(_STEM) else t
            for n, t in placed.items()
        }
    restarted = (
        _of_other_classes(placed, own) if file.format == "detector" and allow_new_classes else ()
    )
    found = {
        name: tensor for name, tensor in placed.items() if name in own and name not in restarted
    }
    report = LoadReport(
        format=file.format,
        loaded=tuple(name for name in found if found[name].shape == own[name].shape),
        missing=tuple(
            n for n in own if n not in found and n not in restarted and not _is_counter(n)
        ),
        unused=tuple(name for name in placed if name not in own and not _is_counter(name)),
        new_classes=restarted,
        wrong_shape=tuple(name for name in found if found[name].shape != own[name].shape),
        left_out=file.left_out,
    )
    _check(file, report, own, found)
    _check_folded(file, model, found)
    with torch.no_grad():
        for name, tensor in found.items():
            own[name].copy_(tensor)
    logger.log(
        logging.WARNING if restarted else logging.INFO,
        "%s: %s\n%s",
        file.path,
        report,
        report.table(),
    )
    return report


def _placed(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A backbone's weights under the names that they have in this model."""
    stem = next((name for name in own if name.endswith(_STEM)), None)
    if stem is None:
        raise ValueError(
            "the model has no stem, so it is no ResNeXt; give a detector, a ResNeXt or a ResNeXtClassifier"
        )
    prefix = stem.removesuffix(_STEM)
    res5_in_heads = any(name.startswith("roi_heads.res5.") for name in own)
    return {
        f"roi_heads.{name}"
        if res5_in_heads and name.startswith("res5.")
        else f"{prefix}{name}": tensor
        for name, tensor in state.items()
    }


def _inflated(weight: Tensor, own: Tensor) -> Tensor:
    """conv1's weight for other images than of three channels, as timm's ``adapt_input_conv``."""
    channels = own.shape[1]
    if weight.ndim != 4 or weight.shape[1] != 3 or channels == 3:
        return weight
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight.repeat(1, math.ceil(channels / 3), 1, 1)[:, :channels] * (3 / channels)


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


def _check_folded(file: WeightFile, model: nn.Module, found: Mapping[str, Tensor]) -> None:
    """Batch norms without statistics of their own are constants: as batch norms they would train from a wrong start."""
    if batch_norm_of(file.state) != "folded":
        return
    norms = [
        name.removesuffix(".running_var") for name in found if name.endswith(".norm.running_var")
    ]
    trained = [
        name
        for name in norms
        if isinstance(model.get_submodule(name), nn.BatchNorm2d | nn.SyncBatchNorm)
    ]
    if trained:
        raise ValueError(
            f"{file.path} has its batch norms folded into scale and bias, and the model would train {len(trained)} of them as batch norms "
            f"({some(trained)}); write MODEL.RESNETS.NORM FrozenBN, or take weights with statistics"
        )


def _check(
    file: WeightFile, report: LoadReport, own: Mapping[str, Tensor], found: Mapping[str, Tensor]
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
    shapes = report.wrong_shape
    if not missing and not unused and not shapes:
        return
    if (
        shapes
        and not missing
        and not unused
        and all(name.startswith(_PREDICTOR) for name in shapes)
    ):
        raise ValueError(
            f"{file.path} does not fit the model: {_about_classes(own, found, shapes)}"
        )
    problems = []
    if missing:
        problems.append(f"{len(missing)} names are missing in the file ({some(missing)})")
    if unused:
        problems.append(f"{len(unused)} of the file have no place in the model ({some(unused)})")
    if shapes:
        differing = [f"{n} is {tuple(found[n].shape)}, not {tuple(own[n].shape)}" for n in shapes]
        problems.append(f"{len(shapes)} shapes differ ({some(differing)})")
    remedy = _remedy(file, own, [*missing, *unused], shapes)
    raise ValueError(
        f"{file.path} does not fit the model: {', '.join(problems)}; {remedy}. Nothing was loaded; by module:\n{report.table()}"
    )


def _about_classes(
    own: Mapping[str, Tensor], found: Mapping[str, Tensor], shapes: Sequence[str]
) -> str:
    """What to say where nothing but the number of classes differs."""
    name = f"{_PREDICTOR}cls_score.bias"
    if name not in shapes:
        return (
            f"its {shapes[0]} is {tuple(found[shapes[0]].shape)}, not {tuple(own[shapes[0]].shape)}; write "
            "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG as in the configuration that the file was trained with"
        )
    theirs, ours = len(found[name]) - 1, len(own[name]) - 1
    return (
        f"it has {theirs} classes, and the model {ours}; write MODEL.ROI_HEADS.NUM_CLASSES {theirs}. (A training takes it as it is: the "
        "box predictor then starts at random)"
    )


def _remedy(
    file: WeightFile, own: Mapping[str, Tensor], names: Sequence[str], shapes: Sequence[str]
) -> str:
    if file.format == "detector":
        return "use the configuration that the file was trained with (config.yaml beside it)"
    if names and not shapes and all(".norm." in name for name in names):
        return (
            "the norm is another: set MODEL.RESNETS.NORM to the file's, FrozenBN for any batch norm"
        )
    theirs = file.architecture
    if theirs is not None and theirs != recognise(own):
        keys = write_architecture(theirs).items()
        return f"the file is {theirs}: set MODEL.RESNETS." + ", ".join(
            f"{key} {value}" for key, value in keys
        )
    if len(shapes) == 1 and shapes[0].endswith(_STEM):
        return "the images have another number of channels; give weights for them, or load these with inflate_input=True"
    return (
        "give all the weights of this architecture, or set "
        f"MODEL.RESNETS.{', '.join(ARCHITECTURE_KEYS)} to the file's"
    )
