"""An image file as a uint8 array, as detectron2's ``detection_utils.read_image`` gives it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

FORMATS = ("BGR", "RGB", "L")

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What PIL's decoders raise on a file that is cut off or is no image.
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


def read_image(path: str | Path, format: str) -> np.ndarray:
    """Decode an image file, turned upright by its EXIF orientation.

    Equals detectron2's ``read_image`` on 8-bit files of every mode (grayscale, palette, RGBA, LA, CMYK, ...);
    an alpha channel is left out, as there. 16-bit grayscale is scaled to 8 bits (its high byte), where
    detectron2 saturates.

    Args:
        path: the file.
        format: "BGR", "RGB" or "L" (gray).

    Returns:
        uint8, (height, width, 3), or (height, width, 1) for "L".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated or is no image, its pixels are 32-bit numbers, or the format is
        unknown.
    """
    if format not in FORMATS:
        raise ValueError(
            f"image format {format!r} is not supported; INPUT.FORMAT is one of {', '.join(FORMATS)}"
        )
    try:
        with open(path, "rb") as file:
            pixels = decode_image(file, "L" if format == "L" else "RGB", upright=True)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"image {path} does not exist; a file name in the annotations is relative to the dataset's image "
            f"folder: correct the folder (built-in datasets lie under $DETECTRON2_DATASETS, others where "
            f"--register-coco NAME ANNOTATIONS IMAGES says) or put the file there"
        ) from None
    except (OSError, ValueError) as error:
        raise ValueError(
            f"image {path} cannot be read: {error}; replace the file (copy or download it again), "
            f"or remove it from the annotations"
        ) from error
    if format == "L":
        return pixels[:, :, None]
    return pixels[:, :, ::-1] if format == "BGR" else pixels


def decode_image(file: BinaryIO, mode: str, *, upright: bool) -> np.ndarray:
    """Decode an open image file of any format and mode; 16-bit grayscale is scaled to 8 bits.

    Args:
        file: read from where it stands.
        mode: "RGB" or "L" (gray).
        upright: turn the image by its EXIF orientation.

    Returns:
        uint8, (height, width, 3), or (height, width) for "L"; it may be read-only.

    Raises:
        ValueError: the file is truncated or is no image, or its pixels are 32-bit numbers; the text is the reason alone.
    """
    try:
        with Image.open(file) as image:
            image.load()
            return np.asarray(_eight_bit(_upright(image) if upright else image).convert(mode))
    except UnidentifiedImageError as error:
        raise ValueError("it is no image of a known format") from error
    except _DECODING_ERRORS as error:
        raise ValueError(str(error)) from error


def check_image_size(record: dict[str, Any], image: np.ndarray) -> None:
    """Raise ValueError where a record's width and height are not its image's (after EXIF orientation)."""
    height, width = image.shape[:2]
    if (width, height) == (record["width"], record["height"]):
        return
    raise ValueError(
        f"image {record['file_name']} is {width} x {height} pixels (width x height, upright after its EXIF "
        f"orientation), but its annotations say {record['width']} x {record['height']}; correct 'width' and "
        f"'height' of image id {record['image_id']} in the annotations, or put the right file there"
    )


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except (
        Exception
    ):  # a malformed EXIF block is no reason to refuse the pixels; PIL raises many types on it
        return image
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit gray to 8 bits: PIL's own conversion would make every pixel over 255 white."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(
            f"its pixels are 32-bit numbers (mode {image.mode}) of unknown range, convert it to 8 bits"
        )
    return image
