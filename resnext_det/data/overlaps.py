"""Compute how much boxes overlap."""

from __future__ import annotations

import numpy as np


def compute_ious(
    boxes: np.ndarray, others: np.ndarray, crowd: np.ndarray | bool = False
) -> np.ndarray:
    """Compute the IoU (N,) of boxes (N, 4) with others (N, 4), both x, y, w, h, as pycocotools.

    Args:
        crowd: (N,), which others are crowds, where the shared area is divided by the box's own.
    """
    x, y, w, h = boxes.T
    other_x, other_y, other_w, other_h = others.T
    shared_w = np.minimum(x + w, other_x + other_w) - np.maximum(x, other_x)
    shared_h = np.minimum(y + h, other_y + other_h) - np.maximum(y, other_y)
    shared = np.maximum(shared_w, 0) * np.maximum(shared_h, 0)
    area = w * h
    total = np.where(crowd, area, area + other_w * other_h - shared)
    return np.divide(shared, total, out=np.zeros(len(total)), where=shared > 0)
