"""Load the datasets of a run: by this project where it can, else by detectron2."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from detectron2 import structures
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.detection_utils import build_augmentation

from resnext_det.config.detection import OWN_KEYS, get_own
from resnext_det.data.annotations.coco_json import read_category_names
from resnext_det.data.coco import CocoDataset, find_dataset, list_datasets, load_coco
from resnext_det.data.contents import Contents
from resnext_det.detection.datasets import (
    arrange_classes,
    build_train_batches,
    check_crops,
    describe_sets,
    get_detector_classes,
    load_datasets,
    look_at_data,
)
from resnext_det.detection.detectron2.catalog import check_names, lend_datasets
from resnext_det.detection.validation import Sets, explain_no_objects, prepare_sets
from resnext_det.files import escape_controls, list_first
from resnext_det.instances import Boxes, Instances
from resnext_det.masks import BitMasks, PolygonMasks
from resnext_det.weights import WeightFile

logger = logging.getLogger(__name__)


def convert_sample(sample: dict[str, Any]) -> dict[str, Any]:
    """Replace our ``Instances`` in a sample by detectron2's, which share their tensors."""
    return {
        key: _convert_instances(value) if isinstance(value, Instances) else value
        for key, value in sample.items()
    }


def _convert_instances(ours: Instances) -> structures.Instances:
    converted = structures.Instances(ours.image_size)
    for name, value in ours.get_fields().items():
        if isinstance(value, PolygonMasks):
            value = structures.PolygonMasks(value.polygons)
        elif isinstance(value, Boxes | BitMasks):
            value = getattr(structures, type(value).__name__)(value.tensor)
        converted.set(name, value)
    return converted


@dataclass(frozen=True)
class Data:
    """Hold what a model is trained and evaluated on.

    Attributes:
        by_detectron2: detectron2 loads the images and evaluates, since there are keypoints, a
            sampler or a dataset of its own ...
        train_sets, test_sets: the loaded sets; empty where detectron2 loads them.
        class_names: in the order of the model's outputs; empty where nobody tells.
        contents: of the training sets that this project reads, see ``describe_sets``.
    """

    by_detectron2: bool
    train_sets: list[CocoDataset]
    test_sets: list[CocoDataset]
    class_names: tuple[str, ...]
    contents: Mapping[str, Contents]

    def load_batches(self, cfg: CfgNode, start: int) -> Iterator[list[dict[str, Any]]]:
        """Load the training batches of this process from iteration ``start`` on.

        detectron2's own batches begin anew, whatever ``start``.
        """
        if self.by_detectron2:
            yield from build_detection_train_loader(cfg)
        else:
            for batch in build_train_batches(cfg, self.train_sets, start):
                yield [convert_sample(sample) for sample in batch]


@contextmanager
def open_data(
    cfg: CfgNode,
    by_detectron2: bool,
    start: WeightFile | None,
    *,
    training: bool,
    resume: bool = False,
    check_data: bool = False,
) -> Iterator[Data]:
    """Load and check ``DATASETS.TRAIN`` (in training) and ``DATASETS.TEST``.

    Where detectron2 loads them, its catalogs have this project's sets as long as the context lasts.

    Args:
        by_detectron2: leave the images to detectron2, as where a set is known to it alone.
        start: the weights that the job starts from, or evaluates.
        resume: a training goes on from a checkpoint, if ``start`` is one.
        check_data: decode every image before, see ``look_at_data``.

    Raises:
        ValueError, FileNotFoundError: a set is unknown, broken or missing, or has other classes
            than the model.
    """
    used = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST] if training else [*cfg.DATASETS.TEST]
    ours = [name for name in used if name in list_datasets()]
    check_names(ours)
    if not by_detectron2 and not any(name in DatasetCatalog for name in {*used} - {*ours}):
        train_sets = load_datasets(cfg, "TRAIN") if training else []
        test_sets = load_datasets(cfg, "TEST", needed=not training, in_training=training)
        look_at_data(train_sets, test_sets, everything=check_data)
        train_sets, test_sets = arrange_classes(cfg, train_sets, test_sets, start, resume=resume)
        names = [*train_sets, *test_sets][0].class_names
        yield Data(False, train_sets, test_sets, names, describe_sets(train_sets))
        return
    _check_own_keys(cfg)
    if training:
        check_crops(cfg)
    # Annotations are read once more by detectron2, with what it alone knows in them.
    train_sets = [load_coco(name) for name in cfg.DATASETS.TRAIN if training and name in ours]
    test_sets = [load_coco(name) for name in cfg.DATASETS.TEST if name in ours]
    look_at_data(train_sets, test_sets, everything=check_data)
    if check_data and set(used) - set(ours):
        logger.warning(
            "The images of %s are not looked at: detectron2 alone knows these sets.",
            ", ".join(sorted(set(used) - set(ours))),
        )
    contents = describe_sets(train_sets)
    del train_sets, test_sets
    with lend_datasets(ours):
        classes = _find_class_names(used)
        known = get_detector_classes(start)
        if known and classes and known != classes and (resume or not training):
            assert start is not None
            raise ValueError(
                escape_controls(
                    f"{start.path} is a detector of {list_first(known, 20)}, in this order, and "
                    f"the datasets have {list_first(classes, 20)}; detectron2, which loads them "
                    "here, takes classes in the order of their ids: give datasets of these, in "
                    "this order"
                )
            )
        yield Data(True, [], [], classes, contents)


def _check_own_keys(cfg: CfgNode) -> None:
    """Refuse this project's own ways to load images where detectron2 loads them.

    Raises:
        ValueError: one is asked for.
    """
    keys = ("INPUT.SCALE_JITTER", "INPUT.COLOR_JITTER", "INPUT.STRETCH", "TEST.IMS_PER_BATCH")
    for key in keys:
        if (value := get_own(cfg, key)) != OWN_KEYS[key]:
            raise ValueError(
                f"{key} = {value} is not honored where detectron2 loads the images, as it does for "
                "these datasets or settings (keypoints, its samplers, a set of its own); write "
                f"{key} {OWN_KEYS[key]}, or --engine portable"
            )


def prepare_validation(cfg: CfgNode, data: Data) -> Sets:
    """Prepare the loading of test sets for losses, as ``prepare_sets``, by detectron2 if it has to.

    Its images are resized as in a test, and have what a training needs: masks, keypoints.

    Raises:
        ValueError: none of the images of a set is left.
    """
    if not data.by_detectron2:
        return prepare_sets(cfg, data.test_sets, convert_sample)
    if not get_own(cfg, "TEST.LOSS_PERIOD"):
        return {}
    mapper = DatasetMapper(cfg, True, augmentations=build_augmentation(cfg, False))
    files = cfg.DATASETS.PROPOSAL_FILES_TEST if cfg.MODEL.LOAD_PROPOSALS else []

    sets = {}
    for index, name in enumerate(cfg.DATASETS.TEST):
        try:
            records = get_detection_dataset_dicts(
                name,
                filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
                proposal_files=[files[index]] if files else None,
            )
        except AssertionError:  # which detectron2 raises where no image is left
            raise explain_no_objects(name) from None
        options = {"mapper": mapper, "num_workers": cfg.DATALOADER.NUM_WORKERS}
        sets[name] = partial(build_detection_test_loader, records, **options)
    return sets


def _find_class_names(names: Sequence[str]) -> tuple[str, ...]:
    """Find the classes of datasets that detectron2 loads; none where nobody tells.

    Raises:
        ValueError: two sets have other classes, or the same in another order.
    """
    known = {name: classes for name in names if (classes := _read_class_names(name))}
    for name, classes in known.items():
        first = next(iter(known))
        if classes != known[first]:
            raise ValueError(
                escape_controls(
                    f"dataset {name!r} has the classes {list_first(classes, 20)} in the order of "
                    f"their ids, and {first!r} has {list_first(known[first], 20)}; detectron2, "
                    "which loads them here, goes by this order: give both the same ids"
                )
            )
    return next(iter(known.values()), ())


def _read_class_names(name: str) -> tuple[str, ...]:
    if name in list_datasets():
        return tuple(read_category_names(find_dataset(name)[0], name).values())
    return tuple(MetadataCatalog.get(name).get("thing_classes", ()))
