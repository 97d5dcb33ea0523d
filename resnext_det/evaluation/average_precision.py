"""Compute the average precision of many categories at once, by COCO's rule of 101 recalls."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from resnext_det.evaluation.matching import Matches

RECALLS = np.linspace(0.0, 1.0, 101)


class Segments:
    """Sum over segments: detections in a row that are of one category, at one threshold.

    Args:
        numbers: (E,), the segment of every detection, rising; the highest score of each first.
        count: how many segments there are, S; some may have no detection.
    """

    def __init__(self, numbers: np.ndarray, count: int) -> None:
        self.count = count
        changes = np.flatnonzero(np.diff(numbers)) + 1
        self.firsts = np.concatenate([[0], changes])[: len(numbers)].astype(np.int64)
        self.present = numbers[self.firsts]
        self.lengths = np.diff(self.firsts, append=len(numbers))
        # The first segment has the highest number, so that a maximum that runs backwards is
        # overtaken at the end of each.
        self.apart = 2.0 * (count - numbers)

    def accumulate(self, values: np.ndarray) -> np.ndarray:
        """Sum up values (E,) from the start of each one's segment."""
        sums = np.cumsum(values)
        return sums - np.repeat(sums[self.firsts] - values[self.firsts], self.lengths)

    def add(self, values: np.ndarray) -> np.ndarray:
        """Add up the values (E,) of every segment, (S,)."""
        sums = np.zeros(self.count)
        if len(values):
            sums[self.present] = np.add.reduceat(values, self.firsts)
        return sums

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Give every detection (E,) the value of its segment, of (S,)."""
        return np.repeat(values[self.present], self.lengths)


def compute_average_precision(
    segments: Segments, correct: np.ndarray, counted: np.ndarray, objects: np.ndarray
) -> np.ndarray:
    """Compute the AP, 0 to 1, of every segment; nan without objects.

    Wrong detections may be left out: the curve is defined by the correct ones.

    Args:
        correct: (E,), how many detections of the segment were correct so far.
        counted: (E,), how many counted so far, correct or wrong.
        objects: (S,), how many objects every segment has.
    """
    recall = correct / segments.spread(np.maximum(objects, 1))
    reached = (recall * 100 + 1e-6).astype(np.int64)
    reached += RECALLS[reached] <= recall  # how many of the recalls this one reaches
    steps = np.diff(reached, prepend=0)
    steps[segments.firsts] = reached[segments.firsts]
    precision = correct / (counted + np.spacing(1))
    # The largest precision from here to the end of the segment.
    best = np.maximum.accumulate((precision + segments.apart)[::-1])[::-1] - segments.apart
    areas = segments.add(best * steps)
    return np.where(objects > 0, areas / len(RECALLS), np.nan)


def compute_curves(matches: Matches, limits: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Compute the precisions at all recalls, and the recalls, to the last bit as pycocotools.

    Args:
        limits: how many detections of an image and category count, M numbers, ascending.

    Returns:
        precision (T, R, K, A, M) and recall (T, K, A, M), 0 to 1, -1 where there is no object.
    """
    truth, found = matches.truth, matches.found
    thresholds, areas, _ = matches.objects.shape
    shape = len(truth.class_names), areas, len(limits)
    precision = np.full((thresholds, len(RECALLS), *shape), -1.0)
    recall = np.full((thresholds, *shape), -1.0)
    bounds = np.searchsorted(found.categories, np.arange(shape[0] + 1))
    for category, (start, stop) in enumerate(pairwise(bounds)):
        first, last = np.searchsorted(matches.candidates, (start, stop))
        objects = np.full((thresholds, areas, stop - start), -1)
        objects[:, :, matches.candidates[first:last] - start] = matches.objects[:, :, first:last]
        ranks = matches.ranks[start:stop]
        for area in range(areas):
            ignored = matches.ignored[area]
            number = int((~ignored[truth.categories == category]).sum())
            if number == 0:
                continue
            of_area = objects[:, area]
            out = matches.outside[area, start:stop]
            ignoring = np.where(of_area >= 0, np.append(ignored, False)[of_area], out)
            for m, limit in enumerate(limits):
                these = ranks < limit
                counting = ~ignoring[:, these]
                hits = (of_area[:, these] >= 0) & counting
                curve, reached = _draw_curve(hits, counting & ~hits, number)
                precision[:, :, category, area, m] = curve
                recall[:, category, area, m] = reached
    return precision, recall


def _draw_curve(hits: np.ndarray, wrong: np.ndarray, objects: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute the precision (T, R) and the last recall (T,) of detections (T, N), best first."""
    curve = np.zeros((len(hits), len(RECALLS)))
    if hits.shape[1] == 0:
        return curve, np.zeros(len(hits))
    correct = np.cumsum(hits, axis=1).astype(np.float64)
    false = np.cumsum(wrong, axis=1).astype(np.float64)
    recall = correct / objects
    precision = correct / (false + correct + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    for t, reached in enumerate(recall):
        places = np.searchsorted(reached, RECALLS, side="left")
        places = places[places < len(reached)]
        curve[t, : len(places)] = precision[t, places]
    return curve, recall[:, -1]
