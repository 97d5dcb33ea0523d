"""Measure how images look, to tell whether two sets are of the same kind."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import cv2
import numpy as np

from resnext_det.data.inspection.image_files import choose_evenly
from resnext_det.data.reading import read_image

QUALITIES = ("brightness", "contrast", "colorfulness", "sharpness")
"""What is measured of an image, see ``measure_image``."""

_SIDE = 128  # pixels; sharpness is that of details of this size


def measure_images(
    file_names: Sequence[str], *, number: int = 48, seconds: float = 5.0
) -> np.ndarray:
    """Measure some images of a set, evenly chosen.

    Args:
        number: of images at most.
        seconds: after which no other is read.

    Returns:
        a row for every image that could be read: (N, 4), the ``QUALITIES``.
    """
    rows = []
    for index in choose_evenly(len(file_names), number, seconds):
        with suppress(ValueError, OSError):
            rows.append(measure_image(read_image(file_names[index], "BGR")))
    return np.array(rows, np.float64).reshape(-1, len(QUALITIES))


def measure_image(image: np.ndarray) -> tuple[float, float, float, float]:
    """Measure brightness, contrast, colorfulness and sharpness of an image.

    Args:
        image: uint8 (H, W, 3), BGR.

    Returns:
        The mean of the gray values and their standard deviation, and the mean difference between
        the largest and the smallest channel, all 0 to 1; and the standard deviation of the
        Laplacian of the image shrunk to 128 pixels a side, over that of its gray values.
    """
    small = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    values = small.astype(np.float32) / 255
    gray = values.mean(axis=2)
    contrast = float(gray.std())
    edges = cv2.Laplacian(gray, cv2.CV_32F)
    return (
        float(gray.mean()),
        contrast,
        float(np.ptp(values, axis=2).mean()),
        float(edges.std()) / max(contrast, 1e-3),
    )
