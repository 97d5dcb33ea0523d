"""Confusion matrix of a detector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ConfusionMatrix:
    """How many objects of every class were found as which class.

    Attributes:
        names: K class names, in the order of the annotation file's category ids.
        counts: (K + 1, K + 1) integers; a row is the class of an object, a column that of its
            detection. The last column counts missed objects, the last row detections of no object
            ("background"); their common cell is 0.
        score: detections from it on count.
        iou: a detection and its object have this IoU or more.
    """

    names: tuple[str, ...]
    counts: np.ndarray
    score: float
    iou: float
