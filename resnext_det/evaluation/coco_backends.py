"""Three implementations of COCO's matching, with the same numbers to the last bit.

pycocotools is the reference. 5000 images with half a million detections of 80 categories take it
two thirds of a minute and 1.6 GB; ``matching.py``, in NumPy, takes two seconds and 0.3 GB, and
hotcoco one. hotcoco is optional: ``pip install 'resnext-det[fast-eval]'``.
"""

from __future__ import annotations

import contextlib
import io
from importlib.util import find_spec
from typing import Any

import numpy as np

from resnext_det.evaluation.average_precision import RECALLS, compute_curves
from resnext_det.evaluation.coco_files import Detections, GroundTruth
from resnext_det.evaluation.masks import list_encodings
from resnext_det.evaluation.matching import (
    AREA_RANGES,
    THRESHOLDS,
    Matches,
    Task,
    match_detections,
    measure_areas,
)

BACKENDS = ("auto", "pycocotools", "numpy", "hotcoco")


def choose_backend(name: str, truth: GroundTruth) -> str:
    """Choose hotcoco where it is installed, else numpy, unless one is named.

    hotcoco differs where an annotation has id 0: pycocotools, and so detectron2, counts a match
    with it as none.

    Raises:
        ValueError: the name is unknown, or hotcoco is named and not installed, or would differ.
    """
    if name not in BACKENDS:
        raise ValueError(f"there is no backend {name!r}; write one of {', '.join(BACKENDS)}")
    installed, has_id_zero = find_spec("hotcoco") is not None, bool(truth.id_is_zero.any())
    if name == "hotcoco" and not installed:
        raise ValueError(
            "backend 'hotcoco' is not installed; write pip install 'resnext-det[fast-eval]', or "
            "backend='pycocotools'"
        )
    if name == "hotcoco" and has_id_zero:
        raise ValueError(
            f"{truth.name} has an annotation with id 0, where hotcoco's numbers are not "
            "pycocotools'; number the annotations from 1, or write backend='pycocotools'"
        )
    if name != "auto":
        return name
    return "hotcoco" if installed and not has_id_zero else "numpy"


def evaluate_task(
    backend: str,
    truth: GroundTruth,
    found: Detections,
    images: np.ndarray,
    limits: tuple[int, int, int],
    matches: Matches | None = None,
    *,
    task: Task = "bbox",
) -> tuple[np.ndarray, np.ndarray]:
    """Compute COCO's precision (T, R, K, A, M) and recall (T, K, A, M), -1 where undefined.

    Args:
        images: numbers of the images to evaluate on, ascending; without any nothing is defined.
        limits: the numbers of detections an image (and category) that M stands for, ascending.
        matches: on these images, with the last of the limits, if they are known: numpy takes them.
        task: compare boxes or masks; the IoU of masks is always pycocotools' own, or hotcoco's.
    """
    if len(images) == 0:  # to which hotcoco takes all
        shape = len(truth.class_names), len(AREA_RANGES), len(limits)
        precision = np.full((len(THRESHOLDS), len(RECALLS), *shape), -1.0)
        return precision, np.full((len(THRESHOLDS), *shape), -1.0)
    if backend == "numpy":
        if matches is None:
            objects = truth.select(np.isin(truth.images, images))
            detections = found.select(np.isin(found.images, images))
            matches = match_detections(objects, detections, limits[-1], task)
        return compute_curves(matches, limits)
    if backend == "hotcoco":
        evaluation = _load_into_hotcoco(truth, found, task)
    else:
        evaluation = _load_into_pycocotools(truth, found, task)
    evaluation.params.imgIds = images.tolist()
    evaluation.params.maxDets = list(limits)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])


def _load_into_hotcoco(truth: GroundTruth, found: Detections, task: Task) -> Any:
    from hotcoco import COCO, COCOeval

    encodings = _list_encodings(truth, found, task)
    annotations = COCO.from_arrays(
        _list_images(truth),
        [{"id": i, "name": name} for i, name in enumerate(truth.class_names)],
        truth.images,
        truth.categories,
        truth.boxes,
        ids=np.arange(1, len(truth.images) + 1),
        area=truth.areas,
        iscrowd=truth.crowd,
        segmentation=encodings[0] if encodings else None,
    )
    columns = [found.images[:, None], found.boxes, found.scores[:, None], found.categories[:, None]]
    results = annotations.load_res(
        np.concatenate(columns, axis=1), segmentation=encodings[1] if encodings else None
    )
    if encodings:
        ids = np.arange(1, len(found.images) + 1)
        results.update_anns(ids=ids, area=measure_areas(found, task).astype(np.float64))
    return COCOeval(annotations, results, task)


def _load_into_pycocotools(truth: GroundTruth, found: Detections, task: Task) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    # Only 0 has a meaning among annotation ids; it is kept, the others are numbered.
    ids = np.where(truth.id_is_zero, 0, np.arange(1, len(truth.images) + 1))
    counted = np.arange(1, len(found.images) + 1)
    areas = measure_areas(found, task)
    encodings = _list_encodings(truth, found, task)
    annotations, results = COCO(), COCO()
    for place, (coco, entries) in enumerate(
        (
            (annotations, _make_entries(truth, ids, area=truth.areas, iscrowd=truth.crowd)),
            (results, _make_entries(found, counted, area=areas, score=found.scores)),
        )
    ):
        for entry, encoding in zip(entries, encodings[place] if encodings else ()):
            entry["segmentation"] = encoding
        coco.dataset = {
            "images": _list_images(truth),
            "categories": [{"id": i, "name": name} for i, name in enumerate(truth.class_names)],
            "annotations": entries,
        }
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
    return COCOeval(annotations, results, task)


def _list_images(truth: GroundTruth) -> list[dict[str, Any]]:
    return [
        {"id": i, "width": width, "height": height, "file_name": ""}
        for i, (height, width) in enumerate(truth.sizes.tolist())
    ]


def _list_encodings(
    truth: GroundTruth, found: Detections, task: Task
) -> tuple[list[Any], list[Any]] | None:
    """List the masks of annotations and results; None where boxes are compared."""
    if task == "bbox":
        return None
    assert truth.masks is not None and found.masks is not None
    return (
        list_encodings(truth.masks, truth.images, truth.sizes),
        list_encodings(found.masks, found.images, truth.sizes),
    )


def _make_entries(
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
