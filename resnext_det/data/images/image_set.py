"""Sets of images with one class each, which classifiers learn from and are tested on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from resnext_det.data.images.storage import ImageSource
from resnext_det.files import list_first

_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Hold images with one label each.

    A set is small and made of arrays, however many images it has. It holds no open file, so that it
    can be handed to loading processes, forked or spawned. The classes of ImageNet are WordNet ids
    in ascending order, as in every published 1000-way network.
    """

    name: str  # or path, that it was opened by
    class_names: tuple[str, ...]
    labels: np.ndarray  # int64 (N,), indices into ``class_names``
    source: ImageSource  # reads the pixels

    def __post_init__(self) -> None:
        assert self.labels.dtype == np.int64
        assert self.labels.shape == (len(self.source),)
        assert not len(self) or 0 <= self.labels.min() <= self.labels.max() < len(self.class_names)

    def __len__(self) -> int:
        return len(self.labels)

    def name_image(self, index: int) -> str:
        """Name an image by its path in the set, which is the same on every machine, for results."""
        return self.source.name(range(len(self))[index])

    def locate(self, index: int) -> str:
        """Name an image for errors and logs by its path, or ``archive.tar/path/in/it``."""
        return self.source.locate(range(len(self))[index])

    def read(self, index: int) -> np.ndarray:
        """Read and decode an image.

        Returns:
            uint8 RGB (height, width, 3), writable, as it is stored: the EXIF orientation is not
            applied (see ``decode_rgb``).

        Raises:
            FileNotFoundError: it is not there any more.
            ValueError: it is truncated, is no image, or cannot be read. Both name the file.
        """
        return self.source.read(range(len(self))[index])

    def count_images(self) -> np.ndarray:
        """Count the images of each class: int64 (number of classes,)."""
        return np.bincount(self.labels, minlength=len(self.class_names))

    def list_classes_with_images(self) -> list[str]:
        """Name the classes that have images, in the order of the labels."""
        numbers = zip(self.class_names, self.count_images(), strict=True)
        return [name for name, number in numbers if number]


def check_same_classes(train: ImageSet, test: ImageSet) -> None:
    """Raise ValueError unless a label means the same class in both sets."""
    if train.class_names == test.class_names:
        return
    missing = [name for name in train.class_names if name not in set(test.class_names)]
    extra = [name for name in test.class_names if name not in set(train.class_names)]
    parts = [f"{test.name!r} lacks {list_first(missing)}"] if missing else []
    parts += [f"{train.name!r} lacks {list_first(extra)}"] if extra else []
    if not parts:
        pairs = enumerate(zip(train.class_names, test.class_names))
        label, (one, other) = next(pair for pair in pairs if len(set(pair[1])) > 1)
        parts = [f"label {label} is {one} in one and {other} in the other"]
    raise ValueError(
        f"image sets {train.name!r} ({len(train.class_names)} classes) and {test.name!r} "
        f"({len(test.class_names)}) have different classes: {'; '.join(parts)}; give sets of the "
        "same classes, in folders of the same names"
    )


def check_no_splits(where: str, class_names: Iterable[str | None]) -> None:
    """Raise ValueError where the class folders are train, val and test.

    torchvision's ImageFolder would take these splits for classes.
    """
    names = sorted({name for name in class_names if name is not None})
    if {name.lower() for name in names} <= _SPLITS:
        raise ValueError(
            f"{where} holds {', '.join(names)}, which are no classes but splits of a set; open one "
            f"of them, {where}/{names[0]}"
        )


def relabel(image_set: ImageSet, class_names: Sequence[str]) -> ImageSet:
    """Give the images labels of another list of classes, which are found by their names.

    So ImageNet-1K can be shown to a network of 5000 outputs.

    Args:
        image_set: every one of its classes is in ``class_names``.
        class_names: the classes of the result, in this order.

    Raises:
        ValueError: a class is missing.
    """
    numbers = {name: number for number, name in enumerate(class_names)}
    missing = [name for name in image_set.class_names if name not in numbers]
    if missing:
        raise ValueError(
            f"image set {image_set.name!r} has classes that are not among the {len(numbers)} "
            f"wanted ones: {list_first(missing)}; choose the set or the list of classes of the "
            "other's origin"
        )
    new = np.array([numbers[name] for name in image_set.class_names], np.int64)
    return replace(image_set, class_names=tuple(class_names), labels=new[image_set.labels])
