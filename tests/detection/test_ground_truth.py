"""Compare what is right and wrong on one image with what the analysis of a whole set says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from resnext_det.detection.ground_truth import mark_boxes, read_masks
from resnext_det.detection.results import ImageDetections
from resnext_det.evaluation.analysis import analyze_detections

LABELS = ["cell", "plate"]


def annotate(box: list[float], category: int = 0, crowd: int = 0) -> dict[str, Any]:
    return {"bbox": box, "category_id": category, "iscrowd": crowd}


def find(rows: list[tuple[list[float], int, float]]) -> ImageDetections:
    boxes = np.array([box for box, *_ in rows], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    classes = np.array([row[1] for row in rows], np.int64)
    return ImageDetections(
        (200, 300), boxes, np.array([row[2] for row in rows], np.float32), classes
    )


def test_every_kind_is_told_apart() -> None:
    objects = [
        annotate([10, 10, 40, 40]),
        annotate([100, 10, 40, 40], 1),
        annotate([10, 100, 40, 40]),
        annotate([200, 100, 80, 80], crowd=1),
    ]
    rows = [
        ([12, 10, 40, 40], 0, 0.9),
        ([14, 10, 40, 40], 0, 0.8),  # the same object again
        ([100, 10, 40, 40], 0, 0.7),  # is of the other class
        ([30, 100, 40, 40], 0, 0.6),  # IoU a third
        ([210, 110, 20, 20], 0, 0.5),  # on the crowd
        ([150, 150, 20, 20], 1, 0.4),  # where nothing is
    ]
    truth, found = mark_boxes(objects, find(rows), LABELS)
    assert list(zip(truth.labels, truth.kinds or ())) == [
        *(("cell", "found"), ("plate", "missed"), ("cell", "missed"), ("cell", "crowd"))
    ]
    assert found.kinds == (
        *("correct", "duplicate", "classification", "localization", "ignored", "background"),
    )
    assert np.allclose(np.asarray(found.boxes)[:, 0], [12, 14, 100, 30, 210, 150])
    assert truth.boxes[1].tolist() == [100, 10, 140, 50]
    for some, these in (([], rows), (objects, []), ([], [])):
        truth, found = mark_boxes(some, find(these), LABELS)
        assert len(truth.labels) == len(some) and len(found.labels) == len(these)


def test_masks_stay_with_their_boxes() -> None:
    """The marks are in the order of the scores, in which the detections are not given."""
    objects = [annotate([10, 10, 40, 40]), annotate([100, 10, 40, 40], 1)]
    found = find([([100, 10, 40, 40], 1, 0.5), ([12, 10, 40, 40], 0, 0.9)])
    masks = np.zeros((2, 200, 300), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, found.boxes.astype(int)):
        mask[y0:y1, x0:x1] = True
    marked = mark_boxes(objects, replace(found, masks=masks), LABELS)
    assert marked[0].masks is None and (marked[1].masks == masks[::-1]).all()
    for entry in objects:
        x, y, w, h = entry["bbox"]
        entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    truth, _ = mark_boxes(objects, found, LABELS)
    assert truth.masks.sum((1, 2)).tolist() == [1600, 1600] and truth.masks[1, 20, 110]
    assert read_masks([{"segmentation": {"size": [3, 2], "counts": "6"}}], (200, 300)) is None


def test_where_a_mask_is_missing_the_others_are_shown() -> None:
    objects = [annotate([10, 10, 40, 40]), annotate([100, 10, 40, 40], 1), annotate([5, 5, 9, 9])]
    objects[1]["segmentation"] = [[100, 10, 140, 10, 140, 50, 100, 50]]
    objects[2]["segmentation"] = {"size": [3, 2], "counts": "6"}  # of another image
    truth, _ = mark_boxes(objects, find([]), LABELS)
    assert truth.masks.sum((1, 2)).tolist() == [0, 1600, 0]
    masks = read_masks(objects, (200, 300))
    assert masks is not None and masks.sum((1, 2)).tolist() == [0, 1600, 0]


def test_a_set_of_one_image_says_the_same() -> None:
    rng = np.random.default_rng(0)

    def draw() -> list[float]:
        return [*rng.uniform(0, 100, 2).tolist(), *rng.uniform(20, 60, 2).tolist()]

    for _ in range(5):
        objects = [
            annotate(draw(), int(rng.integers(2)), int(rng.random() < 0.2)) for _ in range(8)
        ]
        rows = [(draw(), int(rng.integers(2)), float(score)) for score in rng.random(12)]
        content = {
            "images": [{"id": 1, "height": 200, "width": 300}],
            "annotations": [
                {**each, "id": 1 + i, "image_id": 1, "area": each["bbox"][2] * each["bbox"][3]}
                for i, each in enumerate(objects)
            ],
            "categories": [{"id": i, "name": name} for i, name in enumerate(LABELS)],
        }
        found = find(rows)
        results = [
            {"image_id": 1, "category_id": c, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": s}
            for (x0, y0, x1, y1), c, s in zip(
                found.boxes.astype(float).tolist(), found.classes.tolist(), found.scores.tolist()
            )
        ]
        analysis = analyze_detections(content, results, resamples=0)
        chosen = found.select(np.float32(analysis.by_score.best_score))
        truth, marked = mark_boxes(objects, chosen, LABELS)
        (image,) = analysis.images
        assert image.truth.kinds == truth.kinds
        assert image.found.kinds == marked.kinds
        assert (image.found.boxes == marked.boxes).all()
