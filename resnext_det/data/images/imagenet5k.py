"""Choose, list and open ImageNet-5K (paper, section 5.2).

Its classes are the 1000 of ImageNet-1K and, of the full ImageNet, the 4000 others with most images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnext_det.data.images.array_files import (
    StoredSource,
    pack,
    read_arrays,
    unpack,
    write_arrays,
)
from resnext_det.data.images.image_set import ImageSet
from resnext_det.data.images.storage import Archive, ArchiveSource, FileSource, JoinedSource
from resnext_det.files import list_first, write_text

NAME = "imagenet5k_train"
NUM_CLASSES = 5000
PAPER_IMAGES = 6_800_000
"""The number of images of the paper's set, to two digits (section 5.2)."""

_IMAGES = "train.npz"
_MAKE = "resnext-det imagenet5k"


@dataclass(frozen=True)
class Choice:
    """Name the classes of ImageNet-5K.

    Attributes:
        class_names: first those of ImageNet-1K in ascending order, so that the first 1000 outputs
            of a network are those of a network for ImageNet-1K and are tested with its labels; then
            the others in ascending order.
        counts: the number of images of each class.
        added: the classes of ImageNet-1K that the full ImageNet lacks.
    """

    class_names: tuple[str, ...]
    counts: tuple[int, ...]
    added: tuple[str, ...]


def choose_classes(
    counts: Mapping[str, int],
    imagenet1k: Sequence[str],
    num_classes: int = NUM_CLASSES,
    imagenet1k_counts: Mapping[str, int] | None = None,
) -> Choice:
    """Choose the classes of ImageNet-1K and, of the others, those with the most images.

    Of equally many, the first by WordNet id is chosen.

    Args:
        counts: images of each class of the full ImageNet.
        imagenet1k: the classes of ImageNet-1K.
        num_classes: how many to choose altogether.
        imagenet1k_counts: training images of each class of ImageNet-1K, where those of a class that
            the full ImageNet lacks are to be taken from there. The release of fall 2011 lacks
            n04399382.

    Raises:
        ValueError: there are too few other classes; a class of ImageNet-1K has no images.
    """
    of_1k = sorted(set(imagenet1k))
    added = tuple(name for name in of_1k if not counts.get(name))
    if added and imagenet1k_counts is None:
        raise ValueError(
            f"the full ImageNet has no images of {len(added)} of the {len(of_1k)} classes of "
            f"ImageNet-1K: {list_first(added)}; give the training images of ImageNet-1K in place "
            "of the list of its classes, so that theirs are taken, or download what is missing"
        )
    others = {name: count for name, count in counts.items() if count and name not in set(of_1k)}
    wanted = num_classes - len(of_1k)
    if wanted < 0 or wanted > len(others):
        raise ValueError(
            f"{num_classes} classes cannot be had: {len(of_1k)} are ImageNet-1K's, and the full "
            f"ImageNet has {len(others)} others with images; give the whole ImageNet, or from "
            f"{len(of_1k)} to {len(of_1k) + len(others)} classes"
        )
    chosen = sorted(others, key=lambda name: (-others[name], name))[:wanted]
    names = (*of_1k, *sorted(chosen))
    of_added = imagenet1k_counts or {}
    return Choice(names, tuple(counts.get(name) or of_added[name] for name in names), added)


def make_imagenet5k(
    full: ImageSet,
    imagenet1k: ImageSet | Sequence[str],
    output: Path,
    num_classes: int = NUM_CLASSES,
) -> Choice:
    """Write the list of ImageNet-5K's images, its classes and their counts.

    The images stay where they are.

    Args:
        full: the full ImageNet, in folders or archives.
        imagenet1k: the training images of ImageNet-1K, or the names of its classes.
        output: a folder, ``$DETECTRON2_DATASETS/imagenet5k``. ``classes.txt`` and ``counts.txt``
            are written to it, and last ``train.npz``, which ``open_imagenet5k`` reads.

    Raises:
        ValueError: see ``choose_classes``; ``output`` holds a list already.
        OSError: ``output`` cannot be written to.
    """
    check_no_list(output)
    small = imagenet1k if isinstance(imagenet1k, ImageSet) else None
    names = imagenet1k.class_names if isinstance(imagenet1k, ImageSet) else imagenet1k
    small_counts = _count(small) if small is not None else None
    choice = choose_classes(_count(full), names, num_classes, small_counts)
    parts = [_select(full, choice.class_names)]
    if small is not None and choice.added:
        parts.append(_select(small, choice.class_names, only=choice.added))
    arrays, descriptions = {"labels": np.concatenate([labels for _, labels in parts])}, []
    for number, (source, _) in enumerate(parts):
        description, more = pack(source, f"{number}.")
        descriptions.append(description)
        arrays |= more
    lines = [f"{name} {count}\n" for name, count in zip(choice.class_names, choice.counts)]
    write_text(output / "classes.txt", "".join(f"{name}\n" for name in choice.class_names))
    write_text(output / "counts.txt", "".join(lines))
    header = {"class_names": choice.class_names, "parts": descriptions}
    write_arrays(output / _IMAGES, header, arrays)
    return choice


def check_no_list(output: Path) -> None:
    """Raise ValueError where ``output`` holds a list of ``make_imagenet5k`` already."""
    if (output / _IMAGES).exists():
        raise ValueError(
            f"{output} holds a list already; remove {output / _IMAGES} to make it anew, or choose "
            "another folder"
        )


def open_imagenet5k(folder: Path) -> ImageSet:
    """Open the set whose list ``make_imagenet5k`` wrote.

    Raises:
        FileNotFoundError: there is no such list, or the images are not where they were.
        ValueError: the list is damaged; an archive has changed since it was made.
    """
    path = folder / _IMAGES
    header, arrays = _read(path)
    try:
        prefixes = [f"{number}." for number in range(len(header["parts"]))]
        parts = [unpack(part, arrays, prefix) for part, prefix in zip(header["parts"], prefixes)]
        class_names, labels = tuple(header["class_names"]), arrays["labels"]
        fit = labels.dtype == np.int64 and labels.shape == (sum(map(len, parts)),)
        if not fit or not len(labels) or not 0 <= labels.min() <= labels.max() < len(class_names):
            raise ValueError("labels and images do not fit together")
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged: {error}; remove it, and make it anew with {_MAKE}"
        ) from error
    for part in parts:
        _check_unchanged(part, path)
    return ImageSet(NAME, class_names, labels, JoinedSource(tuple(parts)))


def read_imagenet5k_classes(folder: Path) -> tuple[str, ...]:
    """Read the class names of ``open_imagenet5k`` without its images; raises as it."""
    header, _ = _read(folder / _IMAGES, header_alone=True)
    return tuple(header.get("class_names", ()))


def _count(image_set: ImageSet) -> dict[str, int]:
    return dict(zip(image_set.class_names, image_set.count_images().tolist()))


def _select(
    image_set: ImageSet, class_names: Sequence[str], only: Sequence[str] | None = None
) -> tuple[StoredSource, np.ndarray]:
    """Select the images of ``class_names``, or of ``only`` some of them, and their labels."""
    source = image_set.source
    if not isinstance(source, FileSource | ArchiveSource):
        raise ValueError(
            f"image set {image_set.name!r} is not of files or archives; give their path"
        )
    chosen = set(class_names if only is None else only)
    numbers = {name: number for number, name in enumerate(class_names) if name in chosen}
    new = np.array([numbers.get(name, -1) for name in image_set.class_names], np.int64)
    labels = new[image_set.labels]
    indices = np.flatnonzero(labels >= 0)
    return source.take(indices), labels[indices]


def _read(
    path: Path, *, header_alone: bool = False
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        return read_arrays(path, header_alone=header_alone)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"image set {NAME!r} is not there: {path} does not exist; make it with {_MAKE} "
            f"--output {path.parent}, or set DETECTRON2_DATASETS to the folder of imagenet5k/"
        ) from None
    except ValueError as error:
        raise ValueError(f"{error}; remove it, and make it anew with {_MAKE}") from error


def _check_unchanged(part: StoredSource, path: Path) -> None:
    """Check that folders and archives are as they were; that every file is there takes too long."""
    archives = part.archives if isinstance(part, ArchiveSource) else ()
    places = [part.root / archive.name for archive in archives]
    again = f"put it back, or remove {path} and make it anew with {_MAKE}"
    for place in (part.root, *places):
        if not place.exists():
            raise FileNotFoundError(
                f"{path} lists images in {place}, which does not exist; {again}"
            )
    for place, archive in zip(places, archives):
        if Archive.inspect(part.root, archive.name) != archive:
            raise ValueError(f"{path} lists images in {place}, which has changed since; {again}")
