"""ImageNet-1K (ILSVRC 2012) as it is published: folders or archives of image-net.org, of Kaggle, or as torchvision arranges them."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np

from resnext_det.data.images.archive_index import index_of_archive
from resnext_det.data.images.folders import open_flat_folder
from resnext_det.data.images.image_set import ImageSet
from resnext_det.data.images.imagenet_labels import validation_wnids
from resnext_det.data.images.locations import open_path
from resnext_det.data.images.sources import ArchiveSource, FileSource

logger = logging.getLogger(__name__)

NUM_CLASSES = 1000
NUM_IMAGES = {"train": 1_281_167, "val": 50_000}
_KAGGLE = "ILSVRC/Data/CLS-LOC"
_PLACES = {
    "train": ("train", f"{_KAGGLE}/train", "ILSVRC2012_img_train.tar"),
    "val": ("val", f"{_KAGGLE}/val", "ILSVRC2012_img_val.tar"),
}


def open_imagenet(folder: Path, split: str) -> ImageSet:
    """Open ``imagenet_train`` or ``imagenet_val``; the classes are WordNet ids in ascending order.

    The training images are, in the first place that is there, ``train/`` (a folder or an archive for each class),
    ``ILSVRC/Data/CLS-LOC/train/`` or ``ILSVRC2012_img_train.tar``; the validation images ``val/``, ``ILSVRC/Data/CLS-LOC/val/`` or
    ``ILSVRC2012_img_val.tar``, in class folders or not: then ``validation_wnids`` says their classes.

    Args:
        folder: ``$DETECTRON2_DATASETS/imagenet``.
        split: "train" or "val".

    Raises:
        FileNotFoundError: the images, or what says their classes, are not there.
        ValueError: an archive or the labels are damaged, or do not fit the images.
    """
    name = f"imagenet_{split}"
    places = [folder / place for place in _PLACES[split]]
    place = next((place for place in places if place.exists()), None)
    if place is None:
        raise FileNotFoundError(
            f"image set {name!r} is not there: none of {', '.join(map(str, places))} exists; put it there, "
            "set DETECTRON2_DATASETS to the folder of imagenet/, or give the path of a folder or .tar of class folders"
        )
    if split == "train" or (place.is_dir() and _has_folders(place)):
        opened = open_path(place)
        found = ImageSet(name, opened.class_names, opened.labels, opened.source)
    else:
        source = open_flat_folder(place) if place.is_dir() else index_of_archive(place)
        found = _labelled(name, place, source, validation_wnids(folder))
    if (len(found), len(found.class_names)) != (NUM_IMAGES[split], NUM_CLASSES):
        logger.warning(
            "%s, %s: %d images of %d classes, where the published set has %d of %d.",
            *(name, place, len(found), len(found.class_names), NUM_IMAGES[split], NUM_CLASSES),
        )
    return found


def _has_folders(place: Path) -> bool:
    return any(entry.is_dir() and not entry.name.startswith(".") for entry in os.scandir(place))


def _labelled(name: str, place: Path, source: FileSource | ArchiveSource, wnids: dict[str, str]) -> ImageSet:
    """Images without class folders, with the class of each file name."""
    stems = [file_name.rpartition(".")[0] for file_name in source.paths.names]
    unknown = [stem for stem in stems if stem not in wnids]
    missing = len(set(wnids).difference(stems))
    if unknown or missing:
        parts = [f"{len(unknown)} without a label, {unknown[0]} the first"] if unknown else []
        parts += [f"{missing} of {len(wnids)} missing"] if missing else []
        raise ValueError(
            f"{place} holds {len(stems)} images: {', '.join(parts)}; copy or download the images again, and the labels that belong to them"
        )
    class_names = sorted(set(wnids.values()))
    numbers = {wnid: number for number, wnid in enumerate(class_names)}
    labels = np.array([numbers[wnids[stem]] for stem in stems], np.int64)
    return ImageSet(name, tuple(class_names), labels, source)
