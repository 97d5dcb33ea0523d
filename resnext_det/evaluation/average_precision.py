"""Average precision of many categories at once, by COCO's rule of 101 recalls."""

from __future__ import annotations

import numpy as np

RECALLS = np.linspace(0.0, 1.0, 101)


def accumulate_within(values: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Sum up values (E,) from the start of each one's segment; ``segments`` (E,) rise."""
    sums = np.cumsum(values)
    if len(sums) == 0:
        return sums
    firsts = np.concatenate([[0], np.flatnonzero(np.diff(segments)) + 1])
    before = sums[firsts] - values[firsts]
    return sums - np.repeat(before, np.diff(firsts, append=len(sums)))


def compute_average_precision(
    segments: np.ndarray, correct: np.ndarray, counted: np.ndarray, objects: np.ndarray
) -> np.ndarray:
    """Compute the AP, 0 to 1, of every segment (a category at a threshold); nan without objects.

    Detections may be left out where they are wrong: the curve is defined by the correct ones.

    Args:
        segments: (E,) of the detections, rising, the highest score of a segment first.
        correct: (E,), how many detections of the segment were correct so far.
        counted: (E,), how many counted so far, correct or wrong.
        objects: (S,), how many objects every segment has.
    """
    number = np.maximum(objects, 1)[segments]
    recall = correct / number
    reached = (recall * 100 + 1e-6).astype(np.int64)
    reached += 1 - (RECALLS[reached] > recall)  # recalls that this one reaches, 0 among them
    steps = np.diff(reached, prepend=0)
    precision = correct / (counted + np.spacing(1))
    if len(segments):
        firsts = np.concatenate([[0], np.flatnonzero(np.diff(segments)) + 1])
        steps[firsts] = reached[firsts]
        # The largest precision from here on; a step of 2 for each segment keeps them apart.
        apart = 2.0 * (segments[-1] - segments)
        precision = np.maximum.accumulate((precision + apart)[::-1])[::-1] - apart
    areas = np.bincount(segments, weights=precision * steps, minlength=len(objects))
    return np.where(objects > 0, areas / len(RECALLS), np.nan)
