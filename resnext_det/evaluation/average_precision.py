"""Average precision of many categories at once, by COCO's rule of 101 recalls."""

from __future__ import annotations

import numpy as np

RECALLS = np.linspace(0.0, 1.0, 101)


class Segments:
    """Runs of detections that belong together: those of a category, at a threshold.

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
