"""Read and decode the images of classification: whole files or ranges of archives, as stored."""

from __future__ import annotations

import io
import os

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_jpeg

from resnext_det.data.reading import decode_image, explain_unreadable

_JPEG = b"\xff\xd8\xff"


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
    if data[:3].tobytes() == _JPEG:
        pixels = _decode_jpeg(data)
        if pixels is not None:
            return pixels
    try:
        return np.array(decode_image(io.BytesIO(data.data), "RGB", upright=False))
    except ValueError as error:
        raise ValueError(explain_unreadable(file_name, error, remedy)) from error


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
        OSError: the file is not there or cannot be read.
        EOFError: it ends before.
    """
    with open(path, "rb", buffering=0) as file:
        if size is None:
            size = os.fstat(file.fileno()).st_size - offset
        data = np.empty(size, np.uint8)
        file.seek(offset)
        if file.readinto(data.data) != size:
            raise EOFError(f"{path} ends before byte {offset + size}")
    return data
