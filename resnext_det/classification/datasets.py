"""Open the image sets of a classifier's training, and check that they go together."""

from __future__ import annotations

import logging
from datetime import timedelta

from fvcore.common.config import CfgNode

from resnext_det.data.images.catalog import open_image_set
from resnext_det.data.images.image_set import ImageSet, check_same_classes
from resnext_det.files import list_first
from resnext_det.training import distributed

logger = logging.getLogger(__name__)

_PATIENCE = timedelta(hours=12)  # for the headers of 14 million images of an archive on a slow disk


def open_sets(cfg: CfgNode) -> tuple[ImageSet, ImageSet | None]:
    """Open ``DATASETS.TRAIN`` and ``DATASETS.TEST``, which may be empty.

    The test set has the classes of the training set or some of them, as ImageNet-1K's for a network
    of 5000 classes.

    Raises:
        ValueError, FileNotFoundError: see ``open_image_set``; there is no training set, the classes
            differ, or their number is not ``MODEL.NUM_CLASSES``.
    """
    if not cfg.DATASETS.TRAIN:
        raise ValueError(
            "DATASETS.TRAIN is empty; write a set's name, such as imagenet_train, or a folder of "
            "class folders"
        )
    train = open_once(cfg.DATASETS.TRAIN)
    test = open_once(cfg.DATASETS.TEST) if cfg.DATASETS.TEST else None
    count = len(train.class_names)
    if cfg.MODEL.NUM_CLASSES not in (0, count):
        raise ValueError(
            f"MODEL.NUM_CLASSES = {cfg.MODEL.NUM_CLASSES}, but DATASETS.TRAIN = "
            f"{cfg.DATASETS.TRAIN!r} has {count} classes; write {count}, or 0 for as many as there "
            "are"
        )
    if test is not None and not set(test.class_names) <= set(train.class_names):
        check_same_classes(train, test)
    logger.info("%s: %d images of %d classes", train.name, len(train), count)
    _warn_of_odd_sets(cfg, train, test)
    return train, test


def _warn_of_odd_sets(cfg: CfgNode, train: ImageSet, test: ImageSet | None) -> None:
    """Warn of what is allowed and seldom meant."""
    if len(train) < cfg.SOLVER.IMS_PER_BATCH:
        logger.warning(
            "SOLVER.IMS_PER_BATCH = %d is more than the %d images of the set: an epoch is one "
            "iteration, and sees images twice.",
            *(cfg.SOLVER.IMS_PER_BATCH, len(train)),
        )
    if test is None:
        return
    tested = set(test.list_classes_with_images())
    untested = [name for name in train.class_names if name not in tested]
    if untested:
        logger.warning(
            "%s has no image of %d of the %d classes (%s): the test says nothing of these.",
            *(test.name, len(untested), len(train.class_names), list_first(untested, 3)),
        )


def open_once(where: str) -> ImageSet:
    """Open a set in the main process first, which may have to generate it or to walk an archive."""
    with distributed.run_main_process_first(_PATIENCE):
        return open_image_set(where)
