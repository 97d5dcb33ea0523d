"""Load weights into a model. Loading is strict: everything fits, or nothing is loaded."""

from __future__ import annotations

import contextlib
import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from resnext_det.config.backbone import ARCHITECTURE_KEYS, write_architecture
from resnext_det.files import list_first
from resnext_det.weights.file import WeightFile, read_weights
from resnext_det.weights.load_report import LoadReport, count_names
from resnext_det.weights.preprocessing import find_batch_norm
from resnext_det.weights.rounding import compute_exactly
from resnext_det.weights.structure import (
    extract_detector_backbone,
    find_cause_in_blocks,
    find_deformable_settings,
    guess_architecture,
)

logger = logging.getLogger(__name__)

_PREDICTOR = "roi_heads.box_predictor."
_MASKS = "roi_heads.mask_head."
_MASK_PREDICTOR = f"{_MASKS}predictor."
_DENSE_SCORES = "head.cls_score."
# The layers with outputs for each class: Faster R-CNN's (a cascade's), those of masks, RetinaNet's.
_OF_CLASSES = (_PREDICTOR, _MASK_PREDICTOR, _DENSE_SCORES)
_STEM = "stem.conv1.weight"
_OFFSET = re.compile(r"\.conv2_offset\.")


def load_weights(
    model: nn.Module,
    source: str | Path | WeightFile,
    *,
    class_names: Sequence[str] = (),
    allow_new_heads: bool = False,
    inflate_input: bool = False,
) -> LoadReport:
    """Load weights into a model, by our names: as a whole, or not at all.

    A file of a whole detector must fit whole. A file of a classifier or backbone goes into the part
    of the model that is one: ``backbone``, ``backbone.bottom_up`` of a pyramid, and its res5 into
    ``roi_heads.res5`` of a C4 detector. The model's tensors keep their type: float32 takes 16 bits
    as they are, and rounds float64.

    Args:
        model: a detector, a ResNeXt or a ResNeXtClassifier.
        source: a path, a name of the catalog, or what ``read_weights`` gave.
        class_names: of the model's outputs, in their order; empty: not known.
        allow_new_heads: the outputs of a detector for its classes may be of other classes, or
            absent, and then keep their random start, with a warning. Classes go by name where the
            file and ``class_names`` tell, else by their number. So does a mask head that the file
            lacks; one that the model lacks is left out.
        inflate_input: where the model's images have another number of channels than three, make
            conv1's weights fit: summed for one channel (an image of three equal channels gives the
            same features), else repeated and scaled by 3 / channels.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or would run code; names or shapes do not fit; less than the
            whole backbone was given; numbers are NaN or infinite; folded batch norms would be
            trained.
    """
    file = source if isinstance(source, WeightFile) else read_weights(source, mapped=True)
    if file.not_finite:
        raise ValueError(f"weights {file.path}: {file.not_finite}. Nothing was loaded")
    own = model.state_dict()
    whole = file.format == "detector"
    placed = file.state if whole else _place(file.state, own)
    if inflate_input:
        placed = {
            name: _inflate(tensor, own[name]) if name in own and name.endswith(_STEM) else tensor
            for name, tensor in placed.items()
        }
    same = not (class_names and file.class_names) or tuple(class_names) == file.class_names
    free = whole and allow_new_heads
    new_masks = _find_new_masks(placed, own) if free else ()
    no_masks = _find_new_masks(own, placed) if free else ()
    restarted = _find_other_classes(placed, own, same) if free else ()
    restarted = tuple(name for name in restarted if name not in new_masks)
    found = {
        name: tensor for name, tensor in placed.items() if name in own and name not in restarted
    }
    # Plain convolutions sample where those of a deformable stage do that has no offsets.
    of_plain = not whole and not any(map(_OFFSET.search, placed))
    zero_offsets = tuple(filter(_OFFSET.search, own)) if of_plain else ()
    begun = {*found, *restarted, *new_masks, *zero_offsets}
    wrong = [name for name, tensor in found.items() if tensor.shape != own[name].shape]
    report = LoadReport(
        format=file.format,
        loaded=tuple(name for name in found if name not in wrong),
        missing=_drop_counters(n for n in own if n not in begun),
        unused=_drop_counters(n for n in placed if n not in own and n not in no_masks),
        new_classes=restarted,
        new_masks=new_masks,
        no_masks=no_masks,
        wrong_shape=tuple(wrong),
        left_out=file.left_out,
        zero_offsets=zero_offsets,
    )
    _check_fit(file, report, own, found)
    _check_folded(file, model, found)
    with torch.no_grad():
        for name, tensor in found.items():
            own[name].copy_(tensor)
        for name in zero_offsets:
            own[name].zero_()
    level = logging.WARNING if restarted or new_masks or no_masks else logging.INFO
    logger.log(level, "%s: %s\n%s", file.path, report, report.table())
    return report


def _place(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a backbone's weights to the names that they have in this model."""
    stem = next((name for name in own if name.endswith(_STEM)), None)
    if stem is None:
        raise ValueError(
            "the model has no stem, so it is no ResNeXt; give a detector, a ResNeXt or a "
            "ResNeXtClassifier"
        )
    prefix = stem.removesuffix(_STEM)
    in_heads = any(name.startswith("roi_heads.res5.") for name in own)
    return {
        f"{'roi_heads.' if in_heads and name.startswith('res5.') else prefix}{name}": tensor
        for name, tensor in state.items()
    }


def _inflate(weight: Tensor, own: Tensor) -> Tensor:
    """Fit conv1's weight to images not of three channels, as timm's ``adapt_input_conv``."""
    channels = own.shape[1]
    if weight.ndim != 4 or weight.shape[1] != 3 or channels == 3:
        return weight
    if channels == 1:
        return compute_exactly(lambda weight: weight.sum(1, keepdim=True), weight)
    repeated = weight.repeat(1, math.ceil(channels / 3), 1, 1)[:, :channels]
    return compute_exactly(lambda weight: weight * (3 / channels), repeated)


def _find_other_classes(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], same_names: bool
) -> tuple[str, ...]:
    """Find the outputs for classes that the file lacks or has for other classes."""
    return tuple(
        name
        for name, tensor in own.items()
        if name.startswith(_OF_CLASSES)
        and (
            name not in state
            or not (same_names or _is_of_any_class(name, tensor))
            or (state[name].shape != tensor.shape and state[name].shape[1:] == tensor.shape[1:])
        )
    )


def _find_new_masks(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Find the mask head of a model, or of a file, of which the other has nothing."""
    if any(name.startswith(_MASKS) for name in state):
        return ()
    return tuple(name for name in own if name.startswith(_MASKS))


def _is_of_any_class(name: str, tensor: Tensor) -> bool:
    """Tell whether these are the four outputs for a box, or the one for a mask, of any class."""
    if name.startswith(_MASK_PREDICTOR):
        return len(tensor) == 1
    return name.startswith(_PREDICTOR) and ".bbox_pred." in name and len(tensor) == 4


def _drop_counters(names: Iterable[str]) -> tuple[str, ...]:
    """Leave out the batches that batch norms count and frozen ones do not: nothing uses them."""
    return tuple(name for name in names if not name.endswith("num_batches_tracked"))


def _is_backbone(name: str) -> bool:
    return re.search(r"(?:^|\.)(?:stem|res[2-5])\.", name) is not None


def _check_folded(file: WeightFile, model: nn.Module, found: Mapping[str, Tensor]) -> None:
    """Refuse to train batch norms without statistics of their own: they would start wrong."""
    if find_batch_norm(file.state) != "folded":
        return
    norms = {name.rpartition(".")[0] for name in found if name.endswith(".norm.running_var")}
    trained = [
        name
        for name, module in model.named_modules()
        if name in norms and isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm)
    ]
    if trained:
        raise ValueError(
            f"{file.path} has its batch norms folded into scale and bias, and the model would "
            f"train {len(trained)} of them as batch norms ({list_first(trained)}); write "
            "MODEL.RESNETS.NORM FrozenBN, or take weights with statistics"
        )


def _check_fit(
    file: WeightFile, report: LoadReport, own: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> None:
    """Refuse weights that do not fill the part of the model that they are for."""
    if report.missing or report.unused or report.wrong_shape:
        _check_kind(file)
    missing, unused, shapes = report.missing, report.unused, report.wrong_shape
    if file.format != "detector":
        # A C4 backbone ends at res4, and a classifier's file does not.
        ends_early = not any(".res5." in f".{name}" for name in own)
        missing = tuple(filter(_is_backbone, missing))
        unused = tuple(
            name
            for name in filter(_is_backbone, unused)
            if not (ends_early and ".res5." in f".{name}")
        )
    if not missing and not unused and not shapes:
        return
    of_classes = (_PREDICTOR, _DENSE_SCORES)
    if not missing and not unused and all(name.startswith(of_classes) for name in shapes):
        raise ValueError(
            f"{file.path} does not fit the model: {_explain_classes(own, found, shapes)}"
        )
    differing = [f"{n} is {tuple(found[n].shape)}, not {tuple(own[n].shape)}" for n in shapes]
    told = count_names(
        (missing, "{} names are missing in the file"),
        (unused, "{} of the file have no place in the model"),
        (differing, "{} shapes differ"),
    )
    remedy = _find_remedy(file, own, missing, unused, shapes)
    raise ValueError(
        f"{file.path} does not fit the model: {', '.join(told)}; {remedy}. Nothing was loaded; by "
        f"module:\n{report.table()}"
    )


def _check_kind(file: WeightFile) -> None:
    """Refuse a network that is no ResNeXt by its cause, before names are counted."""
    if file.architecture is not None:
        return
    cause = None
    with contextlib.suppress(ValueError):
        cause = find_cause_in_blocks(
            extract_detector_backbone(file.state) if file.format == "detector" else file.state
        )
    if cause:
        raise ValueError(f"{file.path} does not fit the model: {cause}. Nothing was loaded")


def _explain_classes(
    own: Mapping[str, Tensor], found: Mapping[str, Tensor], shapes: Sequence[str]
) -> str:
    """Say what to do where nothing but the number of classes differs."""
    name = next((name for name in shapes if name.endswith("cls_score.bias")), None)
    if name is None:
        return (
            f"its {shapes[0]} is {tuple(found[shapes[0]].shape)}, not "
            f"{tuple(own[shapes[0]].shape)}; write MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG as in "
            "the configuration that the file was trained with"
        )
    theirs, ours, key = len(found[name]) - 1, len(own[name]) - 1, "ROI_HEADS"
    if name.startswith(_DENSE_SCORES):  # of every anchor of a cell; four of its deltas are one's
        anchors = len(own["head.bbox_pred.bias"]) // 4
        theirs, ours, key = len(found[name]) // anchors, len(own[name]) // anchors, "RETINANET"
    return (
        f"it has {theirs} classes, and the model {ours}; write MODEL.{key}.NUM_CLASSES "
        f"{theirs}. (A training takes it as it is: the box predictor then starts at random)"
    )


def _find_remedy(
    file: WeightFile,
    own: Mapping[str, Tensor],
    missing: Sequence[str],
    unused: Sequence[str],
    shapes: Sequence[str],
) -> str:
    names = [*missing, *unused]
    if not shapes and all(name.startswith(_MASKS) for name in names):
        has, start = ("no masks", "starts at random") if missing else ("masks", "is left out")
        return (
            f"the file has {has}: write MODEL.MASK_ON {not missing}. (A training takes it as it "
            f"is: the mask head {start})"
        )
    theirs, ours = file.architecture, guess_architecture(own)
    fit = "or add --fit-config" + " and --preprocessing" * (file.preprocessing is None)
    other = ""
    if theirs is not None and theirs != ours:
        keys = ", ".join(f"{key} {value}" for key, value in write_architecture(theirs).items())
        other = f"the file is {theirs}: set MODEL.RESNETS.{keys}, {fit}"
    if file.format == "detector":
        own_config = (
            "use the configuration that the file was trained with (config.yaml beside it), or its "
            "backbone alone, which resnext-det convert --backbone-only takes out"
        )
        return f"{other}; {own_config}" if other else own_config
    if names and not shapes and all(".norm." in name for name in names):
        return (
            "the norm is another: set MODEL.RESNETS.NORM to the file's, FrozenBN for any batch "
            f"norm, {fit}"
        )
    if other:
        return other
    if any(map(_OFFSET.search, [*names, *shapes])):
        settings = find_deformable_settings(file.state).items()
        return (
            "the file has deformable convolutions: set MODEL.RESNETS."
            f"{', '.join(f'{key} {value}' for key, value in settings)}, {fit} (a classifier has "
            "none)"
        )
    if len(shapes) == 1 and shapes[0].endswith(_STEM):
        return (
            "the images have another number of channels; give weights for them, or load these with "
            "inflate_input=True"
        )
    return (
        "give all the weights of this architecture, or set "
        f"MODEL.RESNETS.{', '.join(ARCHITECTURE_KEYS)} to the file's"
    )
