"""Measure how well the anchors of a detector fit the boxes of a set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class AnchorGrid:
    """Describe the anchors that a detector lays over an image: shapes on a grid for each level.

    Attributes:
        sizes: square roots of the areas in pixels, one list per level, or one list for all.
        aspect_ratios: height / width, likewise.
        strides: pixels between neighboring anchors, one per level.
        offset: from the image's corner to the first anchor's center, in strides.
        padding: an image's sides are padded to a multiple of it; 1 pads nothing.
    """

    sizes: Sequence[Sequence[float]]
    aspect_ratios: Sequence[Sequence[float]]
    strides: tuple[int, ...]
    offset: float = 0.0
    padding: int = 1

    def list_shapes(self) -> np.ndarray:
        """List the S shapes of all levels: (S, 3), width, height and stride in pixels."""
        levels = len(self.strides)
        sizes = list(self.sizes) * (levels if len(self.sizes) == 1 else 1)
        ratios = list(self.aspect_ratios) * (levels if len(self.aspect_ratios) == 1 else 1)
        return np.array(
            [
                (size / ratio**0.5, size * ratio**0.5, stride)
                for level, stride in enumerate(self.strides)
                for size in sizes[level]
                for ratio in ratios[level]
            ],
            np.float64,
        ).reshape(-1, 3)


def fit_anchors(
    boxes: np.ndarray, image_sizes: np.ndarray, grid: AnchorGrid
) -> tuple[np.ndarray, np.ndarray]:
    """Find the anchor that overlaps each box best.

    Of the anchors of one shape that is the one whose center is nearest to the box's, in x as in y,
    so that one anchor a shape has to be looked at, and not every one of the image.

    Args:
        boxes: (N, 4), x0, y0, x1, y1 in pixels of the image that the detector sees.
        image_sizes: (N, 2), height and width of the image of each.

    Returns:
        The IoU (N,) with the best anchor, and the index of its shape (N,) in
        ``grid.list_shapes()``; of equal ones the first.
    """
    best, choices = np.full(len(boxes), -1.0), np.zeros(len(boxes), np.int64)
    padded = -(-image_sizes[:, ::-1] // grid.padding) * grid.padding  # width, height
    centers, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    areas = sides.prod(axis=1)
    nearest: dict[float, np.ndarray] = {}  # by stride
    for index, (width, height, stride) in enumerate(grid.list_shapes()):
        if stride not in nearest:
            cells = np.rint(centers / stride - grid.offset)
            cells = np.clip(cells, 0, np.ceil(padded / stride) - 1)
            nearest[stride] = (cells + grid.offset) * stride
        half = np.array([width, height]) / 2
        low = np.maximum(boxes[:, :2], nearest[stride] - half)
        high = np.minimum(boxes[:, 2:], nearest[stride] + half)
        shared = np.maximum(high - low, 0).prod(axis=1)
        ious = shared / (areas + width * height - shared)
        better = ious > best
        best[better], choices[better] = ious[better], index
    return best, choices
