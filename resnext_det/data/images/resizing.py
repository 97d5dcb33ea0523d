"""Resize images as Torch 7 did it, and as PIL does it.

The paper trained and tested with ``image.scale(..., "bicubic")`` of Torch 7, through
fb.resnet.torch. That is not what other libraries call bicubic: it samples four pixels an axis with
the Catmull-Rom spline and averages nothing when it shrinks, its corners are the corners of the
source, and its result is neither rounded nor clamped.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import embedding_bag

INTERPOLATIONS = ("torch7_bicubic", "bicubic", "bilinear")
_PIL_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class Box(NamedTuple):
    """Bound a part of an image, in whole pixels."""

    top: int
    left: int
    height: int
    width: int


def resize(
    image: np.ndarray, height: int, width: int, interpolation: str, *, window: Box | None = None
) -> np.ndarray:
    """Resize an image.

    Args:
        image: uint8 RGB, (H, W, 3).
        height: of the result, in pixels.
        width: of the result, in pixels.
        interpolation: "torch7_bicubic" (``scaleBicubic`` of torch/image, generic/image.c), or PIL's
            "bicubic" or "bilinear", which average when they shrink, as torchvision and timm do.
        window: the part of the result that is wanted; "torch7_bicubic" computes no more than that.

    Returns:
        (height, width, 3), or the window's: float32 on the scale 0-255, which it may leave, for
        "torch7_bicubic"; uint8 for PIL's filters.

    Raises:
        ValueError: another image, size or interpolation; a window that is not within the result.
    """
    check_image(image)
    check_interpolation(interpolation)
    if height < 1 or width < 1:
        raise ValueError(
            f"an image cannot be resized to {height}x{width}; give at least one pixel a side"
        )
    top, left, rows, columns = window or Box(0, 0, height, width)
    if not (0 <= top < top + rows <= height and 0 <= left < left + columns <= width):
        raise ValueError(
            f"{window} is not within an image of {height}x{width}; give a part of the result"
        )
    if interpolation == "torch7_bicubic":
        vertical = _compute_taps(image.shape[0], height).select(top, rows)
        horizontal = _compute_taps(image.shape[1], width).select(left, columns)
        return _sum_taps(image, vertical, horizontal)
    resized = Image.fromarray(image).resize((width, height), _PIL_FILTERS[interpolation])
    return np.asarray(resized)[top : top + rows, left : left + columns]


def scale_shorter_side(height: int, width: int, size: int, interpolation: str) -> tuple[int, int]:
    """Compute (height, width) of an image whose shorter side becomes ``size``.

    The longer side is cut to whole pixels. For "torch7_bicubic" it equals ``Scale`` of
    fb.resnet.torch, datasets/transforms.lua, and else ``Resize`` of torchvision; where their
    quotients round apart, the two differ by a pixel.
    """
    short, long = min(height, width), max(height, width)
    if short == size:
        return height, width
    longer = (
        int(long / short * size) if interpolation == "torch7_bicubic" else int(size * long / short)
    )
    return (longer, size) if width < height else (size, longer)


def check_image(image: np.ndarray) -> None:
    """Raise ValueError unless the image is uint8, (H, W, 3), and has pixels."""
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"the image has the shape {image.shape}; give RGB as (H, W, 3), a grayscale image with "
            "its channel repeated (read_image does that)"
        )
    if image.dtype != np.uint8:
        raise ValueError(f"the image is of {image.dtype}; give uint8, on the scale 0-255")
    if image.size == 0:
        raise ValueError(
            f"the image has the shape {image.shape}, which is without a pixel; give a whole one"
        )


def check_interpolation(interpolation: str) -> None:
    """Raise ValueError unless it is one of INTERPOLATIONS."""
    if interpolation not in INTERPOLATIONS:
        raise ValueError(
            f"interpolation is {interpolation!r}; it is one of {', '.join(INTERPOLATIONS)}"
        )


@dataclass(frozen=True)
class _Taps:
    """Express each new position of an axis as the weighted sum of four old ones."""

    indices: Tensor  # int32, (size, 4), counted from ``first``
    weights: Tensor  # float32, (size, 4)
    first: int  # the first old position that has a part in it
    last: int

    def select(self, start: int, length: int) -> _Taps:
        """Select the taps of ``length`` new positions from ``start`` on."""
        if (start, length) == (0, len(self.indices)):
            return self
        indices = self.indices[start : start + length]
        low, high = int(indices.min()), int(indices.max())
        return _Taps(
            indices - low, self.weights[start : start + length], self.first + low, self.first + high
        )


@lru_cache(maxsize=1024)
def _compute_taps(source: int, size: int) -> _Taps:
    """Compute where ``Main_scaleCubic_rowcol`` of torch/image samples an axis, with which weights.

    Positions are computed in float32, as there. What is missing beyond the two ends is continued
    linearly: its weight goes to its two neighbors. The last pixel is the last of the source, also
    where the size is 1.
    """
    if source == 1:  # where Torch leaves the last pixel unwritten
        alone = torch.tensor([[0.0, 1.0, 0.0, 0.0]]).repeat(size, 1)
        return _Taps(torch.zeros(size, 4, dtype=torch.int32), alone, 0, 0)
    scale = np.float32(source - 1) / np.float32(max(size - 1, 1))
    position = np.arange(size, dtype=np.float32) * scale
    position[-1] = source - 1
    base = np.minimum(position.astype(np.int32), source - 2)
    x = (position - base.astype(np.float32)).astype(np.float64)
    weights = np.stack(
        [
            x * (-1 + x * (2 - x)) / 2,
            1 + x * x * (-5 + 3 * x) / 2,
            x * (1 + x * (4 - 3 * x)) / 2,
            x * x * (-1 + x) / 2,
        ],
        axis=1,
    )
    for end, beyond, near, far in ((base == 0, 0, 1, 2), (base == source - 2, 3, 2, 1)):
        weights[end, near] += 2 * weights[end, beyond]
        weights[end, far] -= weights[end, beyond]
        weights[end, beyond] = 0
    indices = np.clip(base[:, None] + np.arange(-1, 3, dtype=np.int32), 0, source - 1)
    return _Taps(
        torch.from_numpy(indices), torch.from_numpy(weights.astype(np.float32)), 0, source - 1
    )


def _sum_taps(image: np.ndarray, vertical: _Taps, horizontal: _Taps) -> np.ndarray:
    """Resize both axes of uint8 (H, W, 3), the width first; float32.

    Each axis is summed as the first of its array, so that whole rows are added; OpenCV turns the
    array in between.
    """
    part = image[vertical.first : vertical.last + 1, horizontal.first : horizontal.last + 1]
    height, width = len(vertical.indices), len(horizontal.indices)
    narrow = _sum_rows(torch.from_numpy(cv2.transpose(part)).float(), horizontal)
    turned = cv2.transpose(narrow.view(width, -1, 3).numpy())
    return _sum_rows(torch.from_numpy(turned), vertical).view(height, width, 3).numpy()


def _sum_rows(rows: Tensor, taps: _Taps) -> Tensor:
    return embedding_bag(taps.indices, rows.flatten(1), per_sample_weights=taps.weights, mode="sum")
