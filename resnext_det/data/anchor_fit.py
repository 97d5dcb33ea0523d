"""Measure how well the anchors of a detector fit the boxes of a set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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


def suggest_anchors(
    boxes: np.ndarray, image_sizes: np.ndarray, grid: AnchorGrid, *, iou: float = 0.5
) -> tuple[AnchorGrid, float, float]:
    """Find anchors of which one overlaps more boxes by ``iou`` or more.

    The sizes are scaled by powers of the square root of 2, from an eighth to 8 times, with the
    aspect ratios as they are and with those of the boxes' 10th, 50th and 90th percentiles, where
    there are three. Number of levels and of anchors stay, and so do the network's weights.

    Args:
        boxes, image_sizes: as ``fit_anchors`` takes them; some thousands are enough.

    Returns:
        The best anchors of these, the share of boxes that the given ones overlap so, and the share
        for the best. The given ones are returned where none is better, and nan for no boxes.
    """
    if not len(boxes):
        return grid, float("nan"), float("nan")

    def measure(other: AnchorGrid) -> float:
        return float((fit_anchors(boxes, image_sizes, other)[0] >= iou).mean())

    present = best_share = measure(grid)
    best = grid
    for ratios in _list_ratios(boxes, grid):
        for power in range(-6, 7):
            sizes = [[round(size * 2 ** (power / 2)) for size in level] for level in grid.sizes]
            if min(map(min, sizes)) < 4:
                continue
            other = replace(grid, sizes=sizes, aspect_ratios=ratios)
            share = measure(other)
            if share > best_share:
                best, best_share = other, share
    return best, present, best_share


def _list_ratios(boxes: np.ndarray, grid: AnchorGrid) -> list[Sequence[Sequence[float]]]:
    """List the aspect ratios of a grid and, where it has three, those of boxes."""
    sides = boxes[:, 2:] - boxes[:, :2]
    sides = sides[sides.min(axis=1) > 0]
    if any(len(level) != 3 for level in grid.aspect_ratios) or not len(sides):
        return [grid.aspect_ratios]
    found = np.percentile(sides[:, 1] / sides[:, 0], (10, 50, 90))
    return [grid.aspect_ratios, [[round(float(ratio), 2) or 0.01 for ratio in found]]]
