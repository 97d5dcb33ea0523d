"""Compute COCO's numbers over images drawn anew, many times, for their intervals (bootstrap).

hotcoco's ``compare`` draws too, but counts an image that is drawn twice once, so that its samples
are of 63 % of the images, and its intervals are not those of the set's size.
"""

from __future__ import annotations

import numpy as np

from resnext_det.evaluation.average_precision import Segments, compute_average_precision
from resnext_det.evaluation.coco import choose_limits
from resnext_det.evaluation.matching import Matches

_SEED = 0


class WeightedNumbers:
    """Compute COCO's numbers of a set in which every image stands as often as its weight says.

    What does not depend on the weights is prepared once. As a precision-recall curve is defined by
    its correct detections, only these are walked through, with the number of detections before.

    Args:
        matches: of the whole set.
        limit: how many detections of an image and category count.
    """

    def __init__(self, matches: Matches, limit: int) -> None:
        truth, found = matches.truth, matches.found
        self.num_images, self.num_classes = len(truth.image_ids), len(truth.class_names)
        thresholds, areas, _ = matches.objects.shape
        self._shape = areas, thresholds, self.num_classes
        # Objects that count, by area and category.
        area, objects = np.nonzero(~matches.ignored)
        self._object_images = truth.images[objects]
        self._object_cells = area * self.num_classes + truth.categories[objects]
        # Detections of the right size, area after area, each in COCO's order.
        area, these = np.nonzero(~matches.outside)
        self._counted_images = found.images[these]
        # Matched ones: correct, or ignored where they would count by their own size.
        objects_of = matches.objects.transpose(1, 0, 2)  # (A, T, C)
        axis = np.arange(areas)[:, None, None]
        on_ignored = matches.ignored[axis, objects_of] & (objects_of >= 0)
        correct = (objects_of >= 0) & ~on_ignored
        inside = ~matches.outside[:, matches.candidates][:, None, :]
        area_of, threshold_of, candidate = np.nonzero(correct | (on_ignored & inside))
        detection = matches.candidates[candidate]
        chosen = area_of, threshold_of, candidate
        self._images = found.images[detection]
        self._correct = correct[chosen].astype(np.int64)
        within = inside[area_of, 0, candidate].astype(np.int64)
        self._beyond = self._correct - within  # not counted by size: 1, counted in vain: -1
        category = found.categories[detection]
        numbers = (area_of * thresholds + threshold_of) * self.num_classes + category
        self._segments = Segments(numbers, areas * thresholds * self.num_classes)
        # Where each stands among the counted ones, and where its area and category begin.
        keys = area * len(found.scores) + these
        self._places = np.searchsorted(keys, area_of * len(found.scores) + detection, "right")
        cells = area * self.num_classes + found.categories[these]
        self._begins = np.searchsorted(cells, area_of * self.num_classes + category, "left")
        ranks = matches.ranks[detection]
        limits = choose_limits(limit)[:2]
        self._few = [self._correct * ((ranks < few) & (area_of == 0)) for few in limits]

    def compute(self, weights: np.ndarray) -> np.ndarray:
        """Compute the twelve numbers and the AP of every class, (12 + K,), in percent.

        Args:
            weights: (images,), how often each is there; integers.
        """
        areas, thresholds, classes = self._shape
        cells = areas * classes
        objects = np.bincount(
            self._object_cells, weights=weights[self._object_images], minlength=cells
        ).astype(np.int64)
        of_segment = np.repeat(objects.reshape(areas, 1, classes), thresholds, axis=1)
        weight = weights[self._images]
        hits = weight * self._correct
        counted = np.concatenate([[0], np.cumsum(weights[self._counted_images])])
        so_far = counted[self._places] - counted[self._begins]
        so_far += self._segments.accumulate(weight * self._beyond)
        correct = self._segments.accumulate(hits)
        ap = compute_average_precision(self._segments, correct, so_far, of_segment.ravel())
        ap = ap.reshape(self._shape)

        def average_recall(values: np.ndarray) -> np.ndarray:
            found = self._segments.add(values).reshape(self._shape)
            return np.divide(
                found, of_segment, out=np.full_like(found, np.nan), where=of_segment > 0
            )

        few = [average_recall(weight * these)[0] for these in self._few]
        recall = average_recall(hits)
        parts = [ap[0], ap[0, 0], ap[0, 5], *ap[1:], *few, *recall]
        return 100 * np.array([*map(_average, parts), *map(_average, ap[0].T)])


def draw_numbers(numbers: WeightedNumbers, resamples: int, seed: int = _SEED) -> np.ndarray:
    """Compute the numbers of results on images drawn anew with replacement.

    The same images are drawn for all results on a set, so that their numbers can be compared draw
    by draw.

    Returns:
        (resamples, 12 + K), in percent.
    """
    random = np.random.default_rng(seed)
    count = numbers.num_images
    drawn = np.empty((resamples, 12 + numbers.num_classes))
    for row in drawn:
        images = random.integers(0, count, count) if count else np.empty(0, np.int64)
        row[:] = numbers.compute(np.bincount(images, minlength=count))
    return drawn


def center_draws(value: float, draws: np.ndarray) -> np.ndarray:
    """Move the draws (N,) of a number so that their mean is its value; leave out nan.

    AP runs high where a category has few objects, and higher still where some of their images are
    drawn twice and others are not; so the draws tell how far the number varies, not where it lies.
    """
    defined = draws[~np.isnan(draws)]
    return defined - defined.mean() + value if defined.size else defined


def find_interval(draws: np.ndarray) -> tuple[float, float]:
    """Find where the middle 95 % of the draws (N,) lie; nan, nan of none."""
    if draws.size == 0:
        return float("nan"), float("nan")
    low, high = np.percentile(draws, (2.5, 97.5))
    return float(low), float(high)


def _average(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
