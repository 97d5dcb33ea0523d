"""Tell another form of detected boxes than COCO's by the objects that they would cover then."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from resnext_det.evaluation.coco_files import Detections, GroundTruth
from resnext_det.evaluation.matching import find_overlaps
from resnext_det.files import list_first

Boxes = np.ndarray
"""(N, 4), as x, y, width, height in pixels."""

_SAMPLE = 2000  # detections that are compared with objects, the best of them
_LEAST = 3  # of them have to speak for another form of the boxes before it is told
_MOST_BEYOND = (
    0.1  # of the image's size that boxes of detectors that do not clip them may reach out
)

_OTHER_FORMS: dict[str, Callable[[Boxes], Boxes]] = {
    "corners (x0, y0, x1, y1)": lambda box: np.hstack([box[:, :2], box[:, 2:] - box[:, :2]]),
    "corners (y0, x0, y1, x1)": lambda box: np.hstack(
        [box[:, 1::-1], box[:, :1:-1] - box[:, 1::-1]]
    ),
    "center, width and height": lambda box: np.hstack([box[:, :2] - box[:, 2:] / 2, box[:, 2:]]),
    "y, x, height, width": lambda box: box[:, [1, 0, 3, 2]],
    "center y, center x, height, width": lambda box: np.hstack(
        [box[:, 1::-1] - box[:, :1:-1] / 2, box[:, :1:-1]]
    ),
}


def doubt_form(found: Detections, truth: GroundTruth) -> list[str]:
    """Find out whether boxes are likely of another form, or on other images or categories.

    The best detections, as many as there are objects, are compared with the objects: as they are,
    and as they would be in other forms. Few of a detector's boxes cover an object in a form that is
    not theirs, so another form that covers many more is the right one.

    Returns:
        what is wrong in words, "" for what is not.
    """
    objects = truth.select(truth.crowd == 0)
    number = min(_SAMPLE, len(objects.images), len(found.scores))
    if not number:
        return [_find_beyond(found, truth)]
    best = np.argpartition(-found.scores, number - 1)[:number]
    images, boxes = found.images[best], found.boxes[best]
    given, nearest = _find_nearest(images, boxes, objects)
    problem, most = "", 0
    sizes = truth.sizes[images, ::-1].astype(np.float64)
    for words, others in _list_forms(images, boxes, objects.boxes, sizes).items():
        overlaps, _ = _find_nearest(*others, objects)
        for_other = int(((overlaps >= 0.5) & (given < overlaps / 2)).sum())
        for_given = int(((given >= 0.5) & (overlaps < given / 2)).sum())
        if for_other > most and for_other >= max(_LEAST, 0.2 * number, 5 * for_given):
            most = for_other
            problem = (
                f"{(given >= 0.5).sum()} of the {number} best boxes cover an object (IoU 0.5), and "
                f"{(overlaps >= 0.5).sum()} would if they were {words}"
            )
    covering = given >= 0.5
    categories = found.categories[best][covering], objects.categories[nearest[covering]]
    return [problem or _find_beyond(found, truth), _doubt_categories(*categories, truth)]


def _list_forms(
    images: np.ndarray, boxes: Boxes, objects: Boxes, sizes: np.ndarray
) -> dict[str, tuple[np.ndarray, Boxes]]:
    """List other forms of boxes, with words: their images (N,) and they as x, y, w, h (N, 4).

    Args:
        sizes: (N, 2), width and height of the image of each, 0 where they are not known.
    """
    scale = _estimate_scale(boxes, objects)
    forms = {
        f"{form}, which they seem to be: a bbox of COCO is x, y, width, height; convert them": (
            images,
            convert(boxes),
        )
        for form, convert in _OTHER_FORMS.items()
    }
    words = f"scaled, about {scale[0]:.3g} times in x and {scale[1]:.3g} times in y"
    forms[f"{words}: write pixels of the original image"] = images, boxes * scale
    if (sizes > 0).all():
        words = "mirrored left to right, as flipped images give them: write those of the image"
        mirrored = boxes.copy()
        mirrored[:, 0] = sizes[:, 0] - boxes[:, 0] - boxes[:, 2]
        forms[words] = images, mirrored
        words = "moved by the padding that makes a square (letterbox): write pixels of the image"
        padding = (sizes.max(axis=1, keepdims=True) - sizes) / 2
        forms[words] = images, boxes - np.hstack([padding, np.zeros_like(padding)])
    for word, step in (("next", 1), ("previous", -1)):
        words = f"of the {word} image in the order of the ids"
        forms[f"{words}: write the image ids of the annotation file"] = images + step, boxes
    return forms


def _find_beyond(found: Detections, truth: GroundTruth) -> str:
    """Count the boxes that reach far out of their image, where the annotations tell its size."""
    sizes = truth.sizes[found.images, ::-1].astype(np.float64)
    known = (sizes > 0).all(axis=1)
    starts, ends = found.boxes[known, :2], found.boxes[known, 2:]
    least, most = -_MOST_BEYOND * sizes[known], (1 + _MOST_BEYOND) * sizes[known]
    beyond = ((starts < least) | (starts + ends > most)).any(axis=1).sum()
    if beyond < max(_LEAST, 0.1 * len(starts)):
        return ""
    fitting = ((starts >= least) & (starts <= ends) & (ends <= most)).all(axis=1).mean()
    hint = (
        "as corners (x0, y0, x1, y1) they would fit, which they seem to be: write width and height"
        if fitting > 0.95
        else "write pixels of the original image, x, y, width, height, and the images' own ids"
    )
    return f"{beyond} of {len(starts)} boxes reach out of their image by a tenth or more; {hint}"


def _estimate_scale(boxes: Boxes, objects: Boxes) -> np.ndarray:
    """Estimate the factors (4,) that bring boxes to where the objects of the images end."""
    ends = [np.median(these[:, :2] + these[:, 2:], axis=0) for these in (boxes, objects)]
    return np.tile(np.divide(ends[1], ends[0], out=np.ones(2), where=ends[0] > 0), 2)


def _find_nearest(
    images: np.ndarray, boxes: Boxes, objects: GroundTruth
) -> tuple[np.ndarray, np.ndarray]:
    """Find, for every box, the object of its image that it overlaps most.

    Args:
        objects: annotations without crowds.

    Returns:
        IoU (N,), 0 where it is below 0.1, and the number of the annotation (N,).
    """
    overlaps, nearest = np.zeros(len(boxes)), np.zeros(len(boxes), np.int64)
    # Classes and scores, here zeros, do not matter.
    pairs = find_overlaps(objects, Detections(images, nearest, boxes, overlaps))
    pairs = pairs.select(np.argsort(pairs.ious, kind="stable"))
    overlaps[pairs.detections] = pairs.ious  # the last that is written is the largest
    nearest[pairs.detections] = pairs.objects
    return overlaps, nearest


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
