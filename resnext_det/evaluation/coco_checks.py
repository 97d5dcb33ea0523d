"""Tell what makes the numbers of a COCO evaluation doubtful or undefined.

COCO's rules take any numbers: corners in place of width and height, pixels of another size or
categories of another list give an AP near 0, and every detection twice a lower one, in silence.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from resnext_det.evaluation.coco_files import Detections, GroundTruth
from resnext_det.files import list_first

logger = logging.getLogger(__name__)

COCO_LIMIT = 100
"""How many detections of an image and category count in COCO's own numbers."""

MAX_AREA = 1e5**2
"""The largest area of an object that counts, in pixels, as pycocotools has it."""

_SAMPLE = 2000  # detections that are compared with objects, the best of them
_LEAST = 3  # of them have to speak for another form of the boxes before it is told
_MOST_BEYOND = (
    0.1  # of the image's size that boxes of detectors that do not clip them may reach out
)
_MOST_NORMALIZED = 1.5  # pixels: normalized boxes may reach a little out of the image

Boxes = np.ndarray  # (N, 4), as x, y, width, height in pixels

_OTHER_FORMS: dict[str, Callable[[Boxes], Boxes]] = {
    "corners (x0, y0, x1, y1)": lambda box: np.hstack([box[:, :2], box[:, 2:] - box[:, :2]]),
    "corners (y0, x0, y1, x1)": lambda box: np.hstack(
        [box[:, 1::-1], box[:, :1:-1] - box[:, 1::-1]]
    ),
    "center, width and height": lambda box: np.hstack([box[:, :2] - box[:, 2:] / 2, box[:, 2:]]),
}


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
        _find_cut_off(found, len(truth.class_names), limit),
        _find_few_images(found, truth, images),
        *_compare_with_objects(found, truth),
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
    columns = np.column_stack([found.images, found.categories, found.boxes, found.scores])
    bits = np.ascontiguousarray(columns + 0.0, np.float64).view(np.uint64)  # -0.0 becomes 0.0
    random = np.random.default_rng(0)
    with np.errstate(over="ignore"):  # numbers modulo 2**64 that are equal where the rows are
        keys = (bits ^ (bits >> np.uint64(29))) @ random.integers(
            1, 2**63, bits.shape[1], np.uint64
        )
    keys.sort()
    repeated = int((keys[1:] == keys[:-1]).sum())
    if not repeated:
        return ""
    return (
        f"{repeated} of {len(keys)} results repeat another one (the same image, category, box and "
        "score), and each counts as a false detection; list every detection once"
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


def _find_beyond(found: Detections, truth: GroundTruth) -> str:
    """Count the boxes that reach far out of their image, where the annotations tell its size."""
    sizes = truth.sizes[found.images, ::-1].astype(np.float64)
    known = (sizes > 0).all(axis=1)
    starts, ends = found.boxes[known, :2], found.boxes[known, 2:]
    least, most = -_MOST_BEYOND * sizes[known], (1 + _MOST_BEYOND) * sizes[known]
    beyond = ((starts < least) | (starts + ends > most)).any(axis=1).sum()
    if beyond < max(_LEAST, 0.1 * len(starts)):
        return ""
    as_corners = ((starts >= least) & (starts <= ends) & (ends <= most)).all()
    hint = (
        "as corners (x0, y0, x1, y1) all would fit, which they seem to be: write width and height"
        if as_corners
        else "write pixels of the original image, x, y, width, height, and the images' own ids"
    )
    return f"{beyond} of {len(starts)} boxes reach out of their image by a tenth or more; {hint}"


def _compare_with_objects(found: Detections, truth: GroundTruth) -> list[str]:
    """Find another form of the boxes, or order of images or categories, that objects speak for."""
    objects = np.flatnonzero(truth.crowd == 0)
    objects = objects[np.argsort(truth.images[objects], kind="stable")]
    number = min(_SAMPLE, len(objects), len(found.scores))
    if not number:
        return [_find_beyond(found, truth)]
    best = np.argpartition(-found.scores, number - 1)[:number]
    images, boxes = found.images[best], found.boxes[best]
    overlaps, nearest = _find_nearest(images, boxes, truth, objects)

    def doubt(kind: str, others: np.ndarray, remedy: str) -> str:
        for_other = int(((others >= 0.5) & (overlaps < others / 2)).sum())
        for_given = int(((overlaps >= 0.5) & (others < overlaps / 2)).sum())
        if for_other < max(_LEAST, 0.2 * number, 5 * for_given):
            return ""
        given, read = int((overlaps >= 0.5).sum()), int((others >= 0.5).sum())
        return (
            f"{given} of the {number} best boxes cover an object (IoU 0.5), and {read} would if "
            f"{kind}, which they seem to be: {remedy}"
        )

    problems = [
        doubt(
            f"they were {form}",
            _find_nearest(images, convert(boxes), truth, objects)[0],
            "a bbox of COCO is x, y, width, height; convert them",
        )
        for form, convert in _OTHER_FORMS.items()
    ]
    problems += [
        doubt(
            f"they were of the {word} image in the order of the ids",
            _find_nearest(images + step, boxes, truth, objects)[0],
            "write the image ids of the annotation file",
        )
        for word, step in (("next", 1), ("previous", -1))
    ]
    # The first that is found explains the others.
    form = next((problem for problem in [*problems, _find_beyond(found, truth)] if problem), "")
    covering = overlaps >= 0.5
    categories = _doubt_categories(
        found.categories[best][covering], truth.categories[nearest[covering]], truth
    )
    return [form, categories]


def _find_nearest(
    images: np.ndarray, boxes: Boxes, truth: GroundTruth, objects: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find, for every box, the object of its image that it overlaps most.

    Args:
        objects: numbers of the annotations to look at, ordered by image.

    Returns:
        IoU (N,), 0 where there is none, and the number of the annotation (N,).
    """
    places = truth.images[objects]
    first = np.searchsorted(places, images, "left")
    counts = np.searchsorted(places, images, "right") - first
    # Every box beside every object of its image, box after box.
    box = np.repeat(np.arange(len(boxes)), counts)
    start = np.cumsum(counts) - counts
    pairs = objects[np.repeat(first - start, counts) + np.arange(len(box))]
    ious = _compute_ious(boxes[box], truth.boxes[pairs])
    overlaps, nearest = np.zeros(len(boxes)), np.zeros(len(boxes), np.int64)
    order = np.argsort(ious, kind="stable")  # the last that is written is the largest
    overlaps[box[order]], nearest[box[order]] = ious[order], pairs[order]
    return overlaps, nearest


def _compute_ious(one: Boxes, other: Boxes) -> np.ndarray:
    sizes = [np.maximum(boxes[:, 2:], 0) for boxes in (one, other)]
    ends = np.minimum(one[:, :2] + sizes[0], other[:, :2] + sizes[1])
    shared = np.maximum(ends - np.maximum(one[:, :2], other[:, :2]), 0).prod(axis=1)
    total = sizes[0].prod(axis=1) + sizes[1].prod(axis=1) - shared
    return np.divide(shared, total, out=np.zeros(len(total)), where=total > 0)


def _doubt_categories(given: np.ndarray, right: np.ndarray, truth: GroundTruth) -> str:
    """Tell of categories that are all wrong in one way, as where the results have another list.

    Args:
        given, right: the categories (N,) of detections, and of the objects that they cover.
    """
    names = truth.class_names
    pairs, counts = np.unique(given * len(names) + right, return_counts=True)
    by_count = np.argsort(counts, kind="stable")
    commonest = {int(pairs[i]) // len(names): (int(pairs[i]), int(counts[i])) for i in by_count}
    agreeing = sum(count for _, count in commonest.values())
    same = int((given == right).sum())
    if len(given) < 2 * _LEAST or agreeing < 0.9 * len(given) or same > 0.1 * len(given):
        return ""
    examples = list_first(
        (f"{names[category]} on {names[pair % len(names)]}" for category, (pair, _) in
         sorted(commonest.items())), 3
    )  # fmt: skip
    steps = {pair % len(names) - category for category, (pair, _) in commonest.items()}
    shifted = {1: "one too low", -1: "one too high"}.get(steps.pop() if len(steps) == 1 else 0)
    cause = f"they are {shifted}" if shifted else "they seem to be of another list"
    return (
        f"{same} of the {len(given)} best boxes that cover an object have its category; the others "
        f"lie on another one, and always the same ({examples}), so check the category ids: {cause}"
    )


def warn_of_undefined(truth: GroundTruth, images: np.ndarray) -> None:
    """Warn of numbers that will be nan, all of them or those of categories, and say why.

    Args:
        images: numbers of the images to evaluate on.
    """
    chosen = np.isin(truth.images, images)
    counted = chosen & (truth.crowd == 0) & (truth.areas >= 0) & (truth.areas <= MAX_AREA)
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
    return f"the area of every object is below 0 or above {MAX_AREA:.0e}"
