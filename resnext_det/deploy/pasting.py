"""Paste the masks that an exported detector gives into the image, without torch."""

from __future__ import annotations

import numpy as np

_INSIDE = np.float32(0.5)  # the least probability of a pixel of the mask


def paste_masks(
    probabilities: np.ndarray, boxes: np.ndarray, image_size: tuple[int, int]
) -> np.ndarray:
    """Scale square masks to their boxes, bilinearly, and mark the pixels that belong to them.

    The portable detector samples the same places, so that pixels differ only where rounding decides
    whether a probability is 0.5 or more: none or one of a million.

    Args:
        probabilities: float32 (N, S, S), from 0 to 1.
        boxes: float32 (N, 4), x0, y0, x1, y1 in pixels, none of them empty.
        image_size: (height, width) of the image.

    Returns:
        bool (N, height, width).
    """
    height, width = image_size
    pasted = np.zeros((len(boxes), height, width), bool)
    for mask, box, whole in zip(probabilities, boxes, pasted, strict=True):
        # A mask reaches no further than one pixel around its box.
        x0, y0 = np.maximum(np.floor(box[:2]) - 1, 0).astype(int).tolist()
        x1, y1 = np.minimum(np.ceil(box[2:]) + 1, (width, height)).astype(int).tolist()
        rows = _weigh_cells(y0, y1, box[1], box[3], len(mask))
        columns = _weigh_cells(x0, x1, box[0], box[2], len(mask))
        whole[y0:y1, x0:x1] = rows @ mask @ columns.T >= _INSIDE
    return pasted


def _weigh_cells(
    start: int, stop: int, low: np.float32, high: np.float32, cells: int
) -> np.ndarray:
    """Compute the weights of bilinear interpolation between cells at the centers of pixels.

    Args:
        start, stop: the first pixel along an axis, and the one after the last.
        low, high: ends of the box along this axis, which is cut into ``cells``.

    Returns:
        float32 (stop - start, cells), 0 for cells that a pixel does not lie beside.
    """
    half = np.float32(0.5)
    centers = np.arange(start, stop, dtype=np.float32) + half
    places = (centers - low) / (high - low) * np.float32(cells) - half
    return np.maximum(1 - np.abs(places[:, None] - np.arange(cells, dtype=np.float32)), 0)
