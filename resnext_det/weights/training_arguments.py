"""Read the arguments that training scripts of timm and torchvision write beside weights, ``args``.

timm's train.py knows the images' mean and std where they were given, torchvision's
references/classification/train.py has them in its code. Both may tell the images of a test.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from resnext_det.weights.unpickling.objects import Placeholder

ORIGIN = "the arguments in the file"

_SIZES = (16, 4096)  # of images, in pixels
_INTERPOLATIONS = ("bilinear", "bicubic")
_TIMMS = {"crop_pct", "interpolation"}  # are in all arguments of timm's script
_USUAL_SIZE = 224  # of a test by timm's script, where none was given

ANTI_ALIASED = (
    "is anti-aliased: it blurs or averages its maps before every stride, though names and shapes "
    "of its weights may be a plain ResNet's"
)
"""Explain timm's resnetaa50 and resnetblur50, for errors."""
_ANTI_ALIASED_NAME = re.compile(r"(?:^|[\W_])(?:wide_)?(?:se|eca)?resnex?t(?:aa|blur)\d+", re.ASCII)
PLAIN_ARGUMENTS = {
    **{"aa_layer": None, "act_layer": "relu", "avg_down": False, "output_stride": 32},
    **{"replace_stem_pool": False, "stem_type": ""},
}
"""The arguments of timm's networks that change what is computed, with a plain ResNet's values."""
# Where a training writes its network's name.
_OF_TRAINING = ("args", "hyper_parameters")
_NAMES_OF_NETWORK = ("arch", "model", "model_name", "architecture")


class Arguments(NamedTuple):
    """Hold what the arguments of a training tell.

    Attributes:
        images: fields of ``Preprocessing``; without those that were not given.
        metadata: ``size_test``, ``resize_test`` and ``interpolation``, as far as they were given.
    """

    images: dict[str, Any]
    metadata: dict[str, str]


def read_arguments(found: object) -> Arguments:
    """Read ``args``; what is of another script, or not understood, is passed over."""
    found = read_attributes(found)
    keys = ("img_size", "val_crop_size", "val_resize_size")
    size, crop, resize = (_read_size(found.get(key)) for key in keys)
    percent = found.get("crop_pct")
    if isinstance(percent, int | float) and 0.1 <= percent <= 1:
        crop = _read_side(found.get("input_size"), size or _USUAL_SIZE)
        resize = math.floor(crop / percent) if crop else None
    told = {
        "size_test": crop,
        "resize_test": resize if crop else None,
        "interpolation": found.get("interpolation"),
    }
    if told["interpolation"] not in _INTERPOLATIONS:  # timm's is "" where it was not given
        del told["interpolation"]
    return Arguments(_read_images(found), {key: str(value) for key, value in told.items() if value})


def _read_images(found: Mapping[Any, Any]) -> dict[str, Any]:
    """Read mean and std; the order of channels only where timm's script read every image as RGB."""
    numbers = {key: _read_numbers(found.get(key)) for key in ("mean", "std")}
    given = {key: each for key, each in numbers.items() if each is not None}
    if not given or min(given.get("std", (1,))) < 0.001:
        return {}
    # A mean alone is on the scale 0-1 unless it cannot be; std tells it of both.
    scale = 255 if max(given["std" if "std" in given else "mean"]) <= 1 else 1
    if scale == 255 and any(max(each) > 1 for each in given.values()):
        return {}
    images: dict[str, Any] = {
        key: tuple(round(each * scale, 6) for each in triple) for key, triple in given.items()
    }
    return images | ({"channel_order": "RGB"} if set(found) >= _TIMMS else {})


def _read_size(value: object) -> int | None:
    return value if type(value) is int and _SIZES[0] <= value <= _SIZES[1] else None


def _read_side(size: object, usual: int) -> int | None:
    """Read the side of images from timm's ``input_size``, (3, height, width); None: not square."""
    if not isinstance(size, list | tuple) or len(size) != 3:
        return usual
    return _read_size(size[1]) if size[1] == size[2] else None


def _read_numbers(value: object) -> tuple[float, float, float] | None:
    """Read a mean or std of three channels, or one for all, on either scale."""
    value = [value] if type(value) in (int, float) else value
    if not isinstance(value, list | tuple) or len(value) not in (1, 3):
        return None
    if not all(type(each) in (int, float) and 0 <= each <= 255 for each in value):
        return None
    first, second, third = (*value, *value, *value)[:3]
    return float(first), float(second), float(third)


def check_network(beside: Mapping[str, Any], file_name: str) -> None:
    """Refuse weights whose names and shapes are a plain ResNet's, where a training tells otherwise.

    timm's CheckpointSaver writes the network's name as ``arch`` beside the weights, and the
    arguments of the script as ``args``, with the name as ``model`` and what changes the network as
    ``model_kwargs``; files that it publishes begin with the network's name.

    Raises:
        ValueError: the network computes other features than ours from the same weights.
    """
    remedy = "give the weights of a plain ResNet or ResNeXt (or correct it, if it is wrong)"
    if _ANTI_ALIASED_NAME.match(file_name):
        raise ValueError(
            f"by the file's name the network {ANTI_ALIASED}; give the weights of a plain ResNet "
            "or ResNeXt (or rename the file, if it is one's)"
        )
    places = {"": beside}
    places |= {f"{word}.": read_attributes(beside.get(word)) for word in _OF_TRAINING}
    for place, values in places.items():
        for key in _NAMES_OF_NETWORK:
            name = values.get(key)
            if isinstance(name, str) and _ANTI_ALIASED_NAME.search(name[:200]):
                raise ValueError(
                    f"{place}{key} beside the weights says that the network is {name!a:.80}, which "
                    f"{ANTI_ALIASED}; {remedy}"
                )
        for key, value in read_attributes(values.get("model_kwargs")).items():
            if key in PLAIN_ARGUMENTS and value is not None and value != PLAIN_ARGUMENTS[key]:
                raise ValueError(
                    f"{place}model_kwargs beside the weights says that the network was built with "
                    f"{key} = {value!a:.60}, which changes what it computes; {remedy}"
                )


def read_attributes(found: object) -> Mapping[Any, Any]:
    """Read the entries of a dict, or the attributes of an object such as an argparse.Namespace."""
    if isinstance(found, Placeholder) and isinstance(found.state, dict):
        return found.state
    return found if isinstance(found, Mapping) else {}
