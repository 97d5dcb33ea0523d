"""Register this project's datasets and weights in detectron2's catalogs, for its own tools."""

from __future__ import annotations

from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.utils.file_io import PathManager

from resnext_det.data.coco import find_dataset, list_datasets
from resnext_det.weights.catalog_paths import register_handler


def register_datasets() -> None:
    """Register every dataset that detectron2 lacks: generated ones, and those of ``register_coco``.

    Files are looked for, and generated sets are made, when a dataset is loaded.
    """
    for name in list_datasets():
        if name not in DatasetCatalog:
            DatasetCatalog.register(name, lambda name=name: _load(name))
            MetadataCatalog.get(name).set(evaluator_type="coco")


def _load(name: str) -> list[dict[str, Any]]:
    annotations, images = find_dataset(name)
    MetadataCatalog.get(name).set(json_file=str(annotations), image_root=str(images))
    return load_coco_json(str(annotations), str(images), name)


register_datasets()
register_handler(PathManager)  # MODEL.WEIGHTS resnext://...
