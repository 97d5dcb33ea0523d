"""Put this project's datasets into detectron2's catalogs, where they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from resnext_det.data.coco import find_dataset, is_built_in, list_datasets, locate_dataset


def register_datasets(names: str | Sequence[str] | None = None) -> None:
    """Register this project's datasets in detectron2's catalogs, for detectron2's own tools.

    They are the generated ones, ``shapes_train`` and ``shapes_val``, and those of
    ``register_coco``. Files are looked for, and generated sets are made, when a dataset is loaded.
    Nothing else registers them: ``import resnext_det`` leaves the catalogs alone.

    Args:
        names: of datasets, or one name; None: all.

    Raises:
        ValueError: a name is unknown, or stands for another set in detectron2's catalog.
    """
    if names is None:
        names = list_datasets()
    elif isinstance(names, str):
        names = [names]
    check_names(names)
    for name in names:
        if name not in DatasetCatalog:
            _register(name)


def _register(name: str) -> None:
    DatasetCatalog.register(name, partial(_load, name))
    MetadataCatalog.get(name).set(evaluator_type="coco")


@contextmanager
def lend_datasets(names: Sequence[str]) -> Iterator[None]:
    """Register datasets of this project for the time of a run; the catalogs are then as before.

    Args:
        names: of datasets of this project, which ``check_names`` lets pass.
    """
    lent = [name for name in dict.fromkeys(names) if name not in DatasetCatalog]
    before = {name: MetadataCatalog.pop(name, None) for name in lent}
    try:
        for name in lent:
            _register(name)
        yield
    finally:
        for name, metadata in before.items():
            DatasetCatalog.pop(name, None)
            MetadataCatalog.pop(name, None)
            if metadata is not None:
                MetadataCatalog[name] = metadata


def check_names(names: Sequence[str]) -> None:
    """Refuse names that stand for one dataset here, and for another in detectron2's catalog.

    Raises:
        ValueError: naming both; the name is unknown here.
    """
    for name in names:
        if name not in list_datasets():
            find_dataset(name)  # which tells the names that are known
        if name in DatasetCatalog and not _is_same(name):
            ours = locate_dataset(name)
            here = f"{ours[0]} with images in {ours[1]}" if ours else "the generated set"
            there = _read_paths(name)[0] or "a set of its own"
            raise ValueError(
                f"dataset {name!r} stands for {there} in detectron2's catalog, and for {here} in "
                "this project; register yours by another name in detectron2's"
            )


def _is_same(name: str) -> bool:
    """Tell whether a name stands for the same files in detectron2's catalog as here."""
    if getattr(DatasetCatalog[name], "func", None) is _load:
        return True
    ours, theirs = locate_dataset(name), _read_paths(name)
    if ours is None or None in theirs:
        return False
    pairs = [(Path(path), Path(str(other))) for path, other in zip(ours, theirs, strict=True)]
    if is_built_in(name):  # wherever $DETECTRON2_DATASETS was when detectron2 was imported
        return all(path.parts[-2:] == other.parts[-2:] for path, other in pairs)
    return all(path.resolve() == other.resolve() for path, other in pairs)


def _read_paths(name: str) -> tuple[str | None, str | None]:
    """Read the annotations file and the image folder of a set from detectron2's metadata."""
    known = MetadataCatalog.get(name) if name in MetadataCatalog else {}
    return known.get("json_file"), known.get("image_root")


def _load(name: str) -> list[dict[str, Any]]:
    annotations, images = find_dataset(name)
    MetadataCatalog.get(name).set(json_file=str(annotations), image_root=str(images))
    return load_coco_json(str(annotations), str(images), name)
