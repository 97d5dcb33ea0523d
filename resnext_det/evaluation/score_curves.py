"""Precision, recall and F1 of the detections that reach a score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ScoreCurves:
    """Precision, recall and F1, 0 to 1, at IoU .5 of the detections that reach a score.

    Precision is nan where no detection reaches the score, recall and F1 where there is no object.
    Over several classes objects and detections are counted together, so that frequent classes weigh
    more; crowds do not count.

    Attributes:
        scores: (S,), rising evenly: 0 to 1, or from the least to the largest score where these are
            beyond.
        precision, recall, f1: (S,).
        best_score: the one of ``scores`` with the highest F1; the middle one of several. nan
            without an object or a detection.
        objects: how many there are.
    """

    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    best_score: float
    objects: int

    @property
    def best_f1(self) -> float:
        """Give the highest F1, 0 to 1; nan where it is not defined."""
        defined = self.f1[~np.isnan(self.f1)]
        return float(defined.max()) if defined.size else float("nan")
