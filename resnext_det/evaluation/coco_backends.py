"""The two implementations of COCO's matching: pycocotools, the reference, and hotcoco, the faster one."""

from __future__ import annotations

import contextlib
import io
import logging
from importlib.util import find_spec
from typing import Any

import numpy as np

from resnext_det.evaluation.coco_files import Detections, GroundTruth

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "pycocotools", "hotcoco")


def choose_backend(name: str, truth: GroundTruth) -> str:
    """hotcoco where it is installed and gives pycocotools' numbers, else pycocotools, unless one is named.

    They differ where an annotation has id 0: pycocotools, and so detectron2, takes a match with it for none.
    """
    if name not in BACKENDS:
        raise ValueError(f"there is no backend {name!r}; write one of {', '.join(BACKENDS)}")
    counts_from_zero = bool(truth.id_is_zero.any())
    if name == "hotcoco" and find_spec("hotcoco") is None:
        raise ValueError(
            "backend 'hotcoco' is not installed; `pip install hotcoco`, or write backend='pycocotools'"
        )
    if name == "hotcoco" and counts_from_zero:
        raise ValueError(
            f"{truth.name} has an annotation with id 0, where hotcoco's numbers are not pycocotools'; "
            "number the annotations from 1, or write backend='pycocotools'"
        )
    if counts_from_zero:
        logger.warning(
            "%s: COCO's evaluation counts the object with annotation id 0 as missed; number them from 1",
            truth.name,
        )
    if name != "auto":
        return name
    return "hotcoco" if find_spec("hotcoco") is not None and not counts_from_zero else "pycocotools"


def evaluate_boxes(
    backend: str,
    truth: GroundTruth,
    found: Detections,
    images: np.ndarray,
    limits: tuple[int, int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """COCO's precision (T, R, K, A, M) and recall (T, K, A, M), -1 where undefined.

    Args:
        images: numbers of the images to evaluate on, ascending.
        limits: the numbers of detections an image (and category) that M stands for, ascending.
    """
    function = _evaluate_hotcoco if backend == "hotcoco" else _evaluate_pycocotools
    return function(truth, found, images, limits)


def _evaluate_hotcoco(
    truth: GroundTruth, found: Detections, images: np.ndarray, limits: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    from hotcoco import COCO, COCOeval

    annotations = COCO.from_arrays(
        [{"id": i, "width": 0, "height": 0, "file_name": ""} for i in range(len(truth.image_ids))],
        [{"id": i, "name": name} for i, name in enumerate(truth.class_names)],
        truth.images,
        truth.categories,
        truth.boxes,
        ids=np.arange(1, len(truth.images) + 1),
        area=truth.areas,
        iscrowd=truth.crowd,
    )
    columns = [found.images[:, None], found.boxes, found.scores[:, None], found.categories[:, None]]
    evaluation = COCOeval(
        annotations, annotations.load_res(np.concatenate(columns, axis=1)), "bbox"
    )
    evaluation.params.imgIds = images.tolist()
    evaluation.params.maxDets = list(limits)
    evaluation.evaluate()
    evaluation.accumulate()
    accumulated: Any = evaluation.eval
    return np.asarray(accumulated["precision"]), np.asarray(accumulated["recall"])


def _evaluate_pycocotools(
    truth: GroundTruth, found: Detections, images: np.ndarray, limits: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    head = {
        "images": [{"id": i} for i in range(len(truth.image_ids))],
        "categories": [{"id": i, "name": name} for i, name in enumerate(truth.class_names)],
    }
    # Only 0 has a meaning among annotation ids; it is kept, the others are numbered.
    ids = np.where(truth.id_is_zero, 0, np.arange(1, len(truth.images) + 1))
    annotations, results = COCO(), COCO()
    annotations.dataset = {
        **head,
        "annotations": _entries(truth, ids, area=truth.areas, iscrowd=truth.crowd),
    }
    areas = found.boxes[:, 2] * found.boxes[:, 3]
    counted = np.arange(1, len(areas) + 1)
    results.dataset = {
        **head,
        "annotations": _entries(found, counted, area=areas, score=found.scores),
    }
    with contextlib.redirect_stdout(io.StringIO()):
        annotations.createIndex()
        results.createIndex()
        evaluation = COCOeval(annotations, results, "bbox")
        evaluation.params.imgIds = images.tolist()
        evaluation.params.maxDets = list(limits)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def _entries(
    boxes: GroundTruth | Detections, ids: np.ndarray, **columns: np.ndarray
) -> list[dict[str, object]]:
    fields = {
        "id": ids,
        "image_id": boxes.images,
        "category_id": boxes.categories,
        "bbox": boxes.boxes,
        **columns,
    }
    rows = zip(*(values.tolist() for values in fields.values()), strict=True)
    return [dict(zip(fields, row, strict=True)) for row in rows]
