"""Compute fb.resnet.torch's transforms in plain loops of float64, after transforms.lua and image.c.

Images are (3, H, W) on the scale 0-1, as Torch's image.load gives them. Draws are given, not made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

EIGENVALUES = [0.2175, 0.0188, 0.0045]
EIGENVECTORS = [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]


def load(image: np.ndarray) -> np.ndarray:
    return image.transpose(2, 0, 1).astype(np.float64) / 255


def cubic(p0: float, p1: float, p2: float, p3: float, x: float) -> float:
    """Main_cubicInterpolate."""
    a1 = p2 - p0
    a2 = 2 * p0 - 5 * p1 + 4 * p2 - p3
    a3 = 3 * (p1 - p2) + p3 - p0
    return p1 + 0.5 * x * (a1 + x * (a2 + x * a3))


def scale_line(source: list[float], length: int) -> list[float]:
    """Main_scaleCubic_rowcol; positions are C floats, as there."""
    if length == len(source):
        return source
    if len(source) == 1:
        return source * length  # C leaves the last one unwritten
    scale = np.float32(len(source) - 1)
    if length > 1:
        scale = scale / np.float32(length - 1)
    line = []
    for position in range(length - 1):
        at = np.float32(position) * scale
        left = int(at)
        p1, p2 = source[left], source[left + 1]
        p0 = source[left - 1] if left > 0 else 2 * p1 - p2
        p3 = source[left + 2] if left + 2 < len(source) else 2 * p2 - p1
        line.append(cubic(p0, p1, p2, p3, float(at - np.float32(left))))
    return [*line, source[-1]]


def scale(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """image.scale(image, width, height, 'bicubic'): rows first, then columns."""
    planes = []
    for plane in image.tolist():
        rows = [scale_line(row, width) for row in plane]
        columns = [scale_line([row[x] for row in rows], height) for x in range(width)]
        planes.append(np.array(columns).T)
    return np.stack(planes)


def scale_shorter(image: np.ndarray, size: int) -> np.ndarray:
    """Scale."""
    height, width = image.shape[1:]
    if (width <= height and width == size) or (height <= width and height == size):
        return image
    if width < height:
        return scale(image, size, int(height / width * size))
    return scale(image, int(width / height * size), size)


def crop(image: np.ndarray, x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    return image[:, y1:y2, x1:x2]


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    x1 = math.ceil((image.shape[2] - size) / 2)
    y1 = math.ceil((image.shape[1] - size) / 2)
    return crop(image, x1, y1, x1 + size, y1 + size)


def ten_crop(image: np.ndarray, size: int) -> np.ndarray:
    height, width = image.shape[1:]
    output = []
    for view in (image, hflip(image)):
        output.append(center_crop(view, size))
        output.append(crop(view, 0, 0, size, size))
        output.append(crop(view, width - size, 0, width, size))
        output.append(crop(view, 0, height - size, size, height))
        output.append(crop(view, width - size, height - size, width, height))
    return np.stack(output)


def random_crop(image: np.ndarray, size: int, padding: int, x1: int, y1: int) -> np.ndarray:
    height, width = image.shape[1:]
    padded = np.zeros((3, height + 2 * padding, width + 2 * padding))
    padded[:, padding : padding + height, padding : padding + width] = image
    return crop(padded, x1, y1, x1 + size, y1 + size)


def hflip(image: np.ndarray) -> np.ndarray:
    return image[:, :, ::-1]


def color_normalize(image: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    return np.stack([(image[c] - mean[c]) / std[c] for c in range(3)])


def grayscale(image: np.ndarray) -> np.ndarray:
    gray = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
    return np.stack([gray, gray, gray])


def color_jitter(image: np.ndarray, steps: Sequence[tuple[str, float]]) -> np.ndarray:
    """ColorJitter, its steps in the drawn order and each with its drawn alpha."""
    for name, alpha in steps:
        other = {
            "brightness": np.zeros_like(image),
            "contrast": np.full_like(image, grayscale(image)[0].mean()),
            "saturation": grayscale(image),
        }[name]
        image = image * alpha + (1 - alpha) * other
    return image


def lighting(image: np.ndarray, alphas: Sequence[float]) -> np.ndarray:
    image = image.copy()
    for channel in range(3):
        for component in range(3):
            image[channel] += (
                EIGENVECTORS[channel][component] * alphas[component] * EIGENVALUES[component]
            )
    return image
