"""ImageNet-5K: the 1000 classes of ImageNet-1K and the 4000 others of the full ImageNet with the most images (paper, section 5.2)."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnext_det.data.images.array_files import (
    StoredSource,
    pack,
    read_arrays,
    read_header,
    unpack,
    write_arrays,
)
from resnext_det.data.images.image_set import ImageSet
from resnext_det.data.images.storage import (
    Archive,
    ArchiveSource,
    FileSource,
    ImageSource,
    JoinedSource,
)

NAME = "imagenet5k_train"
NUM_CLASSES = 5000
PAPER_IMAGES = 6_800_000
"""How many images the paper's set has, to two digits (section 5.2)."""

_IMAGES, _CLASSES, _COUNTS = "train.npz", "classes.txt", "counts.txt"
_MAKE = "tools/make_imagenet5k.py"


@dataclass(frozen=True)
class Choice:
    """The classes of ImageNet-5K.

    ``class_names`` begins with those of ImageNet-1K in ascending order, so that the first 1000 outputs of a network are those of a
    network for ImageNet-1K: testing it 1K-way takes the first 1000 logits, and the validation labels are unchanged. The others follow
    in ascending order. ``counts`` are their images. ``added`` are those of ImageNet-1K that the full ImageNet lacks.
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
    """The classes of ImageNet-1K and, of the others, those with the most images; of equally many, the first by WordNet id.

    Args:
        counts: images of each class of the full ImageNet.
        imagenet1k: the classes of ImageNet-1K.
        num_classes: how many to choose altogether.
        imagenet1k_counts: training images of each class of ImageNet-1K, where those of a class that the full ImageNet lacks are to be
            taken from there. The release of fall 2011 lacks n04399382.

    Raises:
        ValueError: there are too few other classes; a class of ImageNet-1K has no images.
    """
    of_1k = sorted(set(imagenet1k))
    added = tuple(name for name in of_1k if not counts.get(name))
    if added and imagenet1k_counts is None:
        raise ValueError(
            f"the full ImageNet has no images of {len(added)} of the {len(of_1k)} classes of ImageNet-1K: {', '.join(added[:5])}"
            f"{' ...' if len(added) > 5 else ''}; give the training images of ImageNet-1K in place of the list of its classes, "
            "and theirs are taken from there, or download what is missing"
        )
    others = {name: count for name, count in counts.items() if count and name not in set(of_1k)}
    wanted = num_classes - len(of_1k)
    if wanted < 0 or wanted > len(others):
        raise ValueError(
            f"{num_classes} classes cannot be had: {len(of_1k)} are ImageNet-1K's, and the full ImageNet has {len(others)} others with "
            f"images; give the whole ImageNet, or from {len(of_1k)} to {len(of_1k) + len(others)} classes"
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
    """Write the list of ImageNet-5K's images, its classes and their counts; the images stay where they are.

    Args:
        full: the full ImageNet, in folders or archives.
        imagenet1k: the training images of ImageNet-1K, or the names of its classes.
        output: a folder, ``$DETECTRON2_DATASETS/imagenet5k``; ``train.npz`` (for ``open_imagenet5k``), ``classes.txt`` and ``counts.txt``
            appear in it whole or not at all.

    Raises:
        ValueError: see ``choose_classes``; ``output`` holds a list already.
        OSError: ``output`` cannot be written to.
    """
    check_no_list(output)
    small = imagenet1k if isinstance(imagenet1k, ImageSet) else None
    names = imagenet1k.class_names if isinstance(imagenet1k, ImageSet) else imagenet1k
    choice = choose_classes(
        _counts(full), names, num_classes, _counts(small) if small is not None else None
    )
    parts = [_part(full, choice.class_names)]
    if small is not None and choice.added:
        parts.append(_part(small, choice.class_names, only=choice.added))
    output.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".making-", dir=output))
    try:
        _write(aside / _IMAGES, choice.class_names, parts)
        (aside / _CLASSES).write_text("".join(f"{name}\n" for name in choice.class_names))
        pairs = zip(choice.class_names, choice.counts)
        (aside / _COUNTS).write_text("".join(f"{name} {count}\n" for name, count in pairs))
        for file in (_CLASSES, _COUNTS, _IMAGES):  # the last says that all are there
            os.replace(aside / file, output / file)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return choice


def check_no_list(output: Path) -> None:
    """Raise ValueError where ``output`` holds a list of ``make_imagenet5k`` already."""
    if (output / _IMAGES).exists():
        raise ValueError(
            f"{output} holds a list already; remove {output / _IMAGES} to make it anew, or choose another folder"
        )


def open_imagenet5k(folder: Path) -> ImageSet:
    """Open what ``make_imagenet5k`` wrote.

    Raises:
        FileNotFoundError: there is no such list, or the images are not where they were.
        ValueError: the list is damaged; an archive has changed since it was made.
    """
    path = folder / _IMAGES
    header, arrays = _found(path, read_arrays)
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
    source: ImageSource = parts[0] if len(parts) == 1 else JoinedSource(tuple(parts))
    return ImageSet(NAME, class_names, labels, source)


def read_imagenet5k_classes(folder: Path) -> tuple[str, ...]:
    """The class names of ``open_imagenet5k`` without its images; raises as it."""
    header, _ = _found(folder / _IMAGES, lambda path: (read_header(path), {}))
    return tuple(header.get("class_names", ()))


def _counts(image_set: ImageSet) -> dict[str, int]:
    return dict(zip(image_set.class_names, image_set.count_images().tolist()))


def _part(
    image_set: ImageSet, class_names: Sequence[str], only: Sequence[str] | None = None
) -> tuple[StoredSource, np.ndarray]:
    """The images of ``class_names``, or of ``only`` some of them, and their labels."""
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


def _write(
    path: Path, class_names: Sequence[str], parts: Sequence[tuple[StoredSource, np.ndarray]]
) -> None:
    packed = [pack(source, f"{number}.") for number, (source, _) in enumerate(parts)]
    arrays = {"labels": np.concatenate([labels for _, labels in parts])}
    for _, more in packed:
        arrays |= more
    write_arrays(path, {"class_names": class_names, "parts": [part for part, _ in packed]}, arrays)


def _found(
    path: Path, read: Callable[[Path], tuple[dict[str, Any], dict[str, np.ndarray]]]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        return read(path)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"image set {NAME!r} is not there: {path} does not exist; make it with {_MAKE} --output {path.parent}, "
            "or set DETECTRON2_DATASETS to the folder of imagenet5k/"
        ) from None
    except ValueError as error:
        raise ValueError(f"{error}; remove it, and make it anew with {_MAKE}") from error


def _check_unchanged(part: StoredSource, path: Path) -> None:
    """Of archives only: that every file is there would take long to see."""
    again = f"put it back, or remove {path} and make it anew with {_MAKE}"
    if not part.root.is_dir():
        raise FileNotFoundError(
            f"{path} lists images in {part.root}, which does not exist; {again}"
        )
    for archive in part.archives if isinstance(part, ArchiveSource) else ():
        try:
            now = Archive.at(part.root, archive.name)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{path} lists images in {part.root / archive.name}, which does not exist; {again}"
            ) from None
        if now != archive:
            raise ValueError(
                f"{path} lists images in {part.root / archive.name}, which has changed since; {again}"
            )
