"""Compute what every kind of error costs in AP50, as TIDE does.

TIDE: A General Toolbox for Identifying Object Detection Errors, Bolya et al., ECCV 2020. Of its
package, tidecv, this differs where COCO's rules do: at most ``max_detections`` of an image and
category count (there of an image), an IoU of exactly .5 is enough, detections on crowds are no
errors, categories without an object have no AP; and where all objects of a category are missed,
mending that gives it AP 100 (there 0). hotcoco's ``tide_errors`` has other costs: it takes every
detection with an error of classification or localization for correct then, several at one object
included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from resnext_det.evaluation.average_precision import Segments, compute_average_precision
from resnext_det.evaluation.findings import ERROR_KINDS
from resnext_det.evaluation.matching import LEAST_IOU, THRESHOLDS, Matches

CORRECT, IGNORED = -1, -2
"""Kinds of detections that are no errors."""

_CLASSIFICATION, _LOCALIZATION, _BOTH, _DUPLICATE, _BACKGROUND, _MISSED = range(6)


@dataclass(frozen=True)
class ErrorCost:
    """Hold how often a kind of error occurs, and what it costs.

    Attributes:
        kind: one of ``ERROR_KINDS``.
        count: how often, among all detections that count (``max_detections`` an image and
            category); "missed" counts the objects that neither a correct detection nor one with an
            error of classification or localization is at, as TIDE does.
        count_at_score: how often among the detections of ``by_score.best_score`` or more; "missed"
            counts all objects that none of these has found.
        cost: points of AP50 that would be gained if only these errors were mended, 0 to 100.
    """

    kind: str
    count: int
    count_at_score: int
    cost: float


@dataclass(frozen=True)
class Errors:
    """Hold what is wrong with every detection.

    Attributes:
        kinds: (N,), ``CORRECT``, ``IGNORED`` or an index into ``ERROR_KINDS``.
        targets: (N,), the object that a detection with an error of classification or localization
            is at, -1 for others.
    """

    kinds: np.ndarray
    targets: np.ndarray

    def name_kinds(self) -> np.ndarray:
        """Name what every detection is, (N,): "correct", "ignored" or one of ``ERROR_KINDS``."""
        names = np.array([*ERROR_KINDS, "ignored", "correct"])  # IGNORED and CORRECT from the end
        return names[self.kinds]


def classify_errors(matches: Matches) -> Errors:
    """Tell what is wrong with every detection, see ``ERROR_KINDS``."""
    objects, ignored = matches.find_objects()
    pairs = matches.overlaps
    pairs = pairs.select(~matches.ignored[0][pairs.objects])
    # Ordered so that of every detection the pair of the largest IoU is written last, the first of
    # equal ones.
    pairs = pairs.select(np.lexsort((-pairs.objects, pairs.ious)))
    same = matches.truth.categories[pairs.objects] == matches.found.categories[pairs.detections]
    best, nearest = [], []
    for chosen in (same, ~same):
        these = pairs.select(chosen)
        best.append(np.zeros(len(objects)))
        nearest.append(np.full(len(objects), -1))
        best[-1][these.detections] = these.ious
        nearest[-1][these.detections] = these.objects
    of_class, of_others = best
    enough = THRESHOLDS[0]
    conditions = {
        IGNORED: ignored,
        CORRECT: objects >= 0,
        _LOCALIZATION: (of_class >= LEAST_IOU) & (of_class < enough),
        _CLASSIFICATION: of_others >= enough,
        _DUPLICATE: of_class >= enough,
        _BOTH: of_others > LEAST_IOU,
    }
    kinds = np.select(list(conditions.values()), list(conditions), _BACKGROUND)
    targets = np.select([kinds == _LOCALIZATION, kinds == _CLASSIFICATION], nearest, -1)
    return Errors(kinds, targets)


def compute_error_costs(matches: Matches, errors: Errors, score: float) -> tuple[ErrorCost, ...]:
    """Compute how often each kind of error occurs, and what it costs.

    Args:
        score: for ``count_at_score``.
    """
    truth, found = matches.truth, matches.found
    objects, _ = matches.find_objects()
    counting = ~matches.ignored[0]
    present = np.bincount(truth.categories[counting], minlength=len(truth.class_names))
    free = counting.copy()
    free[objects[objects >= 0]] = False
    # Of several errors at a free object the one of the highest score would find it.
    mending = _choose_first(
        found.scores, np.where(np.append(free, False)[errors.targets], errors.targets, -1)
    )
    missed = free.copy()
    missed[errors.targets[mending]] = False
    correct, counts = errors.kinds == CORRECT, errors.kinds != IGNORED
    now = _compute_ap50(found.scores, found.categories, correct, counts, present)
    shown = found.scores >= score
    costs = []
    for kind, name in enumerate(ERROR_KINDS):
        if kind == _MISSED:
            found_then = np.unique(objects[shown & (objects >= 0)])
            count, at_score = missed.sum(), counting.sum() - len(found_then)
            left = present - np.bincount(truth.categories[missed], minlength=len(present))
            then = _compute_ap50(found.scores, found.categories, correct, counts, left)
            then[(present > 0) & (left == 0)] = 100  # where tidecv says 0
        else:
            these = errors.kinds == kind
            count, at_score = these.sum(), (these & shown).sum()
            mended, gone = these & mending, these & ~mending
            categories = found.categories.copy()
            categories[mended] = truth.categories[errors.targets[mended]]
            then = _compute_ap50(
                found.scores, categories, correct | mended, counts & ~gone, present
            )
        gain = float(np.mean((then - now)[present > 0])) if present.any() else float("nan")
        costs.append(ErrorCost(name, int(count), int(at_score), max(gain, 0.0)))
    return tuple(costs)


def _choose_first(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Choose, for every target, the detection of the highest score (N,); -1 is no target."""
    order = np.lexsort((-scores, targets))
    order = order[targets[order] >= 0]
    firsts = np.diff(targets[order], prepend=-1) != 0
    chosen = np.zeros(len(targets), bool)
    chosen[order[firsts]] = True
    return chosen


def _compute_ap50(
    scores: np.ndarray,
    categories: np.ndarray,
    correct: np.ndarray,
    counting: np.ndarray,
    objects: np.ndarray,
) -> np.ndarray:
    """Compute the AP of every category, in percent, of the detections (N,) that count."""
    order = np.lexsort((-scores, categories))
    order = order[counting[order]]
    segments = Segments(categories[order], len(objects))
    hits = segments.accumulate(correct[order].astype(np.int64))
    counted = segments.accumulate(np.ones(len(order), np.int64))
    return 100 * compute_average_precision(segments, hits, counted, objects)
