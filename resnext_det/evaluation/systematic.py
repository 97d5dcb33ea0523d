"""Find errors that a detector makes in one way everywhere: names exchanged, boxes displaced.

Each is undone in the detections, and the AP computed anew: what that gains is what the error costs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from resnext_det.evaluation.coco_backends import choose_backend, evaluate_task
from resnext_det.evaluation.coco_files import Detections, GroundTruth
from resnext_det.evaluation.matching import find_overlaps

_MOST_IMAGES = 500  # on which AP is computed anew, evenly chosen
_FEWEST_PAIRS = 30  # objects that tell how boxes are displaced
_FEWEST_OF_CLASS = 5  # objects that tell how a class is called
_DISPLACED = 0.04  # of an object's side; the detectors that were looked at keep below 0.02
_RESIZED = 0.08
_LEAST_GAIN = 2.0  # points of AP


@dataclass(frozen=True, eq=False)
class Nearness:
    """Hold how near P annotations and D detections come to each other, whatever the scores.

    An IoU below 0.1 is 0; with a crowd it is the share of the detection that the crowd covers.

    Attributes:
        reached: (P,) float, an annotation's highest IoU with a detection of its class.
        touched: (P,) float, the same with a detection of any class.
        nearest: (D,) float, a detection's highest IoU with an annotation of any class.
        pairs: (Q, 2) int, annotations (no crowds) and detections that overlap each other most,
            among the best-scored detections of an image, as many as it has annotations.
        pair_ious: (Q,) float.
    """

    reached: np.ndarray
    touched: np.ndarray
    nearest: np.ndarray
    pairs: np.ndarray
    pair_ious: np.ndarray


def measure_nearness(truth: GroundTruth, found: Detections) -> Nearness:
    """Measure how near annotations and detections come to each other."""
    overlaps = find_overlaps(truth, found)
    objects, detections, ious = overlaps.objects, overlaps.detections, overlaps.ious
    same = truth.categories[objects] == found.categories[detections]
    reached, touched = np.zeros(len(truth.images)), np.zeros(len(truth.images))
    nearest = np.zeros(len(found.images))
    np.maximum.at(reached, objects[same], ious[same])
    np.maximum.at(touched, objects, ious)
    np.maximum.at(nearest, detections, ious)
    order = np.lexsort((-found.scores, found.images))
    images = found.images[order]
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order)) - np.searchsorted(images, images)
    number = np.bincount(truth.images, minlength=len(truth.image_ids))
    usable = (truth.crowd[objects] == 0) & (ranks < number[found.images])[detections]
    rising = np.flatnonzero(usable)[np.argsort(ious[usable], kind="stable")]
    best_of_object, best_of_detection = np.full(len(reached), -1), np.full(len(nearest), -1)
    best_of_object[objects[rising]] = rising  # of several the last, the highest, stays
    best_of_detection[detections[rising]] = rising
    mutual = rising[best_of_object[objects[rising]] == rising]
    mutual = mutual[best_of_detection[detections[mutual]] == mutual]
    pairs = np.stack([objects[mutual], detections[mutual]], axis=1)
    return Nearness(reached, touched, nearest, pairs, ious[mutual])


def count_names(truth: GroundTruth, found: Detections, nearness: Nearness) -> np.ndarray:
    """Count annotations (K, K) by class and by that of the detection on them, with IoU 0.5."""
    good = nearness.pairs[nearness.pair_ious >= 0.5]
    counts = np.zeros((len(truth.class_names),) * 2, np.int64)
    np.add.at(counts, (truth.categories[good[:, 0]], found.categories[good[:, 1]]), 1)
    return counts


@dataclass(frozen=True)
class Renaming:
    """Say that objects of some classes are found under each other's names.

    Attributes:
        names: (annotated, detected) of every class concerned.
        counts: of the objects of each: found under that name, and found at all.
        ap, mended_ap: AP in percent with the names as they are and with them exchanged.
    """

    names: tuple[tuple[str, str], ...]
    counts: tuple[tuple[int, int], ...]
    ap: float
    mended_ap: float


def find_renaming(truth: GroundTruth, found: Detections, nearness: Nearness) -> Renaming | None:
    """Find classes whose objects are mostly found under the names of one another."""
    counts = count_names(truth, found, nearness)
    called = _assign_names(counts)
    moved = np.flatnonzero(called != np.arange(len(called)))
    if counts[moved, called[moved]].sum() <= 2 * counts[moved, moved].sum():
        return None
    back = np.empty_like(called)
    back[called] = np.arange(len(called))
    ap = _compute_ap(truth, found)
    mended_ap = _compute_ap(truth, replace(found, categories=back[found.categories]))
    if mended_ap - ap < _LEAST_GAIN:
        return None
    return Renaming(
        tuple((truth.class_names[k], truth.class_names[called[k]]) for k in moved),
        tuple((int(counts[k, called[k]]), int(counts[k].sum())) for k in moved),
        ap,
        mended_ap,
    )


def _assign_names(counts: np.ndarray) -> np.ndarray:
    """Assign a detected class to every annotated one, the most frequent pairs first.

    Where classes are not found often enough, they keep their own names, if these are free.
    """
    number = len(counts)
    called = np.full(number, -1)
    enough = counts >= _FEWEST_OF_CLASS
    own = np.eye(number, dtype=bool)
    # Of equal counts, and of those that are too few, a class's own name comes first.
    order = np.argsort(-(np.where(enough, counts, 0) + 0.5 * own), axis=None, kind="stable")
    for one, other in zip(*np.unravel_index(order, counts.shape), strict=True):
        if called[one] < 0 and other not in called:
            called[one] = other
    return called


@dataclass(frozen=True)
class Displacement:
    """Say how detections differ from annotations in place or size, alike everywhere.

    Attributes:
        kind: "shift" by shares of an object's sides and their sizes, "pixels" by so many pixels,
            "scale" of all coordinates, or "corners": width and height found are x + width and
            y + height of the annotations.
        amount: (2,) in x and y: shares, pixels or factors; of "corners" the factors of the sides.
        growth: (2,) how many times as wide and as high as annotated, by the median.
        pairs: how many objects tell it.
        ap, mended_ap: AP in percent of the detections as they are, and brought back.
    """

    kind: str
    amount: tuple[float, float]
    growth: tuple[float, float]
    pairs: int
    ap: float
    mended_ap: float


def find_displacement(
    truth: GroundTruth, found: Detections, nearness: Nearness
) -> Displacement | None:
    """Find whether detections lie beside the annotations, or are larger, in one way everywhere."""
    pairs = nearness.pairs
    if len(pairs) < _FEWEST_PAIRS:
        return None
    annotated, detected = truth.boxes[pairs[:, 0]], found.boxes[pairs[:, 1]]
    usable = (annotated[:, 2:] > 0).all(axis=1) & (detected[:, 2:] > 0).all(axis=1)
    annotated, detected = annotated[usable], detected[usable]
    apart = _find_centers(detected) - _find_centers(annotated)
    shift = np.median(apart / annotated[:, 2:], axis=0)
    growth = np.median(detected[:, 2:] / annotated[:, 2:], axis=0)
    if np.abs(shift).max() < _DISPLACED and np.abs(np.log(growth)).max() < _RESIZED:
        return None
    amounts = {
        "shift": shift,
        "pixels": np.median(apart, axis=0),
        "scale": np.median(_find_ends(detected) / np.maximum(_find_ends(annotated), 1), axis=0),
        "corners": growth,
    }
    best: Displacement | None = None
    ap = _compute_ap(truth, found)
    for kind, amount in amounts.items():
        boxes = _bring_back(kind, found.boxes, amount, growth)
        mended_ap = _compute_ap(truth, replace(found, boxes=boxes))
        if mended_ap - ap >= _LEAST_GAIN and (best is None or mended_ap > best.mended_ap):
            best = Displacement(
                kind,
                (float(amount[0]), float(amount[1])),
                (float(growth[0]), float(growth[1])),
                len(annotated),
                ap,
                mended_ap,
            )
    return best


def _bring_back(kind: str, boxes: np.ndarray, amount: np.ndarray, growth: np.ndarray) -> np.ndarray:
    if kind == "corners":
        return np.concatenate([boxes[:, :2], np.maximum(boxes[:, 2:] - boxes[:, :2], 1)], axis=1)
    if kind == "scale":
        return boxes / np.maximum(np.tile(amount, 2), 1e-9)
    if kind == "pixels":
        return boxes - np.append(amount, (0, 0))
    sides = boxes[:, 2:] / growth
    return np.concatenate([_find_centers(boxes) - amount * sides - sides / 2, sides], axis=1)


def _find_centers(boxes: np.ndarray) -> np.ndarray:
    return boxes[:, :2] + boxes[:, 2:] / 2


def _find_ends(boxes: np.ndarray) -> np.ndarray:
    return boxes[:, :2] + boxes[:, 2:]


def _compute_ap(truth: GroundTruth, found: Detections) -> float:
    """Compute AP in percent on some hundred images; 0 where it is not defined."""
    number = len(truth.image_ids)
    images = np.unique(np.linspace(0, number - 1, min(number, _MOST_IMAGES)).astype(np.int64))
    backend = choose_backend("auto", truth)
    precision, _ = evaluate_task(backend, truth, found, images, (1, 10, 100))
    defined = precision[:, :, :, 0, -1][precision[:, :, :, 0, -1] > -1]
    return float(defined.mean() * 100) if defined.size else 0.0
