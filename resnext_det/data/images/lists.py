"""Image sets by list: the text files of Caffe and mmpretrain."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from resnext_det.data.images.image_set import ImageSet
from resnext_det.data.images.packing import PackedPaths
from resnext_det.data.images.sources import FileSource


def open_list(images: Path, list_file: Path, classes_file: Path) -> ImageSet:
    """Open the images that a text file names, ``path label`` in each line.

    The label is what follows the last space, so that there may be spaces in the path. Empty lines are passed over.

    Args:
        images: the folder that the paths are relative to.
        list_file: labels count from 0.
        classes_file: the name of a class in each line, that of label 0 in the first.

    Raises:
        FileNotFoundError: one of the three does not exist.
        ValueError: a line is not of this form, or has a label without a class; there are no images; a class is named twice.
    """
    if not images.is_dir():
        raise FileNotFoundError(
            f"folder {images} does not exist; give the folder that the paths in {list_file} start from"
        )
    class_names = read_class_names(classes_file)
    labels = array("q")

    def paths() -> Iterator[tuple[str, str]]:
        for number, line in _lines(list_file):
            path, label = _parsed(line, f"{list_file}, line {number}", len(class_names))
            labels.append(label)
            folder, _, name = path.rpartition("/")
            yield folder, name

    packed = PackedPaths.of(paths())
    if len(packed) == 0:
        raise ValueError(f"list {list_file} names no images; write a line 'path label' for each")
    name = f"{images}:{list_file}:{classes_file}"
    return ImageSet(name, class_names, np.frombuffer(labels, np.int64), FileSource(images, packed))


def read_class_names(path: Path) -> tuple[str, ...]:
    """The lines of a text file that are not empty.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, or names a class twice.
    """
    lines: dict[str, int] = {}
    for number, line in _lines(path):
        if line in lines:
            raise ValueError(
                f"{path} names the class {line!r} in lines {lines[line]} and {number}; give each class a name of its own"
            )
        lines[line] = number
    if not lines:
        raise ValueError(
            f"{path} names no classes; write the name of one in each line, that of label 0 first"
        )
    return tuple(lines)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text) of every line that is not empty."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            for number, line in enumerate(file, start=1):
                if text := line.strip():
                    yield number, text
    except FileNotFoundError:
        raise FileNotFoundError(
            f"file {path} does not exist; correct its path, or put it there"
        ) from None


def _parsed(line: str, where: str, num_classes: int) -> tuple[str, int]:
    path, *label_part = line.rsplit(maxsplit=1)
    label = "".join(label_part)
    if not label.isdecimal():
        raise ValueError(
            f"{where}: {line[:100]!r} is not of the form 'path label', with a number as the label"
        )
    if int(label) >= num_classes:
        raise ValueError(
            f"{where}: label {label} has no class; the names of {num_classes} classes are given, for labels from 0 to {num_classes - 1}"
        )
    return path, int(label)
