"""Compute precision, recall and F1 of the detections that reach a score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from resnext_det.evaluation.matching import Matches

_STEPS = 100


@dataclass(frozen=True)
class ScoreCurves:
    """Hold precision, recall and F1, 0 to 1, of the detections that reach a score, at IoU 0.5.

    Precision is nan where no detection reaches the score, recall and F1 where there is no object.
    Over several classes objects and detections are counted together, so that frequent classes weigh
    more; crowds do not count.

    Attributes:
        scores: (S,), rising evenly: 0, .01 ... 1, or from the least to the largest score where
            these are beyond.
        precision, recall, f1: (S,).
        best_score: the one of ``scores`` with the highest F1, the middle one of several; where
            nothing is correct, the highest one that as many detections reach as there are objects.
            nan without an object or a detection.
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
        return float(np.max(self.f1))


def compute_score_curves(matches: Matches) -> tuple[ScoreCurves, tuple[ScoreCurves, ...]]:
    """Compute the curves over all classes, and those of every class."""
    low, high, found = 0.0, 1.0, matches.found.scores
    if len(found):
        low, high = min(low, float(found.min())), max(high, float(found.max()))
    scores = low + (high - low) * (np.arange(_STEPS + 1) / _STEPS)
    correct, counted, objects = count_detections(matches, scores)
    every = _make_curves(scores, correct.sum(axis=0), counted.sum(axis=0), int(objects.sum()))
    return every, tuple(
        _make_curves(scores, correct[k], counted[k], int(objects[k])) for k in range(len(objects))
    )


def count_detections(
    matches: Matches, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the detections that reach each of some scores, and of these the correct ones.

    Args:
        scores: (S,), rising.

    Returns:
        for every class the correct ones and all (K, S), at IoU .5, and its objects (K,), crowds and
        detections on them apart.
    """
    truth, found = matches.truth, matches.found
    objects, ignored = matches.find_objects()
    classes, places = len(truth.class_names), len(scores) + 1
    reached = np.searchsorted(scores, found.scores, "right")  # how many of the scores

    def count(chosen: np.ndarray) -> np.ndarray:
        cells = found.categories[chosen] * places + reached[chosen]
        counts = np.bincount(cells, minlength=classes * places).reshape(classes, -1)
        return counts[:, :0:-1].cumsum(axis=1)[:, ::-1]

    present = np.bincount(truth.categories[~matches.ignored[0]], minlength=classes)
    return count(objects >= 0), count(~ignored), present


def _make_curves(
    scores: np.ndarray, correct: np.ndarray, counted: np.ndarray, objects: int
) -> ScoreCurves:
    undefined = np.full(len(scores), np.nan)
    precision = np.divide(correct, counted, out=undefined.copy(), where=counted > 0)
    recall = correct / objects if objects else undefined
    f1 = 2 * correct / (counted + objects) if objects else undefined
    if not objects or not counted[0]:
        best = float("nan")
    elif correct[0] == 0:
        best = scores[np.flatnonzero(counted >= min(objects, counted[0]))[-1]]
    else:
        highest = np.flatnonzero(f1 == f1.max())
        best = scores[highest[len(highest) // 2]]
    return ScoreCurves(scores, precision, recall, f1, float(best), objects)
