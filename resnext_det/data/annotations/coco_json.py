"""Read COCO annotations, for training and for evaluation alike, and name every contradiction."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from resnext_det.data.annotations.coco_tables import AnnotationTable, TableReader, warn_of
from resnext_det.data.annotations.json_files import read_text, split_table
from resnext_det.data.records import SMALLEST_SIDE, Records
from resnext_det.files import escape_controls


def read_category_names(path: Path, name: str) -> dict[int | str, str]:
    """Read the categories of an annotations file alone.

    Args:
        path: the file.
        name: the dataset's name, for messages.

    Returns:
        {category id: class name} in ascending order of id.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not JSON, is not COCO's, or lists a category twice.
    """
    source = f"dataset {name!r} ({path})"
    with _recognize_other_formats(path, source):
        content = split_table(read_text(path, source), dict, source)
        return TableReader(content, source).read_categories()


def read_coco_json(
    path: Path, image_dir: Path, name: str, *, with_masks: bool = False
) -> tuple[dict[int | str, str], Records]:
    """Read and validate an annotations file for training.

    Args:
        path: the file.
        image_dir: the folder that its file names are relative to; not looked at.
        name: the dataset's name, for messages.
        with_masks: read the segmentations too, and check them.

    Returns:
        {category id: class name} in ascending order of id, and the records in ascending order of
        image id.

    Raises:
        FileNotFoundError, ValueError: see ``load_coco``.
    """
    source = f"dataset {name!r} ({path})"
    table = read_annotations(path, source, strict=True, with_masks=with_masks)
    warn = partial(warn_of, source)
    warn(int((table.images < 0).sum()), "annotations belong to no listed image; they are left out")
    few_points = "annotations have polygons of under 3 points only"
    warn(int((~table.masked).sum()), f"{few_points}; they are left out, as by detectron2")
    warn(*_describe_empty_boxes(table))
    kept = np.flatnonzero(table.masked & (table.images >= 0))
    kept = kept[np.argsort(table.images[kept], kind="stable")]
    ends = np.searchsorted(table.images[kept], np.arange(len(table.image_ids) + 1))
    return table.names, Records(
        file_names=[os.path.join(image_dir, name) for name in table.file_names],
        image_ids=table.image_ids,
        sizes=table.sizes,
        spans=np.stack([ends[:-1], ends[1:]], axis=1),
        boxes=table.boxes[kept],
        whole=table.whole[kept],
        categories=table.categories[kept],
        crowds=table.crowds[kept],
        segmentations=None if table.segmentations is None else table.segmentations.select(kept),
    )


def read_annotations(
    annotations: Path | Mapping[str, Any], source: str, *, strict: bool, with_masks: bool = False
) -> AnnotationTable:
    """Read and validate annotations.

    Args:
        annotations: a file, or the dict read from one.
        source: what they are, with the path; it begins every message.
        strict: images have to have file names and sizes, and annotations a listed image and
            category, as training needs. Else they may lack them, as pycocotools lets them.
        with_masks: read the segmentations too; images with annotations have to have sizes then.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, is not COCO's, or contradicts itself.
    """
    if not isinstance(annotations, Path):
        return TableReader(annotations, source, with_masks=with_masks).read(strict=strict)
    with _recognize_other_formats(annotations, source):
        content = split_table(read_text(annotations, source), dict, source)
        tolerant = "minival" in str(annotations)
        return TableReader(content, source, tolerant, with_masks).read(strict=strict)


@contextlib.contextmanager
def _recognize_other_formats(path: Path, source: str) -> Iterator[None]:
    """Tell by what they are the files that are refused because they are of another format."""
    try:
        yield
    except ValueError:
        # Which imports torch and Pillow; the evaluation of right files needs neither.
        from resnext_det.data.annotations.other_formats import describe_other_format

        other = describe_other_format(path)
        if other is None:
            raise
        raise ValueError(escape_controls(f"{source} is {other}")) from None


def _describe_empty_boxes(table: AnnotationTable) -> tuple[int, str]:
    """Count the boxes without area inside of their image, and say so."""
    used = table.masked & (table.images >= 0)
    low, sides = table.boxes[used, :2], table.boxes[used, 2:]
    inside = np.minimum(low + sides, table.sizes[table.images[used], ::-1]) - np.maximum(low, 0)
    empty = (inside <= SMALLEST_SIDE).any(axis=1)
    if not empty.any():
        return 0, ""
    first = int(np.flatnonzero(used)[empty.argmax()])
    return int(empty.sum()), (
        f"boxes have no area, the first is annotation {table.ids[first]} of image "
        f"{table.image_ids[table.images[first]]}; training leaves them out"
    )
