"""Evaluate as COCO does: the 12 numbers, AP of every category and the precision-recall curves."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from resnext_det.evaluation.coco_backends import choose_backend, evaluate_task
from resnext_det.evaluation.coco_checks import (
    COCO_LIMIT,
    check_results,
    warn_of_id_zero,
    warn_of_undefined,
)
from resnext_det.evaluation.coco_files import (
    Detections,
    GroundTruth,
    Source,
    find_images,
    read_ground_truth,
)
from resnext_det.evaluation.matching import Matches, Task
from resnext_det.evaluation.result_files import (
    Results,
    have_masks,
    open_results,
    read_detections,
)
from resnext_det.files import escape_controls, format_json
from resnext_det.instances import Instances
from resnext_det.rle import encode_masks

logger = logging.getLogger(__name__)

OTHER_TASKS = ("segm", "keypoints")
"""What stands before the names of numbers that are not of boxes, as in "segm-AP"."""

AREAS = ("all", "s", "m", "l")
"""COCO's area ranges, in the order of axis A: all, below 32*32 pixels, up to 96*96, above."""


@dataclass(frozen=True)
class CocoMetrics:
    """Hold the numbers of a COCO evaluation, in percent; nan where no object defines one.

    ``AP`` is the mean over the IoU thresholds .50, .55 ... .95, the 101 recalls and the categories;
    ``AP50`` and ``AP75`` are of one threshold, ``APs``, ``APm``, ``APl`` of small, medium and large
    objects; ``AR1``, ``AR10`` and ``AR100`` are recalls with 1, 10 and ``max_detections``
    detections an image, ``ARs``, ``ARm``, ``ARl`` those of small, medium and large objects. Where
    ``max_detections`` is not COCO's 100, what is written tells it: ``AR300`` in place of ``AR100``.

    ``precision`` has the shape (T, R, K, A, M): thresholds, recalls, categories, areas and numbers
    of detections, within 0 to 1, -1 where undefined: pycocotools' own array.

    The numbers are of boxes; ``segm`` are those of the masks, None where there are none.
    """

    AP: float
    AP50: float
    AP75: float
    APs: float
    APm: float
    APl: float
    AR1: float
    AR10: float
    AR100: float
    ARs: float
    ARm: float
    ARl: float
    class_names: tuple[str, ...]
    category_ap: tuple[float, ...]
    precision: np.ndarray = field(repr=False, compare=False)
    max_detections: int = COCO_LIMIT
    backend: str = "pycocotools"
    segm: CocoMetrics | None = None

    def as_dict(self, *, recalls: bool = False) -> dict[str, float]:
        """Name the numbers as detectron2 does: ``AP``, ``AP50`` ... ``APl``, ``AP-NAME``.

        As there, a set of one category has no key of its own for it. With ``recalls`` the six
        average recalls, which detectron2 leaves out, come too. The numbers of masks are
        ``segm-AP``, ``segm-AP50`` ...
        """
        numbers = self._name_numbers() if recalls else self._name_precisions()
        if len(self.class_names) > 1:
            pairs = zip(self.class_names, self.category_ap, strict=True)
            numbers.update({f"AP-{name}": ap for name, ap in pairs})
        if self.segm is not None:
            of_masks = self.segm.as_dict(recalls=recalls)
            numbers.update({f"segm-{name}": value for name, value in of_masks.items()})
        return numbers

    def _name_precisions(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")}

    def _name_numbers(self) -> dict[str, float]:
        limits = choose_limits(self.max_detections)
        values = zip(limits, (self.AR1, self.AR10, self.AR100), strict=True)
        recalls = {f"AR{limit}": value for limit, value in values}
        sizes = {name: getattr(self, name) for name in ("ARs", "ARm", "ARl")}
        return {**self._name_precisions(), **recalls, **sizes}

    def to_json(self) -> str:
        """Write all the numbers as a JSON object; null stands for nan.

        A limit that is not COCO's 100 stands there as ``max_detections``.
        """
        return format_numbers(self.as_dict(recalls=True), self.max_detections)

    def summarize(self) -> str:
        """Write the two numbers of table 8 in a line, and the AP of masks."""
        limit = describe_limit(self.max_detections)
        masks = "" if self.segm is None else f", segm AP {self.segm.AP:.1f}"
        return f"AP {self.AP:.1f}, AP50 {self.AP50:.1f}{masks}{limit and f' ({limit})'}"

    def format_table(self, *, per_category: bool = True) -> str:
        """Format the 12 numbers and the AP per category in columns, as detectron2 logs them.

        Where there are masks, theirs follow after the boxes' under a line of their own.
        """
        text = self._format_numbers(per_category=per_category)
        if self.segm is None:
            return text
        of_masks = self.segm._format_numbers(per_category=per_category)
        return f"bbox:\n{text}\n\nsegm:\n{of_masks}"

    def _format_numbers(self, *, per_category: bool) -> str:
        numbers = self._name_numbers()
        text = tabulate(
            [list(numbers.values())], headers=list(numbers), tablefmt="pipe", floatfmt=".3f"
        )
        if limit := describe_limit(self.max_detections):
            text += f"\n\n{limit}"
        if not per_category:
            return text
        pairs = zip(self.class_names, self.category_ap, strict=True)
        cells = [cell for name, ap in pairs for cell in (escape_controls(name), f"{ap:.3f}")]
        columns = min(6, len(cells))
        rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
        headers = ["category", "AP"] * (columns // 2)
        return f"{text}\n\n{tabulate(rows, headers, tablefmt='pipe', disable_numparse=True)}"

    # Scripts call these by their earlier names.
    summary, table = summarize, format_table


def evaluate_coco(
    annotations: Source,
    results: Results,
    *,
    backend: str = "auto",
    max_detections_per_image: int = 100,
    image_ids: Iterable[Any] | None = None,
    with_masks: bool = False,
) -> CocoMetrics:
    """Compare detected with annotated boxes, and masks where there are any, by COCO's rules.

    The numbers equal pycocotools' to the last bit; for those of masks it is given the masks alone,
    as by detectron2, so that APs, APm and APl go by the masks' areas. Warnings say why numbers are
    nan, and which results are likely a mistake: every detection twice, boxes that are corners,
    categories of another list.

    Args:
        annotations: a file of COCO instance annotations, or the dict read from one. A missing
            ``iscrowd`` is 0, a missing ``area`` that of the box.
        results: a COCO result file, or the list read from one: dicts with ``image_id``,
            ``category_id``, ``bbox`` (x, y, width, height in pixels) and ``score``. An empty list
            has AP 0 (detectron2 says nan), with a warning. Where they have masks as
            ``segmentation``, ``{"size": [height, width], "counts": text}``, these are compared too,
            and ``bbox`` may be missing: the box around the mask stands for it.
        backend: "pycocotools", "numpy" (our own), "hotcoco" (an optional package), or "auto":
            hotcoco where it is installed, else numpy. The numbers are the same.
        max_detections_per_image: how many detections of an image and category count, the best
            first.
        image_ids: evaluate on these images alone; results of other images of the annotations are
            left out. With none of them every number is nan.
        with_masks: the results are of a model that gives masks, whose AP is 0 too where there is
            no result.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file is not JSON or not of COCO's form; a box or score is not finite; a width
            or height is negative; every box lies within 0 to 1; an image or category id is
            unknown. The message names the entry.
    """
    check_limit(max_detections_per_image, "max_detections_per_image")
    opened, entries = open_results(results)
    truth = read_ground_truth(
        annotations, with_masks=have_masks(entries) or (with_masks and not entries)
    )
    found = read_detections(entries, truth, opened)
    every = np.arange(len(truth.image_ids))
    images = every if image_ids is None else find_images(image_ids, truth)
    name = str(results) if isinstance(results, str | Path) else "results"
    return compute_metrics(
        truth, found, images, name, backend=backend, max_detections=max_detections_per_image
    )


def check_limit(max_detections: int, name: str) -> None:
    """Refuse a number of detections that is no integer above 0, with a ValueError."""
    if not isinstance(max_detections, int) or max_detections < 1:
        raise ValueError(f"{name} is {max_detections!r}; write an integer from 1 up, such as 100")


def compute_metrics(
    truth: GroundTruth,
    found: Detections,
    images: np.ndarray,
    name: str,
    *,
    backend: str = "auto",
    max_detections: int = COCO_LIMIT,
    matches: Mapping[Task, Matches] | None = None,
) -> CocoMetrics:
    """Compute COCO's numbers of what was read, with the warnings of ``evaluate_coco``.

    Masks are compared too where both were read with masks.

    Args:
        images: numbers of the images to evaluate on.
        name: of the results, for messages.
        matches: of the tasks for which they are known, on these images: see ``evaluate_task``.
    """
    chosen = choose_backend(backend, truth)
    warn_of_id_zero(truth)
    check_results(found, truth, images, name, max_detections)
    warn_of_undefined(truth, images)
    if np.isin(truth.images, images).any() and not np.isin(found.images, images).any():
        logger.warning("There is no detection to evaluate: every AP is 0.")
    compute = partial(_compute_task, chosen, truth, found, images, max_detections)
    known = matches or {}
    segm = None if found.masks is None else compute(known.get("segm"), "segm")
    return replace(compute(known.get("bbox"), "bbox"), segm=segm)


def _compute_task(
    backend: str,
    truth: GroundTruth,
    found: Detections,
    images: np.ndarray,
    max_detections: int,
    matches: Matches | None,
    task: Task,
) -> CocoMetrics:
    limits = choose_limits(max_detections)
    precision, recall = evaluate_task(backend, truth, found, images, limits, matches, task=task)
    numbers: dict[str, Any] = {
        "AP": _average(precision[:, :, :, 0, -1]),
        "AP50": _average(precision[0, :, :, 0, -1]),
        "AP75": _average(precision[5, :, :, 0, -1]),
        **{f"AP{AREAS[a]}": _average(precision[:, :, :, a, -1]) for a in (1, 2, 3)},
        **{f"AR{n}": _average(recall[:, :, 0, m]) for m, n in enumerate((1, 10, 100))},
        **{f"AR{AREAS[a]}": _average(recall[:, :, a, -1]) for a in (1, 2, 3)},
    }
    categories = range(len(truth.class_names))
    return CocoMetrics(
        **numbers,
        class_names=truth.class_names,
        category_ap=tuple(_average(precision[:, :, k, 0, -1]) for k in categories),
        precision=precision,
        max_detections=max_detections,
        backend=backend,
    )


def describe_limit(max_detections: int) -> str:
    """Say how many detections of an image and category counted; "" for COCO's own number, 100."""
    if max_detections == COCO_LIMIT:
        return ""
    return f"at most {max_detections} detections an image, where COCO counts {COCO_LIMIT}"


def name_task(max_detections: int, task: str = "bbox") -> str:
    """Name a task's numbers as metrics.json does: "bbox", or with another limit "bbox@300".

    Those of keypoints are always of COCO's 20 detections.
    """
    usual = max_detections == COCO_LIMIT or task == "keypoints"
    return task if usual else f"{task}@{max_detections}"


def format_numbers(numbers: Mapping[str, float], max_detections: int) -> str:
    """Format as a JSON object, with ``max_detections`` where that is not COCO's 100."""
    limit = {} if max_detections == COCO_LIMIT else {"max_detections": max_detections}
    return format_json({**numbers, **limit})


def choose_limits(max_detections: int) -> tuple[int, int, int]:
    """Choose the numbers of detections whose recalls are told: 1, 10 and the limit itself."""
    return 1, min(10, max_detections), max_detections


def _average(values: np.ndarray) -> float:
    """Average what is defined, in percent; nan where nothing is."""
    defined = values[values > -1]
    return float(np.mean(defined) * 100) if defined.size else float("nan")


def make_coco_results(
    image_id: Any, instances: Instances, category_ids: Sequence[Any]
) -> list[dict[str, Any]]:
    """Make entries of a COCO result file, as detectron2's ``instances_to_coco_json`` does.

    Args:
        instances: ``pred_boxes`` (x0, y0, x1, y1), ``scores`` and ``pred_classes``, from 0, of an
            image, and perhaps ``pred_masks``, bool (N, height, width).
        category_ids: the annotation file's category id of every class.
    """
    fields = (instances.pred_boxes.tensor, instances.scores, instances.pred_classes)
    boxes, scores, classes = (field.detach().cpu().numpy() for field in fields)
    masks = instances.pred_masks.cpu().numpy() if instances.has("pred_masks") else None
    return make_result_rows(image_id, boxes, scores, classes, category_ids, masks)


def make_result_rows(
    image_id: Any,
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    category_ids: Sequence[Any],
    masks: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """Make entries of a COCO result file from arrays.

    Args:
        boxes: (N, 4), x0, y0, x1, y1 in pixels of the image.
        scores: (N,).
        classes: (N,), from 0.
        category_ids: the annotation file's category id of every class.
        masks: bool, (N, height, width), which become ``segmentation``, run-length encoded.
    """
    corners, sizes = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    columns = zip(
        np.hstack([corners, sizes]).tolist(), scores.tolist(), classes.tolist(), strict=True
    )
    rows = [
        {"image_id": image_id, "category_id": category_ids[index], "bbox": box, "score": score}
        for box, score, index in columns
    ]
    if masks is not None:
        size = list(masks.shape[1:])
        for row, counts in zip(rows, encode_masks(masks), strict=True):
            row["segmentation"] = {"size": size, "counts": counts}
    return rows
