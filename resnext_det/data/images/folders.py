"""Image sets in folders, and images in one folder."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset
from tqdm import tqdm

from resnext_det.data.images.image_set import ImageSet
from resnext_det.data.images.packing import PackedPaths
from resnext_det.data.images.sources import FileSource

_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def open_class_folders(root: Path, *, allow_empty: bool = False) -> ImageSet:
    """Open ``ROOT/CLASS/**/NAME.jpg``: classes and images are those of ``torchvision.datasets.ImageFolder``, in its order.

    Args:
        root: the folder of the class folders.
        allow_empty: whether there may be classes without images.

    Raises:
        FileNotFoundError: the folder does not exist, or holds no class folders; a class has no images.
        ValueError: the folders are those of splits, train and val.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"folder {root} does not exist; give a folder of class folders")
    try:
        class_names, _ = find_classes(root)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"folder {root} holds no class folders; give the folder that holds one folder of images for each class"
        ) from None
    check_no_splits(str(root), class_names)
    labels, prefix = array("q"), os.path.join(root, "")

    def paths() -> Iterator[tuple[str, str]]:
        for label, name in enumerate(tqdm(class_names, desc=f"listing {root.name}", disable=None)):
            for path, _ in make_dataset(root, {name: label}, IMG_EXTENSIONS, allow_empty=True):
                labels.append(label)
                yield os.path.split(path[len(prefix) :])

    packed = PackedPaths.of(paths())
    found = ImageSet(
        str(root), tuple(class_names), np.frombuffer(labels, np.int64), FileSource(root, packed)
    )
    if not allow_empty:
        _check_no_class_is_empty(found, root)
    return found


def open_flat_folder(root: Path) -> FileSource:
    """The images of one folder, by name, without what is in its folders."""
    names = sorted(
        entry.name for entry in os.scandir(root) if entry.name.lower().endswith(IMG_EXTENSIONS)
    )
    return FileSource(root, PackedPaths.of(("", name) for name in names))


def check_no_splits(where: str, class_names: Iterable[str | None]) -> None:
    """Raise ValueError where what should be classes are train, val and test: ImageFolder would take them for classes."""
    names = sorted({name for name in class_names if name is not None})
    if {name.lower() for name in names} <= _SPLITS:
        raise ValueError(
            f"{where} holds {', '.join(names)}, which are no classes but splits of a set; open one of them, {where}/{names[0]}"
        )


def _check_no_class_is_empty(found: ImageSet, root: Path) -> None:
    empty = [name for name, count in zip(found.class_names, found.images_per_class()) if count == 0]
    if not empty:
        return
    hidden = [name for name in empty if name.startswith(".")]
    remark = (
        f" ({hidden[0]} is hidden, but every folder in {root} counts as a class)" if hidden else ""
    )
    raise FileNotFoundError(
        f"folder {root} holds no images for {len(empty)} of its {len(found.class_names)} classes: {', '.join(empty[:5])}"
        f"{' ...' if len(empty) > 5 else ''}{remark}; images end in {', '.join(IMG_EXTENSIONS)}: put some there, or remove these folders"
    )
