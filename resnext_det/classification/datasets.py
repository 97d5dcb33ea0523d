"""The sets that a classifier is trained and tested on, and whether they go together."""

from __future__ import annotations

import logging
from datetime import timedelta

from fvcore.common.config import CfgNode

from resnext_det.data.images.catalog import open_image_set
from resnext_det.data.images.image_set import ImageSet, check_same_classes
from resnext_det.training import distributed

logger = logging.getLogger(__name__)

_PATIENCE = timedelta(hours=12)  # for the headers of 14 million images of an archive on a slow disk


def open_sets(cfg: CfgNode) -> tuple[ImageSet, ImageSet | None]:
    """``DATASETS.TRAIN`` and ``DATASETS.TEST``, None where that is empty.

    The test set has the classes of the training set, or some of them: those of ImageNet-1K for a network of 5000 classes.

    Raises:
        ValueError, FileNotFoundError: see ``open_image_set``; there is no training set, the classes differ, or their number is not
            ``MODEL.NUM_CLASSES``.
    """
    if not cfg.DATASETS.TRAIN:
        raise ValueError(
            "DATASETS.TRAIN is empty; write a set's name, such as imagenet_train, or a folder of class folders"
        )
    train = open_once(cfg.DATASETS.TRAIN)
    test = open_once(cfg.DATASETS.TEST) if cfg.DATASETS.TEST else None
    if cfg.MODEL.NUM_CLASSES not in (0, len(train.class_names)):
        raise ValueError(
            f"MODEL.NUM_CLASSES = {cfg.MODEL.NUM_CLASSES}, but DATASETS.TRAIN = {cfg.DATASETS.TRAIN!r} has {len(train.class_names)} "
            f"classes; write {len(train.class_names)}, or 0 for as many as there are"
        )
    if test is not None and not set(test.class_names) <= set(train.class_names):
        check_same_classes(train, test)
    logger.info("%s: %d images of %d classes", train.name, len(train), len(train.class_names))
    _warn(cfg, train, test)
    return train, test


def _warn(cfg: CfgNode, train: ImageSet, test: ImageSet | None) -> None:
    """Say what is allowed and seldom meant."""
    if len(train) < cfg.SOLVER.IMS_PER_BATCH:
        logger.warning(
            "SOLVER.IMS_PER_BATCH = %d is more than the %d images of the set: an epoch is one iteration, and sees images twice.",
            *(cfg.SOLVER.IMS_PER_BATCH, len(train)),
        )
    if test is None:
        return
    tested = set(test.list_classes_with_images())
    untested = [name for name in train.class_names if name not in tested]
    if untested:
        logger.warning(
            "%s has no image of %d of the %d classes (%s): the test says nothing of these.",
            *(test.name, len(untested), len(train.class_names), ", ".join(untested[:3])),
        )


def open_once(where: str) -> ImageSet:
    """Open a set in the main process first: it may have to generate it, or to walk an archive, for the others."""
    with distributed.run_main_process_first(_PATIENCE):
        return open_image_set(where)
