"""Image sets in tar archives, which are read where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from resnext_det.data.images.archive_index import index_of_archive, index_of_folder
from resnext_det.data.images.archive_walk import IMAGE_SUFFIXES
from resnext_det.data.images.folders import check_no_splits
from resnext_det.data.images.image_set import ImageSet
from resnext_det.data.images.sources import ArchiveSource

_TAR = ".tar"


def open_archive(path: Path, inside: str = "") -> ImageSet:
    """Open an archive of class folders, or of one archive for each class (ILSVRC2012_img_train.tar, fall11_whole.tar).

    Classes and images are those that ``torchvision.datasets.ImageFolder`` finds in the extracted archive, in its order; the ``._name``
    files of macOS are left out. A folder that alone holds all class folders, as ``train/``, is passed over.

    Args:
        inside: the folder in the archive that holds the class folders, where that is not clear.

    Raises:
        FileNotFoundError: there is no such archive, or nothing in it in ``inside``.
        ValueError: it holds no class folders or several splits; see ``walk``.
    """
    source = index_of_archive(path)
    parts = [tuple(folder.split("/")[1:]) for folder in source.paths.folders]
    wanted = tuple(part for part in inside.split("/") if part)
    below = [folder[len(wanted) :] if folder[: len(wanted)] == wanted else None for folder in parts]
    if all(folder is None for folder in below):
        found = ", ".join(sorted({folder[0] for folder in parts if folder})[:10])
        raise FileNotFoundError(
            f"archive {path} holds no images ({', '.join(IMAGE_SUFFIXES)}) in {inside or 'it'}"
            + (f"; its folders are {found}" if inside and found else "; give an archive of class folders")
        )
    known = [folder for folder in below if folder is not None]
    depth = _depth_of_classes(known)
    class_of_folder = [
        None if folder is None or len(folder) <= depth else folder[depth].removesuffix(_TAR)
        for folder in below
    ]
    if all(name is None for name in class_of_folder):
        raise ValueError(
            f"archive {path} holds images and no class folders, so their classes are not known; "
            "make a list of them (FOLDER:LIST.txt:CLASSES.txt), or put them into one folder for each class"
        )
    check_no_splits("/".join([str(path), *wanted, *known[0][:depth]]), class_of_folder)
    return _of_classes("/".join([str(path), *wanted]), source, class_of_folder)


def open_archives_of_classes(folder: Path, names: Sequence[str], *, allow_empty: bool = False) -> ImageSet:
    """Open a folder of archives, each with the images of the class it is called after: n01440764.tar ...

    Args:
        allow_empty: leave out archives without images.

    Raises:
        ValueError: an archive holds no images, or archives; see ``walk``.
    """
    source = index_of_folder(folder, names)
    classes = [
        source.archives[number].name.removesuffix(_TAR) for number in source.archive_of_folder.tolist()
    ]
    empty = sorted({name.removesuffix(_TAR) for name in names}.difference(classes))
    if empty and not allow_empty:
        raise ValueError(
            f"folder {folder}: there are no images in {', '.join(f'{name}.tar' for name in empty[:5])}"
            f"{f' and {len(empty) - 5} more' if len(empty) > 5 else ''}; download them again, or remove them to do without these classes"
        )
    return _of_classes(str(folder), source, classes)


def _depth_of_classes(folders: Sequence[tuple[str, ...]]) -> int:
    """How many folders that hold nothing but one folder come before the class folders."""
    depth = 0
    while min(map(len, folders)) >= depth + 2:
        first = {folder[depth] for folder in folders}
        if len(first) > 1 or first.pop().endswith(_TAR):
            break
        depth += 1
    return depth


def _of_classes(name: str, source: ArchiveSource, class_of_folder: Sequence[str | None]) -> ImageSet:
    class_names = sorted({found for found in class_of_folder if found is not None})
    numbers = {found: number for number, found in enumerate(class_names)}
    of_folder = np.array([-1 if found is None else numbers[found] for found in class_of_folder], np.int64)
    labels = of_folder[source.paths.folder_of]
    order = np.argsort(labels, kind="stable")
    order = order[labels[order] >= 0]
    if not np.array_equal(order, np.arange(len(labels))):
        source, labels = source.take(order), labels[order]
    return ImageSet(name, tuple(class_names), labels, source)
