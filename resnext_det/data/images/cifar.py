"""Open CIFAR-10 and CIFAR-100, in the Python version of their publisher, with torchvision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity

from resnext_det.data.images.image_set import ImageSet
from resnext_det.data.images.storage import ArraySource


def open_cifar10(root: Path, split: str) -> ImageSet:
    """Open ``cifar-10-batches-py/`` in ``root``; all pixels are kept in memory (150 MB).

    It is what ``cifar-10-python.tar.gz`` holds. The files are pickles, and only those whose MD5 is
    the published one are read.

    Args:
        split: "train" (50,000 images) or "test" (10,000), of 32 by 32 pixels.

    Raises:
        FileNotFoundError: the folder is not there; the text says what to extract or to get.
        ValueError: a file in it is missing or not the published one.
    """
    return _open(CIFAR10, "CIFAR-10", root, split)


def open_cifar100(root: Path, split: str) -> ImageSet:
    """Open ``cifar-100-python/`` with its 100 fine labels; otherwise as ``open_cifar10``."""
    return _open(CIFAR100, "CIFAR-100", root, split)


def _open(published: type[CIFAR10], title: str, root: Path, split: str) -> ImageSet:
    folder, archive = root / published.base_folder, root / published.filename
    extract = f"tar -xzf {archive} -C {root}"
    if not folder.is_dir():
        if archive.is_file():
            raise FileNotFoundError(
                f"{title} is not there: {archive} is not extracted; extract it with: {extract}"
            )
        raise FileNotFoundError(
            f"{title} is not there: {folder} does not exist; copy or download {archive.name} (the "
            f"Python version; the binary version is not read) to {root} and extract it with: "
            f"{extract}, or set DETECTRON2_DATASETS to the folder where it is extracted"
        )
    files = published.train_list if split == "train" else published.test_list
    try:
        found = published(root, train=split == "train", download=False)
    except RuntimeError as error:
        meta = published.meta["filename"], published.meta["md5"]
        every = [*published.train_list, *published.test_list, meta]
        wrong = [name for name, md5 in every if not check_integrity(folder / name, md5)]
        raise ValueError(
            f"{title}: {', '.join(wrong)} in {folder} are missing or damaged: their MD5 is not "
            f"that of the published files; copy or download {archive.name} to {root} again and "
            f"extract it with: {extract}"
        ) from error
    return ImageSet(
        f"{title.lower().replace('-', '')}_{split}",
        tuple(found.classes),
        np.array(found.targets, np.int64),
        ArraySource(
            np.ascontiguousarray(found.data), tuple(f"{folder}/{name}" for name, _ in files)
        ),
    )
