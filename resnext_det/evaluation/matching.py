"""Match detections with objects by COCO's rules, at every IoU threshold and size of objects.

pycocotools does this image by image and category by category, in Python. Here all of them are
matched at once, the best detections first, then the second best, and so on; tests hold the result
to pycocotools' numbers, to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from resnext_det.data.overlaps import compute_ious
from resnext_det.evaluation.coco_files import Detections, GroundTruth
from resnext_det.evaluation.masks import list_encodings

Task = Literal["bbox", "segm"]
"""What is compared, boxes or masks, as COCO's tools call it."""

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""COCO's IoU thresholds, axis T."""

AREA_RANGES = np.array([[0, 1e5**2], [0, 32**2], [32**2, 96**2], [96**2, 1e5**2]], np.float64)
"""Least and largest area in pixels, axis A: all, small, medium and large objects."""

LEAST_IOU = 0.1
"""Pairs of a smaller IoU are not kept: less is background."""

_CHUNK = 1_000_000  # pairs whose IoU is computed at once: some 100 MB


@dataclass(frozen=True)
class Overlaps:
    """Hold pairs of a detection and an object of its image, of any class, with IoU 0.1 or more.

    All are (P,), ordered by detection and then by object; with a crowd the IoU is the share of the
    detection that it covers.
    """

    detections: np.ndarray
    objects: np.ndarray
    ious: np.ndarray

    def select(self, chosen: np.ndarray) -> Overlaps:
        """Select some of the pairs by a mask or numbers."""
        return Overlaps(self.detections[chosen], self.objects[chosen], self.ious[chosen])


@dataclass(frozen=True)
class Matches:
    """Hold the detections that count, with the objects that they find.

    Attributes:
        truth: the objects, G.
        found: the N detections that count, in COCO's order: by category, the highest score first,
            then by image.
        ranks: (N,), the place of each in its image and category, from 0.
        overlaps: its numbers are those of ``found`` and ``truth``.
        ignored: (A, G), objects that do not count: crowds, and those of other sizes.
        outside: (A, N), detections whose own size is another one; they do not count where they find
            no object.
        candidates: (C,), rising numbers of the detections that find an object at some threshold.
        objects: (T, A, C), the object that each finds, -1 for none.
    """

    truth: GroundTruth
    found: Detections
    ranks: np.ndarray
    overlaps: Overlaps
    ignored: np.ndarray
    outside: np.ndarray
    candidates: np.ndarray
    objects: np.ndarray

    def find_objects(self) -> tuple[np.ndarray, np.ndarray]:
        """Find what every detection finds at IoU .5, among objects of all sizes.

        Returns:
            the object of each (N,), -1 for none, and which do not count (N,): those on crowds.
        """
        objects = np.full(len(self.ranks), -1)
        objects[self.candidates] = self.objects[0, 0]
        ignored = np.where(
            objects >= 0, np.append(self.ignored[0], False)[objects], self.outside[0]
        )
        objects[ignored] = -1
        return objects, ignored


@np.errstate(over="ignore", invalid="ignore")  # of absurdly large numbers
def match_detections(
    truth: GroundTruth, found: Detections, limit: int, task: Task = "bbox"
) -> Matches:
    """Match detections with objects as pycocotools does.

    Args:
        limit: how many detections of an image and category count, the best first.
        task: compare the boxes or the masks, which both have to have.
    """
    found, ranks = _order_detections(found, limit)
    low, high = AREA_RANGES[:, :1], AREA_RANGES[:, 1:]
    ignored = (truth.areas < low) | (truth.areas > high) | (truth.crowd == 1)
    areas = measure_areas(found, task)
    overlaps = (find_overlaps if task == "bbox" else find_mask_overlaps)(truth, found)
    near = (overlaps.ious >= THRESHOLDS[0]) & (
        truth.categories[overlaps.objects] == found.categories[overlaps.detections]
    )
    candidates, objects = _match(overlaps.select(near), ranks, ignored, truth.crowd == 1)
    # pycocotools takes the number 0 of an annotation for no match.
    lost = truth.id_is_zero[objects] & ~ignored[np.arange(len(ignored))[:, None], objects]
    objects[lost] = -1
    return Matches(
        truth=truth,
        found=found,
        ranks=ranks,
        overlaps=overlaps,
        ignored=ignored,
        outside=(areas < low) | (areas > high),
        candidates=candidates,
        objects=objects,
    )


def _order_detections(found: Detections, limit: int) -> tuple[Detections, np.ndarray]:
    """Order detections by category, score and image, without those beyond the limit; rank them."""
    order = np.lexsort((-found.scores, found.categories, found.images))
    images, categories = found.images[order], found.categories[order]
    changes = (np.diff(images) != 0) | (np.diff(categories) != 0)
    first = np.concatenate([[0], np.flatnonzero(changes) + 1])[: len(order)]
    ranks = np.arange(len(order)) - np.repeat(first, np.diff(first, append=len(order)))
    order, ranks = order[ranks < limit], ranks[ranks < limit]
    again = np.lexsort((found.images[order], -found.scores[order], found.categories[order]))
    return found.select(order[again]), ranks[again]


def find_overlaps(truth: GroundTruth, found: Detections) -> Overlaps:
    """Find the pairs of one image whose IoU is .1 or more."""
    by_image = np.argsort(truth.images, kind="stable")
    places = truth.images[by_image]
    first = np.searchsorted(places, found.images, "left")
    counts = np.searchsorted(places, found.images, "right") - first
    ends = np.cumsum(counts)
    parts = [Overlaps(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    start = 0
    while start < len(counts):
        done = int(ends[start] - counts[start])
        stop = max(start + 1, int(np.searchsorted(ends, done + _CHUNK, "right")))
        number = counts[start:stop]
        detections = np.repeat(np.arange(start, stop), number)
        offsets = first[start:stop] - (ends[start:stop] - number - done)
        objects = by_image[np.repeat(offsets, number) + np.arange(len(detections))]
        crowd = truth.crowd[objects] == 1
        ious = compute_ious(found.boxes[detections], truth.boxes[objects], crowd)
        parts.append(Overlaps(detections, objects, ious).select(ious >= LEAST_IOU))
        start = stop
    return _concatenate(parts)


def find_mask_overlaps(truth: GroundTruth, found: Detections) -> Overlaps:
    """Find the pairs of one image whose masks have an IoU of .1 or more, by pycocotools."""
    from pycocotools.mask import iou

    assert truth.masks is not None and found.masks is not None
    objects_of, detections_of = (np.argsort(each.images, kind="stable") for each in (truth, found))
    parts = [Overlaps(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    for image in np.intersect1d(truth.images, found.images).tolist():
        objects = _select_image(truth.images, objects_of, image)
        detections = _select_image(found.images, detections_of, image)
        of_found = list_encodings(found.masks[detections], found.images[detections], truth.sizes)
        of_truth = list_encodings(truth.masks[objects], truth.images[objects], truth.sizes)
        ious = iou(of_found, of_truth, truth.crowd[objects].tolist())
        rows, columns = np.nonzero(ious >= LEAST_IOU)
        parts.append(Overlaps(detections[rows], objects[columns], ious[rows, columns]))
    overlaps = _concatenate(parts)
    return overlaps.select(np.lexsort((overlaps.objects, overlaps.detections)))


def _select_image(images: np.ndarray, order: np.ndarray, image: int) -> np.ndarray:
    """Select the numbers of what is on an image; ``order`` sorts ``images``."""
    bounds = np.searchsorted(images, [image, image + 1], sorter=order)
    return order[slice(*bounds)]


def _concatenate(parts: Sequence[Overlaps]) -> Overlaps:
    return Overlaps(
        np.concatenate([part.detections for part in parts]),
        np.concatenate([part.objects for part in parts]),
        np.concatenate([part.ious for part in parts]),
    )


def measure_areas(found: Detections, task: Task) -> np.ndarray:
    """Measure the detections' areas, by which they are small, medium or large: (N,), in pixels."""
    if task == "segm":
        assert found.mask_areas is not None
        return found.mask_areas
    return found.boxes[:, 2] * found.boxes[:, 3]


def _match(
    pairs: Overlaps, ranks: np.ndarray, ignored: np.ndarray, crowd: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Let the detections choose objects, the best of every image and category first.

    A detection takes the free object of the largest IoU, of equal ones the last; one that does not
    count only where it can have no other. A crowd is always free.

    Args:
        pairs: of the same category, with IoU .5 or more.

    Returns:
        the detections that find one, rising (C,), and their objects (T, A, C).
    """
    shape = len(THRESHOLDS), *ignored.shape
    taken = np.zeros(shape, bool)
    order = np.lexsort((pairs.objects, pairs.ious, pairs.detections, ranks[pairs.detections]))
    pairs = pairs.select(order)
    rounds = np.flatnonzero(np.diff(ranks[pairs.detections])) + 1
    chosen = [np.empty(0, np.int64)]
    objects = [np.empty((*shape[:2], 0), np.int64)]
    for start, stop in zip([0, *rounds], [*rounds, len(order)], strict=True):
        these, ious = pairs.objects[start:stop], pairs.ious[start:stop]
        detections = pairs.detections[start:stop]
        number = len(these)
        if number == 0:
            break
        # The pairs of a detection rise in IoU, so that the last that fits is the best.
        free = ~taken[:, :, these] | crowd[these]
        fits = free & (ious >= THRESHOLDS[:, None, None])
        worth = fits * (np.arange(1, number + 1) + number * ~ignored[:, these])
        firsts = np.concatenate([[0], np.flatnonzero(np.diff(detections)) + 1])
        best = np.maximum.reduceat(worth, firsts, axis=2)
        taking = np.where(best > 0, these[(best - 1) % number], -1)
        t, a, _ = np.nonzero(best)
        taken[t, a, taking[best > 0]] = True
        chosen.append(detections[firsts])
        objects.append(taking)
    candidates, found = np.concatenate(chosen), np.concatenate(objects, axis=2)
    order = np.argsort(candidates)
    order = order[(found[:, :, order] >= 0).any(axis=(0, 1))]
    return candidates[order], found[:, :, order]
