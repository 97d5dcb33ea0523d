"""Turn weights that were read into others: a backbone alone, or for another preprocessing."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnext_det.config.yaml_files import parse_yaml
from resnext_det.weights.file import WeightFile
from resnext_det.weights.preprocessing import (
    Preprocessing,
    are_close,
    find_batch_norm,
    format_preprocessing,
    list_fields,
    names_stride,
    parse_preprocessing,
)
from resnext_det.weights.published.timm_config import CONFIG
from resnext_det.weights.publishers import FROM_FILE, FROM_WEIGHTS, name_converted, name_usual
from resnext_det.weights.rounding import compute_exactly
from resnext_det.weights.structure import extract_detector_backbone, guess_architecture

logger = logging.getLogger(__name__)

RUN_CONFIG = "config.yaml"
"""The configuration of a run, which both engines write beside its checkpoints."""

ROUNDING = 1e-4  # means this near are one, written with other digits (123.675 and 123.68)


def extract_backbone(file: WeightFile) -> WeightFile:
    """Take out the backbone of a detector or classifier, with its preprocessing.

    Its names are those of ImageNet weights. A detector's preprocessing is the file's own, or else
    that of the run's config.yaml beside the file.

    Raises:
        ValueError: there is no ResNeXt in the file, or the config.yaml beside it is damaged.
    """
    state = select_backbone(file)
    architecture = guess_architecture(state)
    file = add_preprocessing_beside(file)
    return replace(
        file,
        format="native",
        state=state,
        architecture=architecture,
        left_out=(),
        detector=None,
    )


def select_backbone(file: WeightFile) -> dict[str, Tensor]:
    """Select the weights of a detector's or classifier's backbone: stem, res2 ... res5.

    Raises:
        ValueError: a detector's file has no ResNeXt in it.
    """
    if file.format == "detector":
        return extract_detector_backbone(file.state)
    return {name: tensor for name, tensor in file.state.items() if not name.startswith("linear.")}


def add_preprocessing_beside(file: WeightFile) -> WeightFile:
    """Give a detector's file the preprocessing of the config.yaml beside it, where its own is not
    known; other files stay as they are."""
    config = Path(file.path).with_name(RUN_CONFIG)
    if file.format != "detector" or file.preprocessing is not None or not config.is_file():
        return file
    try:
        values = parse_yaml(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{config} is damaged, so the preprocessing of {file.path} is not known; correct it, "
            "or move it away"
        ) from error
    found = read_config_images(values, file.state)
    try:
        preprocessing = None if found is None else Preprocessing.from_dict(found)
    except ValueError:
        preprocessing = None
    if preprocessing is None:
        return file
    origins = dict.fromkeys(list_fields(), RUN_CONFIG) | {"batch_norm": FROM_WEIGHTS}
    return replace(file, preprocessing=preprocessing, origins={**file.origins, **origins})


def read_config_images(values: Any, state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Read the preprocessing of a detector's configuration, also of gray images.

    Args:
        values: of the configuration, by node and key.
        state: the detector's weights.

    Returns:
        the fields of a ``Preprocessing``, unchecked; None where something is left to defaults.
    """
    try:
        model = values["MODEL"]
        return {
            "channel_order": values["INPUT"]["FORMAT"],
            "mean": list(model["PIXEL_MEAN"]),
            "std": list(model["PIXEL_STD"]),
            "stride_in_1x1": model["RESNETS"]["STRIDE_IN_1X1"],
            "batch_norm": find_batch_norm(state),
        }
    except (KeyError, TypeError):
        return None


def assume_preprocessing(file: WeightFile, statement: str | None) -> WeightFile:
    """Give weights the preprocessing that the user states; what is only usual gives way to it.

    So does a config.json, with a warning: timm writes a published model's beside what was trained
    on from it. Where the statement says nothing of the stride, its place stays as it was.

    Args:
        statement: see ``parse_preprocessing``; None: the file stays as it is.

    Raises:
        ValueError: it cannot be read, or the file itself or the catalog tells another one.
    """
    if statement is None:
        return file
    known = file.preprocessing
    assumed = replace(parse_preprocessing(statement), batch_norm=find_batch_norm(file.state))
    tells_stride = names_stride(statement)
    if known is not None and not tells_stride:
        assumed = replace(assumed, stride_in_1x1=known.stride_in_1x1)
    differing = () if known is None else tuple(_list_differing(known, assumed))
    beside = [name for name in differing if file.origins.get(name) == CONFIG]
    facts = [name for name in differing if not file.is_usual(name) and name not in beside]
    if known is not None and facts:
        origin = file.origins.get(facts[0], FROM_FILE)
        raise ValueError(
            f"{file.path} needs {format_preprocessing(known)}, as "
            f"{'it says itself' if origin == FROM_FILE else f'{origin} says'}, and --preprocessing "
            f"{statement} contradicts that; leave it out"
        )
    if known is not None and differing:
        have = format_preprocessing(known)
        usual = f"{have} would be {file.origins[differing[0]]}"
        logger.log(
            logging.WARNING if beside else logging.INFO,
            "%s is taken as --preprocessing %s says; %s.",
            *(file.path, statement, f"the {CONFIG} beside it says {have}" if beside else usual),
        )
    stated = [
        name
        for name in ("channel_order", "mean", "std", *["stride_in_1x1"] * tells_stride)
        if known is None or file.is_usual(name) or name in beside
    ]
    preprocessing = replace(known or assumed, **{name: getattr(assumed, name) for name in stated})
    origins = dict.fromkeys(stated, "--preprocessing") | {"batch_norm": FROM_WEIGHTS}
    if known is None and not tells_stride:
        origins["stride_in_1x1"] = name_usual("torchvision")
    return replace(file, preprocessing=preprocessing, origins={**file.origins, **origins})


def refuse_statement(statement: str | None) -> None:
    """Refuse ``--preprocessing`` where there are no weights of which it could be true."""
    if statement is not None:
        raise ValueError(
            f"--preprocessing {statement} is of weights, and MODEL.WEIGHTS is empty; name their "
            "file, or leave --preprocessing out"
        )


def _list_differing(one: Preprocessing, other: Preprocessing) -> Iterator[str]:
    """List the fields of images and stride that differ, but for rounding."""
    for name in ("channel_order", "stride_in_1x1"):
        if getattr(one, name) != getattr(other, name):
            yield name
    for name in ("mean", "std"):
        if not are_close(getattr(one, name), getattr(other, name)):
            yield name


def change_preprocessing(file: WeightFile, target: Preprocessing) -> WeightFile:
    """Convert a file's weights to another preprocessing, with what it says of its detector.

    A warning tells where the file's own is only usual for it.

    Raises:
        ValueError: the file's own is not known; see ``convert_preprocessing``.
    """
    if file.preprocessing is None:
        raise ValueError(
            f"the preprocessing of {file.path} is not known, so it cannot be converted; say it "
            "with --preprocessing"
        )
    detector = file.detector
    if detector is not None:
        config: Any = copy.deepcopy(dict(detector.config))
        config["INPUT"]["FORMAT"] = target.channel_order
        config["MODEL"] |= {"PIXEL_MEAN": list(target.mean), "PIXEL_STD": list(target.std)}
        detector = replace(detector, config=config)
    state = convert_preprocessing(file.state, file.preprocessing, target)
    usual = [name for name in ("channel_order", "mean", "std") if file.is_usual(name)]
    if usual:
        logger.warning(
            "%s is converted from %s, whose %s %s and not known of it; if it was trained "
            "otherwise, say so with --preprocessing.",
            *(file.path, format_preprocessing(file.preprocessing)),
            *(", ".join(usual), f"{'are' if usual[1:] else 'is'} {file.origins[usual[0]]}"),
        )
    origins = file.origins | {name: name_converted(file.origins[name]) for name in usual}
    return replace(file, state=state, preprocessing=target, detector=detector, origins=origins)


def convert_preprocessing(
    state: Mapping[str, Tensor], source: Preprocessing, target: Preprocessing
) -> dict[str, Tensor]:
    """Convert weights to another channel order or pixel std, by exact algebra.

    conv1's input channels are swapped, and the ratio of the stds is multiplied into it.

    Args:
        state: weights under our names, of a backbone, a classifier or a detector.
        source: what they need.
        target: what they are to need.

    Returns:
        A new dict; all tensors but conv1's are the same. Where its std changes, conv1 of 16 bits
        becomes float32, as 16 bits do not hold the product; in another order it keeps its type.

    Raises:
        ValueError: the means, the stride or the kind of batch norm differ, which no weights make up
            for; or there is no conv1 for three channels.
    """
    for name in ("stride_in_1x1", "batch_norm"):
        have, want = getattr(source, name), getattr(target, name)
        if have != want:
            raise ValueError(
                f"the weights have {name} {have}, not {want}, and converting that is no exact "
                f"algebra; set the configuration to {have}"
            )
    swapped = source.channel_order != target.channel_order
    mean, std = (numbers[::-1] if swapped else numbers for numbers in (source.mean, source.std))
    if not are_close(mean, target.mean, ROUNDING):
        raise ValueError(
            f"the weights are for the mean {list(mean)} in {target.channel_order}, not "
            f"{list(target.mean)}, and no weights make up for another mean: a convolution pads "
            "with zeros, which are pixels of the mean; set MODEL.PIXEL_MEAN to the weights'"
        )
    found = [name for name in state if f".{name}".endswith(".stem.conv1.weight")]
    if len(found) != 1 or state[found[0]].ndim != 4 or state[found[0]].shape[1] != 3:
        raise ValueError(
            "the weights have no stem.conv1.weight for three channels; give those of a ResNeXt or "
            "of a detector that has one"
        )
    weight = state[found[0]].flip(1) if swapped else state[found[0]]
    if std != target.std:
        theirs, ours = (torch.tensor(each, dtype=torch.float64) for each in (std, target.std))
        ratio = (ours / theirs).to(weight.device).view(1, 3, 1, 1)
        before = weight.dtype
        weight = compute_exactly(lambda weight: weight * ratio, weight)
        if weight.dtype != before:
            logger.info("%s was %s and becomes %s.", found[0], before, weight.dtype)
    return {**state, found[0]: weight}
