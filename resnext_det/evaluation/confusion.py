"""Count which classes a detector takes for which: its confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from resnext_det.evaluation.matching import THRESHOLDS, Matches


@dataclass(frozen=True)
class ConfusionMatrix:
    """Hold how many objects of every class were found as which class.

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


def compute_confusion(matches: Matches, score: float) -> ConfusionMatrix:
    """Count which objects are found as which class, at IoU .5.

    First every detection finds an object of its own class, as for AP, so that the diagonal counts
    the true positives. What is left is paired across classes: the detections of the highest score
    first, each with the free object of the largest IoU. Crowds and detections on them do not count.
    (hotcoco's ``confusion_matrix`` pairs all regardless of class, and counts detections on crowds
    as background.)

    Args:
        score: detections from it on count.
    """
    truth, found = matches.truth, matches.found
    objects, ignored = matches.find_objects()
    shown = (found.scores >= score) & ~ignored
    objects = np.where(shown, objects, -1)
    free = ~matches.ignored[0]
    free[objects[objects >= 0]] = False
    pairs = matches.overlaps
    open_pairs = shown[pairs.detections] & (objects[pairs.detections] < 0) & free[pairs.objects]
    pairs = pairs.select(open_pairs & (pairs.ious >= THRESHOLDS[0]))
    order = np.lexsort((-pairs.ious, pairs.detections, -found.scores[pairs.detections]))
    pairs = pairs.select(order)
    for detection, thing in zip(pairs.detections.tolist(), pairs.objects.tolist(), strict=True):
        if objects[detection] < 0 and free[thing]:
            objects[detection], free[thing] = thing, False
    number = len(truth.class_names)
    rows = np.append(truth.categories, number)[objects[shown]]  # -1 is the last
    counts = np.bincount(
        rows * (number + 1) + found.categories[shown], minlength=(number + 1) ** 2
    ).reshape(number + 1, number + 1)
    counts[:number, number] = np.bincount(truth.categories[free], minlength=number)
    return ConfusionMatrix(truth.class_names, counts, score, float(THRESHOLDS[0]))
