"""The datasets of a run: loaded by this project where it can, else by detectron2, which knows all of them by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from detectron2 import structures
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, build_detection_train_loader

from resnext_det.data.coco import CocoDataset, list_datasets
from resnext_det.detection.datasets import (
    check_categories,
    load_test_sets,
    load_train_sets,
    train_loader,
)
from resnext_det.detection.detectron2.catalog import register_datasets
from resnext_det.detection.detectron2.configuration import needs_detectron2_data
from resnext_det.instances import Boxes, Instances
from resnext_det.training.loop import time_batches


def converted(sample: dict[str, Any]) -> dict[str, Any]:
    """A sample whose ``Instances`` are detectron2's; tensors are shared."""
    return {
        key: _instances(value) if isinstance(value, Instances) else value
        for key, value in sample.items()
    }


def _instances(ours: Instances) -> structures.Instances:
    fields = ours.get_fields()
    return structures.Instances(
        ours.image_size,
        **{
            name: structures.Boxes(value.tensor) if isinstance(value, Boxes) else value
            for name, value in fields.items()
        },
    )


class TrainingBatches:
    """The batches of a training from iteration ``start`` on, which may be set until they are first asked for.

    Args:
        make: iteration -> batches of our samples from it on.

    Attributes:
        make: as given.
    """

    def __init__(self, make: Callable[[int], Iterable[list[dict[str, Any]]]]) -> None:
        self.make = make
        self.start = 0

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        for batch, _ in time_batches(self.make(self.start), self.start):
            yield [converted(sample) for sample in batch]


@dataclass(frozen=True)
class Data:
    """What is trained and evaluated on.

    Attributes:
        by_detectron2: detectron2 loads the images and evaluates, since there are masks, keypoints, crops, or a dataset of its own.
        train_sets, test_sets: the loaded sets; empty where detectron2 loads them.
    """

    by_detectron2: bool
    train_sets: list[CocoDataset]
    test_sets: list[CocoDataset]

    def batches(self, cfg: CfgNode, start: int) -> Iterable[list[dict[str, Any]]]:
        """The training batches of this process from iteration ``start`` on; detectron2's own begin anew."""
        if self.by_detectron2:
            return build_detection_train_loader(cfg)
        return train_loader(cfg, self.train_sets, start)


def load_data(cfg: CfgNode, *, training: bool) -> Data:
    """Load and check ``DATASETS.TRAIN`` (in training) and ``DATASETS.TEST``.

    Raises:
        ValueError, FileNotFoundError: a set is unknown, broken or missing, or has other classes than the model.
    """
    register_datasets()
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    detectron2_alone = [
        name for name in names if name not in list_datasets() and name in DatasetCatalog
    ]
    if detectron2_alone or needs_detectron2_data(cfg):
        return Data(True, [], [])
    train_sets = load_train_sets(cfg) if training else []
    test_sets = load_test_sets(cfg, needed=not training)
    check_categories(cfg, train_sets, test_sets)
    return Data(False, train_sets, test_sets)
