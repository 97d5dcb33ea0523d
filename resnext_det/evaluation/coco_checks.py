"""Tell what makes the numbers of a COCO evaluation doubtful or undefined.

COCO's rules take any numbers: corners in place of width and height, pixels of another size or
categories of another list give an AP near 0, and every detection twice a lower one, in silence.
"""

from __future__ import annotations

import logging

import numpy as np

from resnext_det.evaluation.coco_files import Detections, GroundTruth
from resnext_det.evaluation.matching import AREA_RANGES
from resnext_det.evaluation.result_forms import Boxes, doubt_form
from resnext_det.files import list_first

logger = logging.getLogger(__name__)

COCO_LIMIT = 100
"""How many detections of an image and category count in COCO's own numbers."""

_MAX_AREA = float(AREA_RANGES[0, 1])  # of an object that counts, in pixels
_LEAST = 3  # boxes without a size that are told
_SHARE_REJOINED = 0.3  # of boxes that stand twice with other scores; rounded ones may by chance
_MOST_NORMALIZED = 1.5  # pixels: normalized boxes may reach a little out of the image


@np.errstate(over="ignore", invalid="ignore")  # of absurdly large numbers
def check_results(
    found: Detections, truth: GroundTruth, images: np.ndarray, name: str, limit: int
) -> None:
    """Refuse boxes of negative size and normalized ones; warn of what else is likely a mistake.

    Half a million detections take a fraction of a second.

    Args:
        images: numbers of the images to evaluate on.
        name: of the results, for messages.
        limit: how many detections of an image and category count.

    Raises:
        ValueError: a width or height is negative, or every box lies within 0 to 1.
    """
    if len(found.images) == 0:
        return
    _refuse_negative_sizes(found.boxes, name)
    _refuse_normalized(found.boxes, truth, name)
    for problem in (
        _find_duplicates(found),
        _doubt_scores(found.scores),
        _find_empty(found.boxes),
        _find_cut_off(found, len(truth.class_names), limit),
        _find_few_images(found, truth, images),
        *doubt_form(found, truth),
    ):
        if problem:
            logger.warning("%s: %s.", name, problem)


def _refuse_negative_sizes(boxes: Boxes, name: str) -> None:
    negative = (boxes[:, 2:] < 0).any(axis=1)
    if negative.any():
        entry = int(np.argmax(negative))
        raise ValueError(
            f"entry {entry} of {name} has bbox {boxes[entry].tolist()}, whose width or height is "
            f"negative, as it is for {negative.sum()} of {len(boxes)} results; a bbox is x, y, "
            "width, height: write x1 - x0 and y1 - y0, not the other way round"
        )


def _refuse_normalized(boxes: Boxes, truth: GroundTruth, name: str) -> None:
    objects = truth.boxes
    if len(objects) and boxes.max() <= _MOST_NORMALIZED < objects.max():
        raise ValueError(
            f"{name}: no number of its {len(boxes)} boxes is above {boxes.max():.3g}, so they are "
            "fractions of the image's size, where those of "
            f"{truth.name} are pixels; multiply x and width by the image's width, y and height by "
            "its height"
        )


def _find_duplicates(found: Detections) -> str:
    """Count results that repeat another one: the same image, category, box and score."""
    columns = [found.images, found.categories, found.boxes, found.scores]
    repeated, total = _count_repeated(np.column_stack(columns)), len(found.scores)
    if repeated:
        return (
            f"{repeated} of {total} results repeat another one (the same image, category, box and "
            "score), and each counts as a false detection; list every detection once"
        )
    repeated = _count_repeated(np.column_stack(columns[:-1]))
    if repeated >= max(_LEAST, _SHARE_REJOINED * total):
        return (
            f"{repeated} of {total} results have the same image, category and box as another one, "
            "with another score, and each counts as a false detection; list every box once: the "
            "results of two runs may be joined"
        )
    return ""


def _count_repeated(columns: np.ndarray) -> int:
    """Count the rows (N, M) that repeat another one."""
    bits = np.ascontiguousarray(columns + 0.0, np.float64).view(np.uint64)  # -0.0 becomes 0.0
    random = np.random.default_rng(0)
    with np.errstate(over="ignore"):  # numbers modulo 2**64 that are equal where the rows are
        keys = (bits ^ (bits >> np.uint64(29))) @ random.integers(
            1, 2**63, bits.shape[1], np.uint64
        )
    keys.sort()
    return int((keys[1:] == keys[:-1]).sum())


def _find_empty(boxes: Boxes) -> str:
    empty = int((boxes[:, 2:] == 0).any(axis=1).sum())
    if empty < max(_LEAST, 0.1 * len(boxes)):
        return ""
    return (
        f"{empty} of {len(boxes)} boxes have the width or height 0, and cover no object; a bbox is "
        "x, y, width, height"
    )


def _doubt_scores(scores: np.ndarray) -> str:
    low, high = scores.min(), scores.max()
    if low < 0 or high > 1:
        kind = "percent" if low >= 0 and high <= 100 else "no probabilities, but logits perhaps"
        return (
            f"scores lie within {low:.4g} to {high:.4g} and not 0 to 1: they are {kind}; only "
            "their order counts here"
        )
    if low == high and len(scores) > 1:
        return (
            f"every score is {low:.4g}, so which detection counts first is the order of the "
            "file's entries; write the detector's own scores"
        )
    return ""


def _find_cut_off(found: Detections, num_classes: int, limit: int) -> str:
    """Tell of detections that COCO's usual limit leaves out; other limits were chosen."""
    if limit != COCO_LIMIT:
        return ""
    counts = np.unique(found.images * num_classes + found.categories, return_counts=True)[1]
    left_out = np.maximum(counts - limit, 0).sum()
    if not left_out:
        return ""
    return (
        f"{left_out} of {len(found.images)} results do not count, as COCO counts the best {limit} "
        f"of an image and category and there are up to {counts.max()}; to count all, write "
        f"max_detections_per_image={counts.max()} (--max-detections {counts.max()})"
    )


def _find_few_images(found: Detections, truth: GroundTruth, images: np.ndarray) -> str:
    with_objects = np.intersect1d(truth.images, images)
    number = np.isin(with_objects, found.images).sum()
    if number * 10 >= len(with_objects):
        return ""
    return (
        f"there are detections on {number} of the {len(with_objects)} images with objects of "
        f"{truth.name}; on the others every object counts as missed: give the results of all "
        "images, or the annotations of these"
    )


def warn_of_id_zero(truth: GroundTruth) -> None:
    """Warn of an annotation whose id pycocotools takes for no match."""
    if truth.id_is_zero.any():
        logger.warning(
            "%s: COCO's evaluation counts the object with annotation id 0 as missed; number them "
            "from 1.",
            truth.name,
        )


def warn_of_undefined(truth: GroundTruth, images: np.ndarray) -> None:
    """Warn of numbers that will be nan, all of them or those of categories, and say why.

    Args:
        images: numbers of the images to evaluate on.
    """
    chosen = np.isin(truth.images, images)
    counted = chosen & (truth.crowd == 0) & (truth.areas >= 0) & (truth.areas <= _MAX_AREA)
    names = np.array(truth.class_names, object)
    missing = np.setdiff1d(np.arange(len(names)), truth.categories[counted])
    if not counted.any():
        reason = _explain_no_object(truth, images, chosen)
        logger.warning("%s: every number is nan, as %s.", truth.name, reason)
    elif len(missing):
        crowds = names[np.intersect1d(missing, truth.categories[chosen])]
        of_crowds = f"; of {list_first(crowds)} there are crowds alone" if len(crowds) else ""
        logger.warning(
            "%s: no object of %d of the %d categories is there to be found, so their AP is nan and "
            "the means leave them out: %s%s.",
            *(truth.name, len(missing), len(names), list_first(names[missing]), of_crowds),
        )


def _explain_no_object(truth: GroundTruth, images: np.ndarray, chosen: np.ndarray) -> str:
    if not truth.image_ids:
        return "it lists no image"
    if not len(images):
        return "image_ids is empty, which chooses no image"
    if not len(truth.images):
        return "it has no annotated object"
    if not chosen.any():
        return (
            f"its {len(truth.images)} annotated objects are all on other images than the "
            f"{len(images)} that image_ids chooses"
        )
    if truth.crowd[chosen].all():
        return (
            f"its {chosen.sum()} annotations here are all crowds (iscrowd 1), which need not be "
            "found"
        )
    return f"the area of every object is below 0 or above {_MAX_AREA:.0e}"
