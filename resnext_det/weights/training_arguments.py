"""Read the arguments that training scripts of timm and torchvision write beside weights, ``args``.

timm's train.py knows the images' mean and std where they were given, torchvision's
references/classification/train.py has them in its code. Both may tell the images of a test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

ORIGIN = "the arguments in the file"

_SIZES = (16, 4096)  # of images, in pixels
_INTERPOLATIONS = ("bilinear", "bicubic")
_USUAL_SIZE = 224  # of a test by timm's script, where none was given


class Arguments(NamedTuple):
    """What the arguments of a training tell.

    Attributes:
        images: fields of ``Preprocessing``; without those that were not given.
        metadata: ``size_test``, ``resize_test`` and ``interpolation``, as far as they were given.
    """

    images: dict[str, Any]
    metadata: dict[str, str]


def read_arguments(found: object) -> Arguments:
    """Read ``args``; what is of another script, or not understood, is passed over."""
    if not isinstance(found, Mapping):
        return Arguments({}, {})
    sizes = {key: _read_size(found.get(key)) for key in ("img_size", "val_crop_size")}
    crop, resize = sizes["val_crop_size"], _read_size(found.get("val_resize_size"))
    percent = found.get("crop_pct")
    if isinstance(percent, float) and 0.1 <= percent <= 1:
        crop = sizes["img_size"] or _USUAL_SIZE
        resize = math.floor(crop / percent)
    told = {
        "size_test": crop,
        "resize_test": resize if crop else None,
        "interpolation": found.get("interpolation"),
    }
    if told["interpolation"] not in _INTERPOLATIONS:  # timm's is "" where it was not given
        del told["interpolation"]
    lowest = {"mean": 0, "std": 0.001}
    images = {key: _read_numbers(found.get(key), low) for key, low in lowest.items()}
    given: dict[str, Any] = {key: numbers for key, numbers in images.items() if numbers}
    if given:
        given["channel_order"] = "RGB"  # as timm's script reads every image
    return Arguments(given, {key: str(value) for key, value in told.items() if value})


def _read_size(value: object) -> int | None:
    return value if type(value) is int and _SIZES[0] <= value <= _SIZES[1] else None


def _read_numbers(value: object, lowest: float) -> tuple[float, ...] | None:
    """Read a mean or std on the scale 0-1, of three channels or one for all, on that of 0-255."""
    if not isinstance(value, list | tuple) or len(value) not in (1, 3):
        return None
    if not all(type(each) in (int, float) and lowest <= each <= 1 for each in value):
        return None
    return tuple(round(each * 255, 6) for each in (*value, *value, *value)[:3])
