"""Take images as users have them: paths, images of Pillow and arrays, alone or in a list."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resnext_det.data.reading import (
    convert_image,
    decode_image,
    describe_irregular_file,
    explain_unreadable,
    open_image,
    order_channels,
)

# Not of MPO, the photographs of telephones: their other images are those of a second lens, a depth
# map and the like.
_OF_FRAMES = ("GIF", "TIFF", "PNG", "WEBP", "AVIF")

AnyImage = np.ndarray | Image.Image | str | Path


def to_pixels(image: AnyImage, format: str, *, upright: bool = True) -> np.ndarray:
    """Turn an image of any kind into the pixels that a model takes.

    Args:
        image: the path of a file, whose first frame is read; an image of Pillow of any mode, which
            gives the pixels that its file gives; or an array: uint8 (height, width, channels) with
            the channels in the order of ``format``, or gray, uint8 or bool, (height, width) or
            (height, width, 1).
        format: "BGR", "RGB" or "L" (gray).
        upright: turn files and images of Pillow by their EXIF orientation.

    Returns:
        uint8 (height, width, 3), or (height, width, 1) for "L".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is a folder, broken or no image; the array has another shape or type;
            there is no pixel; it is something else, such as None.
    """
    check_image(image, format)
    if isinstance(image, np.ndarray):
        levels = image if image.dtype == np.uint8 else image.astype(np.uint8) * 255
        if levels.shape[2:] == (_count_channels(format),):
            return levels
        return np.repeat(levels.reshape(*levels.shape[:2], 1), _count_channels(format), axis=2)
    mode = "L" if format == "L" else "RGB"
    try:
        if isinstance(image, Image.Image):
            return order_channels(convert_image(image, mode, upright=upright), format)
        with Path(image).expanduser().open("rb") as file:
            return order_channels(decode_image(file, mode, upright=upright), format)
    except (OSError, ValueError) as error:
        which = f"of mode {image.mode}" if isinstance(image, Image.Image) else image
        raise ValueError(explain_unreadable(which, error, "give another one")) from error


def check_image(image: Any, format: str) -> None:
    """Refuse what ``to_pixels`` cannot take, as far as that can be told without reading a file.

    Raises:
        FileNotFoundError, ValueError: see ``to_pixels``.
    """
    if isinstance(image, str | Path):
        path = Path(image).expanduser()
        if path.is_dir():
            raise ValueError(f"{path} is a folder; give the path of one image, or a list of paths")
        if not path.exists():
            raise FileNotFoundError(f"there is no image {path}; give the path of a file")
        if kind := describe_irregular_file(path.stat().st_mode):
            raise ValueError(f"{path} is {kind}, not a file; give the path of an image file")
    elif isinstance(image, Image.Image):
        _check_size(image.height, image.width)
    elif isinstance(image, np.ndarray):
        _check_array(image, format)
    elif image is None:
        raise ValueError(
            "the image is None, as cv2.imread gives for a file that is missing or no image; check "
            "the path, or give the path itself"
        )
    else:
        raise ValueError(
            f"the image is of the type {type(image).__name__}; give the path of a file, an image "
            "of Pillow, or an array of uint8 (height, width, channels)"
        )


def count_frames(path: str | Path) -> int:
    """Count the images in a file: the frames of an animated GIF, the pages of a TIFF; usually 1."""
    with contextlib.suppress(OSError, ValueError), open_image(path) as image:
        if image.format in _OF_FRAMES:
            return getattr(image, "n_frames", 1)
    return 1


def apply_to_each(images: Any, format: str, work: Callable[[AnyImage], Any]) -> Any:
    """Apply a function to one image, or to each of a list or tuple; an error says which it was.

    Everything in the list is checked, as far as ``check_image`` can, before the first is done.
    """
    if not isinstance(images, list | tuple):
        return work(images)
    _apply_in_order(images, lambda image: check_image(image, format))
    return _apply_in_order(images, work)


def _apply_in_order(images: Sequence[Any], work: Callable[[Any], Any]) -> list[Any]:
    results = []
    for number, image in enumerate(images):
        try:
            results.append(work(image))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"entry {number} of the list: {error}") from error
        except ValueError as error:
            raise ValueError(f"entry {number} of the list: {error}") from error
    return results


def _check_array(image: np.ndarray, format: str) -> None:
    channels = _count_channels(format)
    gray = image.ndim in (2, 3) and image.shape[2:] in ((), (1,))
    gray = gray and image.dtype in (np.uint8, np.bool_)
    color = image.ndim == 3 and image.shape[2] == channels and image.dtype == np.uint8
    if not gray and not color:
        form = "(height, width), gray"
        if channels > 1:
            form = f"(height, width, {channels}), channels in the order {format}"
        raise ValueError(
            f"the image is {image.dtype} of the shape {image.shape}; give uint8 of the shape "
            f"{form}, or the path of a file"
        )
    _check_size(*image.shape[:2])


def _check_size(height: int, width: int) -> None:
    if not height or not width:
        raise ValueError(
            f"the image has no pixel: it is {height} rows x {width} columns, as a crop outside of "
            "its image gives; leave it out"
        )


def _count_channels(format: str) -> int:
    return 1 if format == "L" else 3
