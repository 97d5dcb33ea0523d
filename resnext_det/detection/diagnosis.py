"""Warn of what an evaluation during a training shows to be wrong, with its likely causes."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torchvision.ops import box_iou

from resnext_det.config.parts import find_class_node
from resnext_det.data.coco import CocoDataset
from resnext_det.data.records import pack_records
from resnext_det.detection.datasets import summarize_set
from resnext_det.files import escape_controls, list_first

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]
"""A detection as a COCO result file has it."""

_ZERO = 0.1  # percent
_IMAGES, _BEST = 200, 20  # that are looked at, and detections of each
_IOU = 0.5
_FEW = 0.05  # of the best detections that lie on an object
_MANY, _HALF = 0.25, 0.5  # that lie on one, of which so many have its class
_SHOWN = 10


class EvaluationWatch:
    """Warn once where a test set's AP is 0, and of classes without any detection.

    Args:
        cfg: of the training.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self._cfg = cfg
        self._seen: set[str] = set()  # sets that were evaluated
        self._told: dict[str, list[str]] = {}  # classes without a detection, by set

    def look(self, dataset: CocoDataset, rows: Sequence[Row], ap: float, done: int) -> None:
        """Look at an evaluation; call it after each.

        AP 0 is told of a set's first evaluation and at the end, classes without a detection from
        the middle of the training on.

        Args:
            dataset: the test set, its classes in the order of the model.
            rows: all detections.
            ap: in percent.
            done: finished iterations.
        """
        name = escape_controls(dataset.name)
        at_end = done >= self._cfg.SOLVER.MAX_ITER
        if ap < _ZERO and (dataset.name not in self._seen or at_end):
            causes = explain_zero_ap(self._cfg, dataset, rows, done)
            logger.warning("AP on %s is %.1f after %d iterations: %s.", name, ap, done, causes)
        self._seen.add(dataset.name)
        late = 2 * done >= self._cfg.SOLVER.MAX_ITER
        missing = find_undetected(dataset, rows) if late and rows and ap >= _ZERO else []
        if missing and self._told.get(dataset.name) != missing:
            self._told[dataset.name] = missing
            remedy = (
                "; DATALOADER.SAMPLER_TRAIN RepeatFactorTrainingSampler with "
                "DATALOADER.REPEAT_THRESHOLD 0.01 shows rare ones more often"
            )
            repeats = self._cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler"
            logger.warning(
                "On %s there is no detection of %d of %d classes: %s (objects there in brackets). "
                "Look whether the training set has enough of them, under the same names%s.",
                *(name, len(missing), len(dataset.class_names), list_first(missing, _SHOWN)),
                "" if repeats else remedy,
            )


def find_undetected(dataset: CocoDataset, rows: Sequence[Row]) -> list[str]:
    """Find the classes that have objects in a set and no detection: "NAME (objects)" of each."""
    records = pack_records(dataset.records)
    objects = Counter(records.categories[~records.crowds].tolist())
    detected = {row["category_id"] for row in rows}
    return [
        f"{escape_controls(name)} ({objects[number]})"
        for number, (name, identity) in enumerate(zip(dataset.class_names, dataset.category_ids))
        if objects[number] and identity not in detected
    ]


def explain_zero_ap(cfg: CfgNode, dataset: CocoDataset, rows: Sequence[Row], done: int) -> str:
    """Say why nothing is found, as far as detections, objects and settings show it.

    Returns:
        half sentences with numbers and what to do, separated by semicolons.
    """
    found = []
    if done < cfg.SOLVER.WARMUP_ITERS:
        found.append(
            "it is early, as the learning rate still rises until SOLVER.WARMUP_ITERS "
            f"{cfg.SOLVER.WARMUP_ITERS}"
        )
    if not rows:
        part = find_class_node(cfg)
        threshold = cfg.MODEL[part].SCORE_THRESH_TEST
        found.append(
            f"no detection has a score of {threshold:g} or more (MODEL.{part}.SCORE_THRESH_TEST)"
        )
    else:
        found.append(_explain_overlaps(*compare_places(dataset, rows)))
    if not cfg.MODEL.WEIGHTS:
        found.append(
            "the training began with random weights, which takes many times as long; "
            "pretrained ones go into MODEL.WEIGHTS"
        )
    seen = summarize_set(cfg, dataset)
    side = float(np.median(seen.measure_sizes())) if seen.num_objects else float("inf")
    anchor = min(map(min, seen.view.anchors.sizes)) if seen.view.anchors else 0
    if side < anchor / 2:
        found.append(
            f"half of the objects are under {side:.0f} pixels at the test's size, and the smallest "
            f"anchor is {anchor:.0f}; lower MODEL.ANCHOR_GENERATOR.SIZES or raise INPUT.MIN_SIZE_*"
        )
    return "; ".join(found)


def _explain_overlaps(looked_at: int, placed: int, right: int) -> str:
    best = f"of {looked_at} best detections {placed} lie on an object (IoU {_IOU:g} or more)"
    if placed < _FEW * looked_at:
        return (
            f"{best}; if that stays so, look whether bbox in the annotations is x, y, width, "
            "height in pixels of these images"
        )
    if placed >= _MANY * looked_at and right < _HALF * placed:
        return (
            f"{best}, and {right} of these have its class; if that stays so, look whether the "
            "annotation files of training and test name their categories alike"
        )
    return f"{best}, {right} of them with its class"


def compare_places(dataset: CocoDataset, rows: Sequence[Row]) -> tuple[int, int, int]:
    """Compare where the best detections and the objects of up to 200 images are.

    Returns:
        the detections that were looked at, those that lie on an object of any class, and of these
        those with its class.
    """
    of_image: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        of_image[row["image_id"]].append(row)
    numbers = {identity: number for number, identity in enumerate(dataset.category_ids)}
    looked_at = placed = right = images = 0
    for record in dataset.records:
        objects = [entry for entry in record["annotations"] if not entry.get("iscrowd", 0)]
        best = sorted(of_image[record["image_id"]], key=lambda row: -row["score"])[:_BEST]
        if not best or not objects:
            continue
        overlaps = box_iou(_to_corners(best), _to_corners(objects))  # (D, G)
        for row, values in zip(best, overlaps):
            looked_at += 1
            if values.max() >= _IOU:
                placed += 1
                right += objects[int(values.argmax())]["category_id"] == numbers[row["category_id"]]
        images += 1
        if images == _IMAGES:
            break
    return looked_at, placed, right


def _to_corners(entries: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    boxes = torch.tensor([list(map(float, entry["bbox"])) for entry in entries])
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)
