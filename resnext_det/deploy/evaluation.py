"""Measure the AP of an exported detector, or of the one that it was made of, on files of a set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from resnext_det.data.coco import load_coco, map_classes, register_files
from resnext_det.data.pixels import AnyImage
from resnext_det.detection.results import ImageDetections
from resnext_det.evaluation.coco import evaluate_coco, make_result_rows

Files = tuple[str | Path, str | Path]
"""A COCO file and its image folder."""

Detect = Callable[[AnyImage], ImageDetections]

_MEASURES = ("AP", "segm-AP")


def measure_ap(detect: Detect, class_names: Sequence[str], files: Files) -> dict[str, float]:
    """Measure COCO's AP on a set.

    Args:
        detect: finds objects in the file of an image.
        class_names: of the detector's classes, in their order.
        files: a COCO file and its image folder.

    Returns:
        ``AP`` of the boxes in percent and, where detector and set have masks, ``segm-AP``.

    Raises:
        ValueError, FileNotFoundError: see ``load_coco`` and ``map_classes``.
    """
    dataset = map_classes(load_coco(register_files(*files)), class_names)
    rows, with_masks = [], False
    for record in dataset.records:
        found = detect(record["file_name"])
        with_masks |= found.masks is not None
        fields = (found.boxes, found.scores, found.classes, dataset.category_ids, found.masks)
        rows += make_result_rows(record["image_id"], *fields)
    metrics = evaluate_coco(dataset.annotations_file, rows, with_masks=with_masks).as_dict()
    return {name: metrics[name] for name in _MEASURES if name in metrics}
