"""Open image sets by name, under the folder of datasets, or by path."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from resnext_det.data.coco import get_datasets_root
from resnext_det.data.images.cifar import open_cifar10, open_cifar100
from resnext_det.data.images.image_set import ImageSet, relabel
from resnext_det.data.images.imagenet import open_imagenet
from resnext_det.data.images.imagenet5k import open_imagenet5k, read_imagenet5k_classes
from resnext_det.data.images.locations import ACCEPTED, open_class_folders, open_path
from resnext_det.files import shorten_path


def open_image_set(where: str | Path, *, root: Path | None = None) -> ImageSet:
    """Open an image set by its name or path.

    Args:
        where: one of ``list_image_sets``, or a path as ``open_path`` takes it.
        root: the folder of the named sets; by default $DETECTRON2_DATASETS, or ./datasets.

    Raises:
        FileNotFoundError: the set is not there; the text says where it was looked for, and in which
            form.
        ValueError: the name is unknown, or something is damaged.
    """
    name = os.fspath(where)
    if name in _OPENERS:
        return _OPENERS[name](get_datasets_root() if root is None else root)
    if _is_path(name):
        return open_path(where)
    near = difflib.get_close_matches(name, _OPENERS, n=1)
    guess = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(
        f"image set {name!r} is neither a name nor a path{guess}; names are "
        f"{', '.join(list_image_sets())}; a path is {ACCEPTED}"
    )


def name_image_set(where: str) -> str:
    """Name a set for results, alike on every machine: its name, or the end of its path.

    "imagenet_val" gives itself, "/home/me/pets/val" and, in /home/me/pets, "val" give "pets/val".
    """
    if where in _OPENERS or not _is_path(where):
        return where
    parts = (os.path.abspath(os.path.expanduser(part)) for part in where.split(":"))
    return shorten_path(":".join(parts))


def _is_path(name: str) -> bool:
    return any(mark in name for mark in (os.sep, ":", ".")) or Path(name).exists()


def list_image_sets() -> tuple[str, ...]:
    """List the names that ``open_image_set`` takes."""
    return tuple(sorted(_OPENERS))


def _open_shape_images(root: Path, split: str) -> ImageSet:
    from resnext_det.data.shapes import prepare_shape_images

    found = open_class_folders(prepare_shape_images(root, split))
    return replace(found, name=f"shape_images_{split}")


def _open_imagenet5k_val(root: Path) -> ImageSet:
    """Open ImageNet-1K's validation images with the labels of ImageNet-5K."""
    class_names = read_imagenet5k_classes(root / "imagenet5k")
    validation = open_imagenet(root / "imagenet", "val")
    return replace(relabel(validation, class_names), name="imagenet5k_val")


_OPENERS: dict[str, Callable[[Path], ImageSet]] = {
    "imagenet_train": lambda root: open_imagenet(root / "imagenet", "train"),
    "imagenet_val": lambda root: open_imagenet(root / "imagenet", "val"),
    "imagenet5k_train": lambda root: open_imagenet5k(root / "imagenet5k"),
    "imagenet5k_val": _open_imagenet5k_val,
    "cifar10_train": partial(open_cifar10, split="train"),
    "cifar10_test": partial(open_cifar10, split="test"),
    "cifar100_train": partial(open_cifar100, split="train"),
    "cifar100_test": partial(open_cifar100, split="test"),
    "shape_images_train": partial(_open_shape_images, split="train"),
    "shape_images_val": partial(_open_shape_images, split="val"),
}
