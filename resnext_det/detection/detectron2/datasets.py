"""Load the datasets of a run: by this project where it can, else by detectron2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from detectron2 import structures
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, build_detection_train_loader

from resnext_det.data.coco import CocoDataset, list_datasets
from resnext_det.detection.datasets import (
    build_train_batches,
    check_categories,
    load_datasets,
    look_at_data,
)
from resnext_det.detection.detectron2.catalog import register_datasets
from resnext_det.instances import Boxes, Instances


def convert_sample(sample: dict[str, Any]) -> dict[str, Any]:
    """Replace our ``Instances`` in a sample by detectron2's, which share their tensors."""
    return {
        key: _convert_instances(value) if isinstance(value, Instances) else value
        for key, value in sample.items()
    }


def _convert_instances(ours: Instances) -> structures.Instances:
    converted = structures.Instances(ours.image_size)
    for name, value in ours.get_fields().items():
        boxes = isinstance(value, Boxes)
        converted.set(name, structures.Boxes(value.tensor) if boxes else value)
    return converted


@dataclass(frozen=True)
class Data:
    """Hold what a model is trained and evaluated on.

    Attributes:
        by_detectron2: detectron2 loads the images and evaluates, since there are masks, keypoints,
            crops, or a dataset of its own.
        train_sets, test_sets: the loaded sets; empty where detectron2 loads them.
    """

    by_detectron2: bool
    train_sets: list[CocoDataset]
    test_sets: list[CocoDataset]

    def load_batches(self, cfg: CfgNode, start: int) -> Iterator[list[dict[str, Any]]]:
        """Load the training batches of this process from iteration ``start`` on.

        detectron2's own batches begin anew, whatever ``start``.
        """
        if self.by_detectron2:
            yield from build_detection_train_loader(cfg)
        else:
            for batch in build_train_batches(cfg, self.train_sets, start):
                yield [convert_sample(sample) for sample in batch]


def load_data(cfg: CfgNode, by_detectron2: bool, *, training: bool) -> Data:
    """Load and check ``DATASETS.TRAIN`` (in training) and ``DATASETS.TEST``.

    Args:
        by_detectron2: leave the images to detectron2, as where a set is known to it alone.

    Raises:
        ValueError, FileNotFoundError: a set is unknown, broken or missing, or has other classes
            than the model.
    """
    register_datasets()
    names = {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST} - {*list_datasets()}
    if by_detectron2 or any(name in DatasetCatalog for name in names):
        return Data(True, [], [])
    train_sets = load_datasets(cfg, "TRAIN") if training else []
    test_sets = load_datasets(cfg, "TEST", needed=not training)
    look_at_data(train_sets, test_sets)
    check_categories(cfg, train_sets, test_sets)
    return Data(False, train_sets, test_sets)
