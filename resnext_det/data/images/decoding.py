"""Read and decode the images of classification: whole files or ranges of archives, as stored."""

from __future__ import annotations

import io
import math
import os

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_jpeg

from resnext_det.data.reading import decode_image, describe_irregular_file, explain_unreadable

_JPEG = b"\xff\xd8\xff"
_MOST_PIXELS = 89_478_485  # over which Pillow decides, and warns or refuses


def decode_rgb(data: np.ndarray, file_name: str, remedy: str) -> np.ndarray:
    """Decode the contents of an image file of any format and mode to the pixels that Pillow gives.

    The format is told by the contents: some files of ImageNet that are called .JPEG are PNGs, and
    some are CMYK. The EXIF orientation is not applied, as fb.resnet.torch (``image.load``),
    torchvision's ImageNet reference and timm do not: published networks were trained and tested on
    the pixels as they are stored. JPEGs are decoded by torchvision, which is faster and gives the
    same pixels; what it does not take (CMYK, damaged files) goes to Pillow.

    Args:
        data: uint8 (size,), writable.
        file_name: the image's name in an error.
        remedy: what an error says to do.

    Returns:
        uint8 (height, width, 3), writable and not shared with anything.

    Raises:
        ValueError: the file is truncated or is no image, or its pixels are 32-bit numbers.
    """
    if data[:3].tobytes() == _JPEG and _count_jpeg_pixels(data) <= _MOST_PIXELS:
        pixels = _decode_jpeg(data)
        if pixels is not None:
            return pixels
    try:
        return np.array(decode_image(io.BytesIO(data.data), "RGB", upright=False))
    except ValueError as error:
        raise ValueError(explain_unreadable(file_name, error, remedy)) from error


def _count_jpeg_pixels(data: np.ndarray) -> float:
    """Count the pixels that a JPEG's header promises; infinity where it has none.

    torchvision takes the memory before it looks whether the pixels are there.
    """
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = int(data[place + 1])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # the start of a frame
            height, width = (int.from_bytes(data[place + i : place + i + 2], "big") for i in (5, 7))
            return height * width
        fill = marker == 0xFF
        place += 1 if fill else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return math.inf


def _decode_jpeg(data: np.ndarray) -> np.ndarray | None:
    """Decode with torchvision; None where Pillow has to decide."""
    try:
        planes = decode_jpeg(torch.from_numpy(data), mode=ImageReadMode.UNCHANGED)  # (C, H, W)
    except RuntimeError:
        return None
    pixels = planes.permute(1, 2, 0).numpy()  # (H, W, C), as it lies in memory
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    return pixels if pixels.shape[2] == 3 else None


def read_range(path: str, offset: int = 0, size: int | None = None) -> np.ndarray:
    """Read ``size`` bytes of a file from ``offset`` on, by default all, as a writable uint8 array.

    The file is opened anew, so that no two processes share a position in it; for the 110 kB of an
    ImageNet photograph that takes 9 microseconds in place of 5 (decoding takes 700).

    Raises:
        OSError: the file is not there, is a pipe or a device, or cannot be read.
        EOFError: it ends before.
    """
    with open(path, "rb", buffering=0, opener=_open_at_once) as file:
        if kind := describe_irregular_file(os.fstat(file.fileno()).st_mode):
            raise OSError(f"it is {kind}, not a file")
        if size is None:
            size = os.fstat(file.fileno()).st_size - offset
        data = np.empty(size, np.uint8)
        file.seek(offset)
        if file.readinto(data.data) != size:
            raise EOFError(f"{path} ends before byte {offset + size}")
    return data


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for who writes into it, if it is a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
