"""Read config.json, which timm writes beside the weights of a model on the Hugging Face hub.

It tells the network, where several have the same names and shapes, and the images that it needs and
was tested on. timm reads and writes it in models/_hub.py, data/config.py and
data/transforms_factory.py.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from resnext_det.architecture import BLOCKS_PER_STAGE, Architecture
from resnext_det.weights.preprocessing import KNOWN, Preprocessing, find_batch_norm
from resnext_det.weights.training_arguments import ANTI_ALIASED, PLAIN_ARGUMENTS

logger = logging.getLogger(__name__)

CONFIG = "config.json"
_LARGEST = 16 << 20  # bytes; the names of 21841 classes with their descriptions take 3 MB
_LONGEST_NOTE = 500
_SIZES = (32, 1024)  # of images in testing
_TIMM = KNOWN["torchvision"]  # what timm takes where a configuration says nothing
_INTERPOLATIONS = ("bilinear", "bicubic")

# timm's names of the networks here; it had prefixes for the publisher before it had tags.
_PLAIN = re.compile(
    r"(?:tv_|gluon_|ssl_|swsl_|ig_)?"
    r"(?:resnet(?P<plain>\d+)|wide_resnet(?P<wide>\d+)_2|resnext(?P<next>\d+)_(\d+)x(\d+)d)"
    r"(?:_gn|_v1b)?"
)
_OTHERS = (
    (r".*(?:aa|blur)\d+.*", ANTI_ALIASED),
    (r"(?:se|eca|ge|gc|sk|cbam|bat_|lambda).*", "has attention modules"),
    (r"(?:wide_)?resnex?t\d+(?:[cdest]|t[ns])(?:_.*)?", "has a stem of several convolutions"),
    (r"resnet(?:10|14|18|34)", "has basic blocks of two convolutions"),
)
# Arguments of timm's networks that change no number in testing, or that the shapes tell.
_HARMLESS = {
    *("layers", "cardinality", "base_width", "channels"),
    *("num_classes", "in_chans", "global_pool", "drop_rate", "drop_path_rate", "drop_block_rate"),
    *("zero_init_last", "img_size", "scriptable", "exportable", "no_jit", "device", "dtype"),
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
}
_AVERAGES = (None, "", "avg", "fast")
_OTHER_STRIDES = ("downsample_in_bottleneck", "downsample_in_first_stage")


class Facts(NamedTuple):
    """Hold what config.json tells of weights.

    Attributes:
        preprocessing: with timm's defaults for what is not stated; None for images of other than
            three channels.
        metadata: ``license``, and for tests ``size_test``, ``resize_test``, ``interpolation``.
        stated: the fields of ``preprocessing`` and keys of ``metadata`` that are no defaults: never
            the channel order or the stride's place, of which it says nothing.
        class_names: of the outputs, in their order; None where they are not told.
    """

    preprocessing: Preprocessing | None
    metadata: dict[str, str]
    stated: frozenset[str]
    class_names: tuple[str, ...] | None


def read_config(folder: Path, *, before_download: bool = False) -> dict[str, Any] | None:
    """Read the config.json of a timm model; None where there is none, or another program's.

    Args:
        before_download: the weights are not here yet: refuse other networks of transformers too.

    Raises:
        ValueError: it is damaged or too large; it is transformers'; it says that the network is
            none of those here.
    """
    path = folder / CONFIG
    if not os.path.isfile(path):
        return None
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST >> 20} MB")
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged, so network and preprocessing of the weights beside it are not "
            f"known ({ascii(str(error))[1:-1]:.100}); correct it, or move it away"
        ) from error
    if not _is_timms(values):
        # transformers' ResNet is read, but for the strides that its names do not tell.
        kind = values.get("model_type") if isinstance(values, dict) else None
        if kind == "resnet" and not _has_other_features(values):
            logger.info("%s is transformers'; it tells no preprocessing.", path)
            return None
        if kind == "resnet" or (before_download and isinstance(kind, str)):
            raise ValueError(_explain_transformers(path, values))
        logger.info("%s is none of timm's, and is passed over.", path)
        return None
    _check_network(path, values)
    return values


def _is_timms(values: Any) -> bool:
    """Recognize timm's layouts: until 0.6 everything stood side by side."""
    return (
        isinstance(values, dict)
        and isinstance(values.get("architecture"), str)
        and (
            isinstance(values.get("pretrained_cfg"), dict)
            or bool({"mean", "std", "input_size"} & set(values))
        )
    )


def _has_other_features(values: Mapping[str, Any]) -> bool:
    """Tell whether a ResNet of transformers has strides or an activation that none here has."""
    other = any(values.get(word) for word in _OTHER_STRIDES)
    return other or values.get("hidden_act", "relu") != "relu"


def _explain_transformers(path: Path, values: Mapping[str, Any]) -> str:
    """Say that a config.json is of a network of transformers that is not read here."""
    names = values.get("architectures")
    first = names[0] if isinstance(names, list) and names else values["model_type"]
    return (
        f"{path} is of transformers' {first!a:.80} (model_type {values['model_type']!a:.40}), "
        "which is another network than those here, or has its strides elsewhere or another "
        "activation; give timm's, such as hf-hub:timm/resnet50.a1_in1k"
    )


def _check_network(path: Path, values: Mapping[str, Any]) -> None:
    """Refuse networks that compute other features than ours from the same weights."""
    name = values["architecture"]
    remedy = (
        "give the weights of a plain ResNet or ResNeXt (or move the file away, if it is not of "
        "these weights)"
    )
    if _parse_architecture(name) is None:
        cause = next((why for names, why in _OTHERS if re.fullmatch(names, name)), None)
        raise ValueError(
            f"{path} says that the network is {name!a:.80}, which "
            f"{cause or 'is no plain ResNet or ResNeXt, as far as its name tells'}; {remedy}"
        )
    arguments = values.get("model_args") or {}
    if not isinstance(arguments, dict):
        raise _refuse(path, "model_args", arguments, "an object")
    for key, value in arguments.items():
        if key not in _HARMLESS and value is not None and value != PLAIN_ARGUMENTS.get(key):
            raise ValueError(
                f"{path} says that the network was built with {key!a:.40} = {value!a:.60}, which "
                f"changes what it computes; {remedy}"
            )


def _parse_architecture(name: str) -> Architecture | None:
    """Parse timm's name of a network; None where it is none of those here."""
    found = _PLAIN.fullmatch(name)
    if found is None or len(name) > 80:
        return None
    depth = int(found["plain"] or found["wide"] or found["next"])
    if depth not in BLOCKS_PER_STAGE or (found["next"] and not int(found[4]) * int(found[5])):
        return None
    if found["next"]:
        return Architecture(depth, int(found[4]), int(found[5]))
    return Architecture(depth, 1, 128 if found["wide"] else 64)


def read_facts(
    folder: Path,
    values: Mapping[str, Any],
    state: Mapping[str, Tensor],
    architecture: Architecture | None,
) -> Facts:
    """Read what a config.json tells of weights, and hold it to their shapes.

    Args:
        folder: of the file, for messages.
        values: of the file, as ``read_config`` gave them.
        state: the weights under our names.
        architecture: of the weights.

    Raises:
        ValueError: the file contradicts the weights, or has values that no timm model has.
    """
    path = folder / CONFIG
    said = values["pretrained_cfg"] if isinstance(values.get("pretrained_cfg"), dict) else values
    _check_shapes(path, values, said, state, architecture)
    triples = {}
    for key, default in (("mean", _TIMM.mean), ("std", _TIMM.std)):
        triples[key] = _read_numbers(path, said, key) or default
    preprocessing: Preprocessing | None = None
    channels = (_read_size(path, said, "input_size") or (3,))[0]
    if channels == 3:
        preprocessing = Preprocessing(
            "RGB", triples["mean"], triples["std"], batch_norm=find_batch_norm(state)
        )
    metadata = {**_read_test(path, said), **_read_license(said)}
    stated = {*metadata, *triples}
    stated -= {key for key in ("mean", "std", "interpolation") if said.get(key) is None}
    if said.get("test_input_size") is None and said.get("input_size") is None:
        stated -= {"size_test", "resize_test"}
    return Facts(preprocessing, metadata, frozenset(stated), _read_class_names(values, said, state))


def _check_shapes(
    path: Path,
    values: Mapping[str, Any],
    said: Mapping[str, Any],
    state: Mapping[str, Tensor],
    architecture: Architecture | None,
) -> None:
    name = values["architecture"]
    if architecture is None:
        raise ValueError(
            f"{path} says that the network is {name}, and the weights beside it are of another "
            f"one; put them beside their own {CONFIG}, or move this away"
        )
    channels = state["stem.conv1.weight"].shape[1] if "stem.conv1.weight" in state else None
    size = _read_size(path, said, "input_size")
    if size and channels is not None and size[0] != channels:
        raise ValueError(
            f"{path} has the input_size {list(size)}, and the weights beside it are for images of "
            f"{channels} channels; put them beside their own {CONFIG}, or move this away"
        )
    outputs = len(state["linear.bias"]) if "linear.bias" in state else None
    classes = values.get("num_classes", said.get("num_classes"))
    if _parse_architecture(name) != architecture or (classes and outputs not in (None, classes)):
        of_classes = f" of {classes!a:.40} classes" if classes else ""
        _warn_once(
            f"{path} says that the network is {name}{of_classes}, and the weights beside it "
            f"are of {architecture}, {outputs or 'no'} classes; what it says of images is taken, "
            "and is wrong if it is of other weights."
        )
    pool = values.get("global_pool")
    if outputs is not None and pool not in _AVERAGES:
        raise ValueError(
            f"{path} says that the classifier has the global_pool {pool!a:.60}, and a ResNeXt's "
            "averages its maps; give weights of such a one"
        )


def _read_numbers(
    path: Path, said: Mapping[str, Any], key: str
) -> tuple[float, float, float] | None:
    """Read a mean or std on the scale 0-1, one number a channel, as such on the scale 0-255."""
    numbers = said.get(key)
    if numbers is None:
        return None
    low = 0.001 if key == "std" else 0
    if not (
        isinstance(numbers, list)
        and len(numbers) in (1, 3)
        and all(type(each) in (int, float) and low <= each <= 1 for each in numbers)
    ):
        raise _refuse(path, key, numbers, f"three numbers from {low} to 1")
    first, second, third = (round(each * 255, 6) for each in (numbers * 3)[:3])
    return first, second, third


def _read_size(path: Path, said: Mapping[str, Any], key: str) -> tuple[int, int, int] | None:
    """Read the channels, height and width of an image."""
    size = said.get(key)
    if size is None:
        return None
    if not (
        isinstance(size, list)
        and len(size) == 3
        and all(type(each) is int for each in size)
        and 1 <= size[0] <= 64
        and all(_SIZES[0] <= each <= _SIZES[1] for each in size[1:])
    ):
        raise _refuse(path, key, size, f"[3, height, width], {_SIZES[0]} to {_SIZES[1]} pixels")
    return size[0], size[1], size[2]


def _read_test(path: Path, said: Mapping[str, Any]) -> dict[str, str]:
    """Read the images of timm's own test, as its validate.py chooses them."""
    size = _read_size(path, said, "test_input_size") or _read_size(path, said, "input_size")
    percent, usual = (said.get(key) or None for key in ("test_crop_pct", "crop_pct"))
    percent = percent or usual or 0.875
    if type(percent) not in (int, float) or not 0.5 <= percent <= 1:
        raise _refuse(path, "crop_pct", percent, "a number from 0.5 to 1")
    mode, interpolation = (said.get(key) or None for key in ("crop_mode", "interpolation"))
    for key, value in (("crop_mode", mode), ("interpolation", interpolation)):
        if not isinstance(value, str | None):
            raise _refuse(path, key, value, "a word")
    interpolation = interpolation or "bicubic"
    _, height, width = size or (3, 224, 224)
    if mode not in (None, "center") or height != width or interpolation not in _INTERPOLATIONS:
        _warn_once(
            f"{path}: its test of images of {height}x{width} by {interpolation!a:.40}, crop_mode "
            f"{mode!a:.40}, is not done here; a test of the classifier takes what is usual, and "
            "may give another accuracy."
        )
        return {}
    return {
        "size_test": str(height),
        "resize_test": str(math.floor(height / percent)),
        "interpolation": interpolation,
    }


def _read_license(said: Mapping[str, Any]) -> dict[str, str]:
    found = said.get("license")
    return {"license": found[:_LONGEST_NOTE]} if isinstance(found, str) and found else {}


def _read_class_names(
    values: Mapping[str, Any], said: Mapping[str, Any], state: Mapping[str, Tensor]
) -> tuple[str, ...] | None:
    """Read the names of the outputs: a list, or an object by number; "labels" until 0.6."""
    keys = ("label_names", "labels")
    names = next((of[key] for of in (values, said) for key in keys if of.get(key)), None)
    if isinstance(names, dict):
        names = [names.get(str(index)) for index in range(len(names))]
    if not isinstance(names, list) or "linear.bias" not in state:
        return None
    if len(names) != len(state["linear.bias"]) or not all(isinstance(n, str) for n in names):
        return None
    return tuple(names)


@cache
def _warn_once(text: str) -> None:
    """Log a warning once in a process: a training reads its weights several times."""
    logger.warning("%s", text)


def _refuse(path: Path, key: str, value: object, wanted: str) -> ValueError:
    return ValueError(
        f"{path} has the {key} {value!a:.60}, where timm has {wanted}; correct it, or move the "
        "file away if it is not of these weights"
    )
