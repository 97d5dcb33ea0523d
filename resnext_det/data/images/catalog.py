"""Image sets by name, under the folder where datasets lie."""

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


def open_image_set(where: str | Path, *, root: Path | None = None) -> ImageSet:
    """Open an image set by its name or path.

    Args:
        where: one of ``list_image_sets``, or a path as ``open_path`` takes it.
        root: the folder in which the named sets lie; by default ``get_datasets_root``: $DETECTRON2_DATASETS, or ./datasets.

    Raises:
        FileNotFoundError: the set is not there; the text says where it was looked for, and in which form.
        ValueError: the name is unknown, or something is damaged.
    """
    name = os.fspath(where)
    if name in _NAMES:
        return _NAMES[name](get_datasets_root() if root is None else root)
    if _is_path(name):
        return open_path(where)
    near = difflib.get_close_matches(name, _NAMES, n=1)
    raise ValueError(
        f"image set {name!r} is neither a name nor a path{f' (did you mean {near[0]}?)' if near else ''}; "
        f"names are {', '.join(list_image_sets())}; a path is {ACCEPTED}"
    )


def list_image_sets() -> tuple[str, ...]:
    """The names that ``open_image_set`` takes."""
    return tuple(sorted(_NAMES))


def _is_path(name: str) -> bool:
    return any(mark in name for mark in (os.sep, ":", ".")) or Path(name).exists()


def _shape_images(root: Path, split: str) -> ImageSet:
    from resnext_det.data.shapes import prepare_shape_images

    return replace(
        open_class_folders(prepare_shape_images(root, split)), name=f"shape_images_{split}"
    )


def _imagenet5k_val(root: Path) -> ImageSet:
    """ImageNet-1K's validation images with the labels of ImageNet-5K."""
    class_names = read_imagenet5k_classes(root / "imagenet5k")
    validation = open_imagenet(root / "imagenet", "val")
    return replace(relabel(validation, class_names), name="imagenet5k_val")


_NAMES: dict[str, Callable[[Path], ImageSet]] = {
    "imagenet5k_train": lambda root: open_imagenet5k(root / "imagenet5k"),
    "imagenet5k_val": _imagenet5k_val,
}
for _split in ("train", "val"):
    _NAMES[f"shape_images_{_split}"] = partial(_shape_images, split=_split)
    _NAMES[f"imagenet_{_split}"] = partial(
        lambda root, split: open_imagenet(root / "imagenet", split), split=_split
    )
for _split in ("train", "test"):
    _NAMES[f"cifar10_{_split}"] = partial(open_cifar10, split=_split)
    _NAMES[f"cifar100_{_split}"] = partial(open_cifar100, split=_split)
