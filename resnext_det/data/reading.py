"""Read and decode image files of every kind with Pillow, upright for detection."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import stat
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

logger = logging.getLogger(__name__)

FORMATS = ("BGR", "RGB", "L")
RECORD_REMEDY = "replace the file (copy or download it again), or remove it from the set"

# What PIL's decoders raise on a file that is cut off or is no image.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_DARK = 4096  # 16-bit images below it come from cameras of 12 bits or fewer


class TooManyPixelsError(ValueError):
    """Say that an image is over Pillow's limit of pixels; the text names the remedy too."""


def read_image(path: str | Path, format: str) -> np.ndarray:
    """Decode an image file, turned upright by its EXIF orientation.

    Equals detectron2's ``read_image`` on 8-bit files of every mode (grayscale, palette, RGBA, LA,
    CMYK, ...); an alpha channel is left out, as there. 16-bit grayscale is scaled to 8 bits (its
    high byte), where detectron2 saturates.

    Args:
        path: the file.
        format: "BGR", "RGB" or "L" (gray).

    Returns:
        uint8, (height, width, 3), or (height, width, 1) for "L".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, is no image or no regular file, has more pixels than
            Pillow allows, its pixels are 32-bit numbers, or the format is unknown.
    """
    if format not in FORMATS:
        raise ValueError(
            f"image format {format!r} is not supported; INPUT.FORMAT is one of {', '.join(FORMATS)}"
        )
    try:
        if kind := describe_irregular_file(os.stat(path).st_mode):
            raise ValueError(f"it is {kind}, not a file")
        with open(path, "rb") as file:
            pixels = decode_image(file, "L" if format == "L" else "RGB", upright=True)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"image {path} does not exist; a file name in the annotations is relative to the "
            "dataset's image folder: correct the folder (built-in datasets lie under "
            "$DETECTRON2_DATASETS, others where --register-coco NAME ANNOTATIONS IMAGES says) or "
            "put the file there"
        ) from None
    except (OSError, ValueError) as error:
        raise ValueError(explain_unreadable(path, error, RECORD_REMEDY)) from error
    return order_channels(pixels, format)


def describe_irregular_file(mode: int) -> str | None:
    """Say what a path is that is no regular file, from its ``st_mode``; None for a regular file.

    A pipe or a device would make a reader wait for ever.
    """
    if stat.S_ISREG(mode):
        return None
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def explain_unreadable(path: str | Path, error: Exception, remedy: str) -> str:
    """Say that an image cannot be read and why; ``remedy`` follows, if the error names none."""
    text = f"image {path} cannot be read: {error}"
    return text if isinstance(error, TooManyPixelsError) else f"{text}; {remedy}"


@contextlib.contextmanager
def open_image(file: str | Path | BinaryIO) -> Iterator[Image.Image]:
    """Open an image file with Pillow, without its warnings; only its header is read.

    Raises:
        TooManyPixelsError: the image is over Pillow's limit.
        ValueError: the file is no image, or what is done with the image within fails on the file;
            the text is the reason alone.
    """
    try:
        with warnings.catch_warnings():  # of many pixels and odd metadata
            warnings.simplefilter("ignore")
            opened = Image.open(file)
        with opened as image:
            if image.format == "EPS":  # a program, which Pillow would give to Ghostscript to run
                raise ValueError("it is a PostScript file, convert it to PNG")
            yield image
    except UnidentifiedImageError as error:
        raise ValueError(_describe_no_image(file)) from error
    except Image.DecompressionBombError as error:
        raise TooManyPixelsError(
            f"{str(error).partition(',')[0]} that Pillow sets, so that no file fills the memory; "
            "scale the image down or cut it into tiles, and its boxes with it (a program in Python "
            "can raise PIL.Image.MAX_IMAGE_PIXELS before)"
        ) from error
    except _BROKEN as error:
        raise ValueError(str(error)) from error


def _describe_no_image(file: str | Path | BinaryIO) -> str:
    """Say what a file is in which Pillow sees no image."""
    start = b"?"
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        opened = stack.enter_context(open(file, "rb")) if isinstance(file, str | Path) else file
        opened.seek(0)
        start = opened.read(64)
    if not start:
        return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, and git lfs pull gets the image itself"
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "it is a web page, as a failed download leaves it"
    return "it is no image of a known format"


def is_turned(image: Image.Image) -> bool:
    """Tell whether the EXIF orientation of an opened image exchanges its width and height.

    A PNG's is looked for before its pixels alone, where it stands as a rule.
    """
    if image.format == "PNG" and "exif" not in image.info:
        return False
    with contextlib.suppress(Exception):  # of a malformed EXIF block PIL raises many types
        return image.getexif().get(ExifTags.Base.Orientation) in _TURNED
    return False


def decode_image(file: BinaryIO, mode: str, *, upright: bool) -> np.ndarray:
    """Decode an open image file of any format and mode; 16-bit grayscale is scaled to 8 bits.

    Args:
        file: read from where it stands.
        mode: "RGB" or "L" (gray).
        upright: turn the image by its EXIF orientation.

    Returns:
        uint8, (height, width, 3), or (height, width) for "L"; it may be read-only.

    Raises:
        ValueError: the file is truncated or is no image, or its pixels are 32-bit numbers; the text
            is the reason alone.
        TooManyPixelsError: the image is over Pillow's limit.
    """
    with open_image(file) as image:
        return convert_image(image, mode, upright=upright)


def is_16_bit(image: Image.Image, format: str | None) -> bool:
    """Tell whether an image that was read from a file of this format is 16-bit gray."""
    return image.mode.startswith("I;16") or (image.mode == "I" and format == "PNG")


def convert_image(image: Image.Image, mode: str, *, upright: bool) -> np.ndarray:
    """Convert an image of Pillow, of any mode, as ``decode_image`` does; it stays as it is.

    Raises:
        ValueError: it is broken, or its pixels are 32-bit numbers; the text is the reason alone.
    """
    try:
        with warnings.catch_warnings():  # of palettes, which tell nothing that a user could mend
            warnings.simplefilter("ignore")
            image.load()
            turned = _turn_upright(image) if upright else image
            return np.asarray(_scale_to_eight_bits(turned, image.format).convert(mode))
    except _BROKEN as error:
        raise ValueError(str(error)) from error


def _turn_upright(image: Image.Image) -> Image.Image:
    # A malformed EXIF block is no reason to refuse the pixels; PIL raises many types.
    with contextlib.suppress(Exception):
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            return ImageOps.exif_transpose(image)
    return image


def order_channels(pixels: np.ndarray, format: str) -> np.ndarray:
    """Bring gray or RGB pixels into the form of a format."""
    if format == "L":
        return pixels[:, :, None]
    return pixels[:, :, ::-1] if format == "BGR" else pixels


def _scale_to_eight_bits(image: Image.Image, format: str | None) -> Image.Image:
    """Scale 16-bit gray to 8 bits: PIL's own conversion would make every pixel over 255 white."""
    if is_16_bit(image, format):
        values = np.asarray(image)
        if 0 < values.max(initial=0) < _DARK:
            _warn_of_dark_images()
        return Image.fromarray((values >> 8).astype(np.uint8))
    check_mode(image, format)
    return image


def check_mode(image: Image.Image, format: str | None) -> None:
    """Raise ValueError where the pixels of an opened image have no known range."""
    if image.mode in ("I", "F") and not is_16_bit(image, format):
        raise ValueError(
            f"its pixels are 32-bit numbers (mode {image.mode}) of unknown range, convert it to "
            "8 bits"
        )


@functools.cache  # once in a process
def _warn_of_dark_images() -> None:
    logger.warning(
        "an image of 16 bits has no value of %d or more, as from a camera of 12 bits; its high "
        "byte is what is used, so it becomes nearly black, and others of its kind too: multiply "
        "such images by 16 (to use 16 bits), or convert them to 8 bits",
        _DARK,
    )


def check_image_size(record: dict[str, Any], image: np.ndarray) -> None:
    """Raise ValueError where a record's width and height are not those of its upright image."""
    height, width = image.shape[:2]
    if (width, height) != (record["width"], record["height"]):
        turned = False
        with contextlib.suppress(OSError, ValueError), open_image(record["file_name"]) as opened:
            turned = is_turned(opened)
        raise ValueError(explain_size(record, width, height, turned=turned))


def explain_size(record: dict[str, Any], width: int, height: int, *, turned: bool) -> str:
    """Explain that a record's width and height are not those of its file, and how to mend it.

    Args:
        record: of the image.
        width, height: of the upright image, in pixels.
        turned: the EXIF orientation exchanges the width and height of the stored pixels.
    """
    name, said = record["file_name"], f"{record['width']} x {record['height']}"
    swapped = (record["height"], record["width"]) == (width, height)
    if turned and swapped:
        return (
            f"image {name} is {width} x {height} pixels (width x height) after its EXIF "
            f"orientation, but its annotations say {said}, as it is stored: remove the orientation "
            "from the image files (as does exiftool -Orientation= FOLDER), or export the "
            "annotations anew by a program that turns images upright; to correct 'width' and "
            "'height' alone would leave the boxes wrong"
        )
    remedy = (
        f"correct 'width' and 'height' of image id {record['image_id']} in the annotations if the "
        "boxes are those of this file, or put the right file there"
    )
    scale = width / record["width"]
    if swapped:
        remedy = (
            f"exchange 'width' and 'height' of image id {record['image_id']} if the boxes lie "
            f"right within {width} x {height}; else the image was turned after it was annotated: "
            "put the first file back"
        )
    elif abs(record["height"] * scale - height) <= 1:
        remedy = (
            f"the image was resized: multiply 'width', 'height' and the boxes of image id "
            f"{record['image_id']} by {scale:.4g}, or put the file of the first size back"
        )
    return (
        f"image {name} is {width} x {height} pixels (width x height, upright after its EXIF "
        f"orientation), but its annotations say {said}; {remedy}"
    )
