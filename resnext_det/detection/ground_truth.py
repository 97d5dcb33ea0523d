"""Mark what is right and what is wrong on one image, box by box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resnext_det.detection.drawing import LabeledBoxes
from resnext_det.detection.results import ImageDetections
from resnext_det.evaluation.coco_checks import COCO_LIMIT
from resnext_det.evaluation.coco_files import Detections, GroundTruth
from resnext_det.evaluation.error_costs import classify_errors
from resnext_det.evaluation.findings import collect_findings
from resnext_det.evaluation.matching import match_detections


def mark_boxes(
    annotations: Sequence[Mapping[str, Any]], found: ImageDetections, labels: Sequence[str]
) -> tuple[LabeledBoxes, LabeledBoxes]:
    """Mark the annotations of an image, and the detections on it, with what became of each.

    Args:
        annotations: detectron2's standard dicts, with boxes as x, y, width, height in pixels.
        found: the detections.
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
    )
    corners = found.boxes.astype(np.float64)
    extents = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
    images = np.zeros(len(found), np.int64)
    scores = found.scores.astype(np.float64)
    detections = Detections(images, found.classes, extents, scores)
    matches = match_detections(truth, detections, COCO_LIMIT)
    (findings,) = collect_findings(matches, classify_errors(matches).name_kinds(), 0.0)
    marked = findings.truth, findings.found
    truth_names, found_names = ([labels[i] for i in each.classes.tolist()] for each in marked)
    return (
        LabeledBoxes(findings.truth.boxes, truth_names, kinds=findings.truth.kinds),
        LabeledBoxes(
            findings.found.boxes, found_names, findings.found.scores, findings.found.kinds
        ),
    )
