"""Mark what is right and what is wrong on one image, box by box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from resnext_det.detection.drawing import LabeledBoxes
from resnext_det.detection.results import ImageDetections
from resnext_det.evaluation.coco_checks import COCO_LIMIT
from resnext_det.evaluation.coco_files import Detections, GroundTruth
from resnext_det.evaluation.error_costs import classify_errors
from resnext_det.evaluation.findings import collect_findings
from resnext_det.evaluation.matching import match_detections
from resnext_det.rle import decode_masks, encode_masks, encode_segmentation, measure_counts


def mark_boxes(
    annotations: Sequence[Mapping[str, Any]], found: ImageDetections, labels: Sequence[str]
) -> tuple[LabeledBoxes, LabeledBoxes]:
    """Mark the annotations of an image, and the detections on it, with what became of each.

    Args:
        annotations: detectron2's standard dicts, with boxes as x, y, width, height in pixels, and
            perhaps masks.
        found: the detections, perhaps with masks.
        labels: what pictures call every class.

    Returns:
        the annotations and the detections, with the kinds of ``ImageFindings``, at IoU .5, such as
        "missed" and "duplicate".
    """
    boxes = np.array([entry["bbox"] for entry in annotations], np.float64).reshape(-1, 4)
    count = len(boxes)
    truth = GroundTruth(
        name="the image",
        image_ids=[0],
        category_ids=list(range(len(labels))),
        class_names=tuple(labels),
        id_is_zero=np.zeros(count, bool),
        images=np.zeros(count, np.int64),
        categories=np.array([entry["category_id"] for entry in annotations], np.int64),
        boxes=boxes,
        areas=boxes[:, 2] * boxes[:, 3],
        crowd=np.array([entry.get("iscrowd", 0) for entry in annotations], np.int64),
        sizes=np.array([found.image_size]),
        masks=_encode(annotations, found.image_size),
    )
    corners = found.boxes.astype(np.float64)
    extents = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
    images = np.zeros(len(found), np.int64)
    scores = found.scores.astype(np.float64)
    masks = None if found.masks is None else np.array(encode_masks(found.masks), object)
    detections = Detections(images, found.classes, extents, scores, masks)
    matches = match_detections(truth, detections, COCO_LIMIT)
    (findings,) = collect_findings(matches, classify_errors(matches).name_kinds(), 0.0)
    truth_names, found_names = (
        [labels[i] for i in each.classes.tolist()] for each in (findings.truth, findings.found)
    )
    of_truth, of_found = (
        decode_to_draw(each.masks, found.image_size) for each in (findings.truth, findings.found)
    )
    return (
        LabeledBoxes(findings.truth.boxes, truth_names, kinds=findings.truth.kinds, masks=of_truth),
        LabeledBoxes(
            findings.found.boxes,
            found_names,
            findings.found.scores,
            findings.found.kinds,
            of_found,
        ),
    )


def read_masks(entries: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> np.ndarray | None:
    """Read the masks of an image's annotations, or of results on it, to draw them.

    Args:
        entries: with ``segmentation``.
        size: height and width of the image.

    Returns:
        bool (N, height, width), without a pixel for an entry that has no mask of this size; None
        where no entry has one.
    """
    counts = _encode(entries, size)
    return None if counts is None else decode_to_draw(counts.tolist(), size)


def decode_to_draw(counts: Sequence[str] | None, size: tuple[int, int]) -> np.ndarray | None:
    """Decode the masks of an image, bool (N, height, width); None where they are of another size.

    So it is where the image's file has changed since.
    """
    if (
        counts is None
        or (measure_counts(counts, np.full(len(counts), size[0] * size[1])) < 0).any()
    ):
        return None
    return decode_masks(counts, size)


def _encode(entries: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> np.ndarray | None:
    """Encode masks: object (N,), the counts of each; None where no entry has one of this size.

    An entry without has an empty mask, so that the others are seen.
    """
    (empty,) = encode_masks(np.zeros((1, *size), bool))
    masks = [empty] * len(entries)
    known = 0
    for place, entry in enumerate(entries):
        with suppress(ValueError):
            masks[place] = encode_segmentation(entry.get("segmentation"), *size)
            known += 1
    return np.array(masks, object) if known or not masks else None
