"""Name COCO datasets, and load their annotations as detectron2's standard dicts."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from resnext_det.data.annotations.coco_json import read_category_names, read_coco_json
from resnext_det.data.records import Record, Records, renumber_classes
from resnext_det.files import escape_controls, list_first

logger = logging.getLogger(__name__)

_REGISTER = "--register-coco NAME ANNOTATIONS IMAGES"

# Name: annotations and images under $DETECTRON2_DATASETS, as in detectron2.
_BUILT_IN = {
    "coco_2014_train": ("coco/annotations/instances_train2014.json", "coco/train2014"),
    "coco_2014_val": ("coco/annotations/instances_val2014.json", "coco/val2014"),
    "coco_2014_minival": ("coco/annotations/instances_minival2014.json", "coco/val2014"),
    "coco_2014_valminusminival": (
        "coco/annotations/instances_valminusminival2014.json",
        "coco/val2014",
    ),
    "coco_2017_train": ("coco/annotations/instances_train2017.json", "coco/train2017"),
    "coco_2017_val": ("coco/annotations/instances_val2017.json", "coco/val2017"),
    "coco_2017_val_100": ("coco/annotations/instances_val2017_100.json", "coco/val2017"),
}
_registered: dict[str, tuple[Path, Path]] = {}


def _prepare_shapes(root: Path, split: str) -> tuple[Path, Path]:
    from resnext_det.data.shapes import prepare_shapes

    return prepare_shapes(root, split)


# Name: makes the files under a folder where they are missing, and returns (annotations, images).
_GENERATED: dict[str, Callable[[Path], tuple[Path, Path]]] = {
    "shapes_train": partial(_prepare_shapes, split="train"),
    "shapes_val": partial(_prepare_shapes, split="val"),
}


@dataclass(frozen=True)
class CocoDataset:
    """Hold a loaded dataset.

    ``records`` are detectron2's standard dicts, sorted by image id; an annotation's category_id is
    an index into ``class_names``.
    """

    name: str
    annotations_file: Path
    image_dir: Path
    class_names: tuple[str, ...]  # in ascending order of the file's ids
    category_ids: tuple[int | str, ...]  # those ids
    records: Sequence[Record]


def get_datasets_root() -> Path:
    """Return the folder of built-in datasets: $DETECTRON2_DATASETS as it is now, or ./datasets."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()


def list_datasets() -> tuple[str, ...]:
    """List the names that ``load_coco`` takes now."""
    return tuple(sorted({*_BUILT_IN, *_registered, *_GENERATED}))


def is_built_in(name: str) -> bool:
    """Tell whether a name is one of COCO's own sets, which detectron2 knows by the same name."""
    return name in _BUILT_IN


def register_coco(name: str, annotations: str | Path, images: str | Path) -> None:
    """Give a name to an annotations file in COCO's format and the folder of its images.

    Raises ValueError where the name already stands for other paths.
    """
    new = (Path(annotations).expanduser(), Path(images).expanduser())
    if name in _GENERATED:
        raise ValueError(
            f"dataset name {name!r} stands for a generated dataset; register yours by another name"
        )
    old = locate_dataset(name)
    if old is not None and [path.resolve() for path in old] != [path.resolve() for path in new]:
        raise ValueError(
            f"dataset name {name!r} already stands for {old[0]} with images in {old[1]}, not for "
            f"{new[0]} with images in {new[1]}; register the new one by another name"
        )
    if old is None:
        _registered[name] = new


def register_files(annotations: str | Path, images: str | Path) -> str:
    """Register a COCO set under a name made from that of its file, and return the name.

    The folder, and then a number made from the path, come before it where the name stands for
    another set.
    """
    path, folder = (Path(each).expanduser().resolve() for each in (annotations, images))
    number = f"{zlib.crc32(str((path, folder)).encode()):08x}"
    for parts in ([path.stem], [path.parent.name, path.stem], [number, path.stem]):
        name = "_".join(parts)
        old = None if name in _GENERATED else locate_dataset(name)
        if name not in _GENERATED and (
            old is None or [each.resolve() for each in old] == [path, folder]
        ):
            break
    register_coco(name, annotations, images)
    return name


def count_classes(name: str) -> int | None:
    """Count the classes of a dataset, without reading the rest of it; a generated one is not made.

    Returns:
        None where they cannot be counted; ``load_coco`` tells why.
    """
    if name in _GENERATED:
        from resnext_det.data.shape_drawing import SHAPE_CLASSES

        return len(SHAPE_CLASSES)
    if name in _BUILT_IN:
        return 80
    paths = locate_dataset(name)
    try:
        return len(read_category_names(paths[0], name)) if paths else None
    except (ValueError, OSError):
        return None


def find_dataset(name: str) -> tuple[Path, Path]:
    """Find the annotations file and the image folder of a name; a generated dataset is made now.

    Raises ValueError where the name is unknown; whether the paths exist is not checked.
    """
    if name in _GENERATED:
        return _GENERATED[name](get_datasets_root())
    paths = locate_dataset(name)
    if paths is None:
        raise ValueError(
            f"dataset {name!r} is unknown; known are {', '.join(list_datasets())}; "
            f"name your own with {_REGISTER}"
        )
    return paths


def locate_dataset(name: str) -> tuple[Path, Path] | None:
    """Find the annotations file and the image folder of a name, without making any.

    Whether they exist is not checked. None where the name is unknown or of a generated dataset.
    """
    if name in _BUILT_IN:
        annotations, images = (get_datasets_root() / part for part in _BUILT_IN[name])
        return annotations, images
    return _registered.get(name)


def load_coco(name: str, *, with_masks: bool = False) -> CocoDataset:
    """Load a dataset by name, as detectron2's ``load_coco_json`` without keypoints.

    As there, an annotation whose polygons all have under 3 points is dropped (with a warning that
    counts them), and crowds and boxes without area stay in the records: training leaves them out
    (with a warning for the latter).

    Args:
        with_masks: read the segmentations too, and check them; the records are smaller without.

    Raises:
        FileNotFoundError: the annotations file or the image folder does not exist.
        ValueError: the name is unknown, or the file is not JSON, is not COCO's, or contradicts
            itself.
    """
    annotations_file, image_dir = find_dataset(name)
    if image_dir.is_file():
        raise ValueError(f"dataset {name!r}: {image_dir} is a file; give the folder of the images")
    missing = None
    if not annotations_file.exists():
        missing = f"annotations file {annotations_file}"
    elif annotations_file.is_file() and not image_dir.is_dir():
        missing = f"image folder {image_dir}"
    if missing:
        root = str(get_datasets_root())
        raise FileNotFoundError(
            f"dataset {name!r}: {missing} does not exist; put it there, set DETECTRON2_DATASETS "
            f"(now {root!r}), or name your files with {_REGISTER}"
        )
    names, records = read_coco_json(annotations_file, image_dir, name, with_masks=with_masks)
    logger.info("%s: %d images, %d categories", name, len(records), len(names))
    return CocoDataset(
        name, annotations_file, image_dir, tuple(names.values()), tuple(names), records
    )


def map_classes(dataset: CocoDataset, class_names: Sequence[str]) -> CocoDataset:
    """Put the classes of a dataset into another order, by their names.

    Args:
        class_names: the same names in the order that is wanted, such as a trained detector's.

    Returns:
        the dataset with its annotations' category_id as indexes into ``class_names``. Nothing of
        the old one is changed.

    Raises:
        ValueError: the names are not the same ones.
    """
    if dataset.class_names == tuple(class_names):
        return dataset
    if sorted(dataset.class_names) != sorted(class_names):
        have, needed = (list_first(names, 20) for names in (dataset.class_names, class_names))
        raise ValueError(
            escape_controls(
                f"dataset {dataset.name!r} has the classes {have}, and {needed} are needed; give a "
                "dataset of these, or correct the names in its 'categories'"
            )
        )
    index = {name: position for position, name in enumerate(class_names)}
    moved = [index[name] for name in dataset.class_names]  # from the old index to the new
    ids = dict(zip(dataset.class_names, dataset.category_ids, strict=True))
    return replace(
        dataset,
        class_names=tuple(class_names),
        category_ids=tuple(ids[name] for name in class_names),
        records=renumber_classes(dataset.records, moved),
    )


def check_same_categories(
    train_sets: Sequence[CocoDataset], test_sets: Sequence[CocoDataset] = ()
) -> None:
    """Raise ValueError unless all sets have categories of the same names."""
    first, *others = [*train_sets, *test_sets]
    for other in others:
        if sorted(other.class_names) == sorted(first.class_names):
            continue
        missing = [name for name in first.class_names if name not in other.class_names]
        extra = [name for name in other.class_names if name not in first.class_names]
        parts = [f"{other.name!r} lacks {list_first(missing, 20)}"] if missing else []
        parts += [f"{first.name!r} lacks {list_first(extra, 20)}"] if extra else []
        raise ValueError(
            f"datasets {first.name!r} ({len(first.class_names)} categories) and {other.name!r} "
            f"({len(other.class_names)}) have different categories: {'; '.join(parts)}; give both "
            "files the same 'categories', or choose other datasets in DATASETS.TRAIN and "
            "DATASETS.TEST"
        )


def filter_empty(records: Sequence[Record]) -> Sequence[Record]:
    """Keep the records with at least one annotation that is no crowd.

    Equals detectron2's FILTER_EMPTY_ANNOTATIONS.
    """
    kept: Sequence[Record]
    if isinstance(records, Records):
        kept = records.select(np.flatnonzero(records.count_objects()))
    else:
        kept = [r for r in records if any(not a.get("iscrowd", 0) for a in r["annotations"])]
    logger.info(
        "left out %d of %d images without usable annotations",
        *(len(records) - len(kept), len(records)),
    )
    return kept
