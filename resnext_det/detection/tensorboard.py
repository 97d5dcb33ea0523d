"""Make what TensorBoard shows of an evaluation in training: a few images, and a curve."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from resnext_det.data.coco import CocoDataset
from resnext_det.data.reading import read_image
from resnext_det.data.records import Record
from resnext_det.detection.drawing import LabeledBoxes, choose_colors, draw_truth_beside
from resnext_det.detection.ground_truth import read_masks
from resnext_det.evaluation.coco_files import read_ground_truth
from resnext_det.evaluation.matching import match_detections
from resnext_det.evaluation.result_files import read_detections
from resnext_det.evaluation.score_curves import count_detections

logger = logging.getLogger(__name__)

_COUNT = 4
_WIDTH = 1280  # of the ground truth and the detections together, in pixels
_SCORE = 0.3


def draw_samples(
    dataset: CocoDataset, rows: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, np.ndarray]]:
    """Draw the ground truth and the detections of four images, spread over those with objects.

    Masks are drawn where there are. Detections of scores from 0.3 on are shown. An image that
    cannot be read is passed over.

    Args:
        dataset: a test set.
        rows: the detections on it, as a COCO result file has them.

    Returns:
        pairs of "samples/SET/FILE" and an RGB picture, uint8 (height, width, 3).
    """
    names = dict(zip(dataset.category_ids, dataset.class_names, strict=True))
    colors = choose_colors(dataset.class_names)
    chosen = choose_samples(dataset.records)
    wanted = {record["image_id"] for record in chosen}
    found: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["image_id"] in wanted and row["score"] >= _SCORE:
            found[row["image_id"]].append(row)
    for record in chosen:
        try:
            image = read_image(record["file_name"], "BGR")
        except (OSError, ValueError) as error:
            logger.warning("no picture for TensorBoard: %s", error)
            continue
        objects, of_image = record["annotations"], found[record["image_id"]]
        truth = LabeledBoxes(
            _to_corners(objects),
            [dataset.class_names[entry["category_id"]] for entry in objects],
            masks=read_masks(objects, image.shape[:2]),
        )
        detected = LabeledBoxes(
            _to_corners(of_image),
            [names[row["category_id"]] for row in of_image],
            [row["score"] for row in of_image],
            masks=read_masks(of_image, image.shape[:2]),
        )
        picture = draw_truth_beside(image, truth, detected, colors=colors, width=_WIDTH)
        tag = f"samples/{dataset.name}/{PurePath(record['file_name']).name}"
        yield tag, np.ascontiguousarray(picture[:, :, ::-1])


def choose_samples(records: Sequence[Record]) -> list[Record]:
    """Choose four records with objects, evenly spread over the set; all where there are fewer."""
    places = np.linspace(0, len(records) - 1, min(_COUNT, len(records))).round().astype(int)
    chosen: dict[int, Record] = {}
    for place in places.tolist():
        for index in [*range(place, len(records)), *range(place)]:
            if index not in chosen and (record := records[index])["annotations"]:
                chosen[index] = record
                break
    return list(chosen.values())


def _to_corners(entries: Sequence[Mapping[str, Any]]) -> np.ndarray:
    boxes = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])


def count_by_score(
    dataset: CocoDataset, rows: Sequence[Mapping[str, Any]], limit: int
) -> np.ndarray:
    """Count the detections from each score on that find an object of their class at IoU .5.

    Args:
        dataset: a test set.
        rows: the detections on it, as a COCO result file has them.
        limit: how many detections of an image and category count.

    Returns:
        (6, 101), for the scores 0, .01 ... 1: true and false positives, zeros for true negatives,
        missed objects, precision and recall.
    """
    truth = read_ground_truth(dataset.annotations_file)
    matches = match_detections(truth, read_detections(rows, truth), limit)
    of_classes = count_detections(matches, np.arange(101) / 100)
    correct, counted, total = (counts.sum(axis=0) for counts in of_classes)
    wrong, missed = counted - correct, total - correct
    precision, recall = correct / np.maximum(counted, 1), correct / max(total, 1)
    return np.stack([correct, wrong, np.zeros(101), missed, precision, recall])
