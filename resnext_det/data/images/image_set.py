"""Images with a class each: what pre-training learns from and is tested on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from resnext_det.data.images.storage import ImageSource

_SHOWN = 5  # class names in an error
_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A set of images with one label each.

    It is small and made of arrays, however many images it has, and can be handed to loading processes whether they are forked or spawned:
    it holds no open file.

    Attributes:
        name: the name or the path that it was opened by.
        class_names: the class of each label; for ImageNet the WordNet ids in ascending order, as every published 1000-way network has them.
        labels: int64 (N,), indices into ``class_names``.
        source: gives the pixels.
    """

    name: str
    class_names: tuple[str, ...]
    labels: np.ndarray
    source: ImageSource

    def __post_init__(self) -> None:
        assert self.labels.dtype == np.int64
        assert self.labels.shape == (len(self.source),)
        assert not len(self) or 0 <= self.labels.min() <= self.labels.max() < len(self.class_names)

    def __len__(self) -> int:
        return len(self.labels)

    def file_name(self, index: int) -> str:
        """What errors and logs call an image: its path, or ``archive.tar/path/in/it``."""
        return self.source.file_name(range(len(self))[index])

    def read(self, index: int) -> np.ndarray:
        """Read and decode an image.

        Returns:
            uint8 RGB (height, width, 3), writable, as it is stored: the EXIF orientation is not applied (see ``decode_rgb``).

        Raises:
            FileNotFoundError: it is not there any more.
            ValueError: it is truncated, is no image, or cannot be read. Both name the file.
        """
        return self.source.read(range(len(self))[index])

    def count_images(self) -> np.ndarray:
        """int64 (number of classes,)."""
        return np.bincount(self.labels, minlength=len(self.class_names))

    def list_classes_with_images(self) -> list[str]:
        """Their names, in the order of the labels."""
        numbers = zip(self.class_names, self.count_images(), strict=True)
        return [name for name, number in numbers if number]


def check_same_classes(train: ImageSet, test: ImageSet) -> None:
    """Raise ValueError unless a label means the same class in both sets."""
    if train.class_names == test.class_names:
        return
    missing = _listed([name for name in train.class_names if name not in set(test.class_names)])
    extra = _listed([name for name in test.class_names if name not in set(train.class_names)])
    parts = [f"{test.name!r} lacks {missing}"] if missing else []
    parts += [f"{train.name!r} lacks {extra}"] if extra else []
    if not parts:
        pairs = zip(range(len(test.class_names)), train.class_names, test.class_names)
        parts = [
            "label {} is {} in one and {} in the other".format(
                *next(p for p in pairs if p[1] != p[2])
            )
        ]
    raise ValueError(
        f"image sets {train.name!r} ({len(train.class_names)} classes) and {test.name!r} ({len(test.class_names)}) have different "
        f"classes: {'; '.join(parts)}; give sets of the same classes, in folders of the same names"
    )


def check_no_splits(where: str, class_names: Iterable[str | None]) -> None:
    """Raise ValueError where what should be classes are train, val and test: ImageFolder would take them for classes."""
    names = sorted({name for name in class_names if name is not None})
    if {name.lower() for name in names} <= _SPLITS:
        raise ValueError(
            f"{where} holds {', '.join(names)}, which are no classes but splits of a set; open one of them, {where}/{names[0]}"
        )


def relabel(image_set: ImageSet, class_names: Sequence[str]) -> ImageSet:
    """The same images with labels of another list of classes, by name: ImageNet-1K's for a network of 5000 outputs.

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
            f"image set {image_set.name!r} has classes that are not among the {len(numbers)} wanted ones: {_listed(missing)}; "
            "choose the set or the list of classes of the other's origin"
        )
    new = np.array([numbers[name] for name in image_set.class_names], np.int64)
    return replace(image_set, class_names=tuple(class_names), labels=new[image_set.labels])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
