"""COCO annotations and results in one plain form for every backend, and how annotations are read.

What pycocotools passes over or stumbles upon (unknown ids, numbers that are not finite, missing
fields, an empty list) is decided here, with an error that names the entry.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from resnext_det.data.annotations.coco_json import read_annotations
from resnext_det.evaluation.masks import encode_annotations

logger = logging.getLogger(__name__)

Source = str | Path | Mapping[str, Any]


@dataclass(frozen=True)
class GroundTruth:
    """Hold annotations whose images and categories are numbered from 0 by their sorted ids.

    ``boxes`` has the shape (N, 4) as x, y, w, h, the other arrays (N,); ``id_is_zero`` tells which
    annotations have the id 0. ``sizes`` are heights and widths (M, 2) of the images, 0 where the
    file does not say them; ``file_names`` are those of the images, "" likewise. ``masks`` (N,) are
    the counts of compressed encodings, of the size of the image; None where they were not asked
    for, or not every annotation has one.
    """

    name: str
    image_ids: list[Any]
    category_ids: list[Any]
    class_names: tuple[str, ...]
    id_is_zero: np.ndarray
    images: np.ndarray
    categories: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    sizes: np.ndarray
    file_names: Sequence[str] = ()
    masks: np.ndarray | None = None

    def select(self, chosen: np.ndarray) -> GroundTruth:
        """Select some of the annotations by a mask or numbers; the images stay."""
        columns = ("id_is_zero", "images", "categories", "boxes", "areas", "crowd")
        masks = None if self.masks is None else self.masks[chosen]
        selected = {name: getattr(self, name)[chosen] for name in columns}
        return replace(self, **selected, masks=masks)


@dataclass(frozen=True)
class Detections:
    """Hold results in the numbering of their ground truth.

    ``boxes`` has the shape (N, 4) as x, y, w, h, the other arrays (N,). ``masks`` are the counts of
    checked encodings, and ``mask_areas`` in pixels; None where there are none, or the ground truth
    was read without.
    """

    images: np.ndarray
    categories: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    masks: np.ndarray | None = None
    mask_areas: np.ndarray | None = None

    def select(self, chosen: np.ndarray) -> Detections:
        """Select some of the results by a mask or numbers."""
        columns = (self.images, self.categories, self.boxes, self.scores)
        masks = (self.masks, self.mask_areas)
        return Detections(
            *(column[chosen] for column in columns),
            *(None if column is None else column[chosen] for column in masks),
        )


def read_ground_truth(source: Source, *, with_masks: bool = False) -> GroundTruth:
    """Check and number the annotations of a COCO file (a path) or of the dict read from one.

    What is refused here training refuses too, by the same sentence. Images may lack file names and
    sizes here. A missing ``iscrowd`` is 0 and a missing ``area`` that of the box. Annotations of
    images or categories that the file does not list are left out with a warning, as pycocotools
    leaves them out in silence.

    Args:
        with_masks: read the masks too; a warning says where there are none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not of COCO's form; the text names the entry.
    """
    if isinstance(source, Mapping):
        name = owner = "annotations"
    else:
        name, source, owner = str(source), Path(source), f"annotation file {source}"
    table = read_annotations(source, owner, strict=False, with_masks=with_masks)
    truth = GroundTruth(
        name=name,
        image_ids=table.image_ids,
        category_ids=list(table.names),
        class_names=tuple(table.names.values()),
        id_is_zero=table.ids == 0,
        images=table.images,
        categories=table.categories,
        boxes=table.boxes,
        areas=table.areas,
        crowd=table.crowds.astype(np.int64),
        sizes=table.sizes,
        file_names=table.file_names,
        masks=encode_annotations(table, name) if with_masks else None,
    )
    return _drop_strays(truth)


def find_images(image_ids: Iterable[Any], truth: GroundTruth) -> np.ndarray:
    """Find the numbers of some image ids, ascending; a ValueError names an unknown one."""
    chosen = list(image_ids)
    positions = find_positions(chosen, truth.image_ids)
    if (positions < 0).any():
        unknown = chosen[int(np.flatnonzero(positions < 0)[0])]
        raise ValueError(
            f"image_ids holds {unknown!r}, which {truth.name} does not list "
            f"({list_examples(truth.image_ids)}); give ids of its images"
        )
    return np.unique(positions)


def find_positions(ids: Sequence[Any], known: Sequence[Any]) -> np.ndarray:
    """Find the position of every id among the known ones, -1 where it is not among them."""
    lookup = {value: position for position, value in enumerate(known)}
    return np.array([lookup.get(value, -1) for value in ids], np.int64)


def _drop_strays(truth: GroundTruth) -> GroundTruth:
    """Leave out annotations of unknown images and categories, with a warning."""
    known = (truth.images >= 0) & (truth.categories >= 0)
    if known.all():
        return truth
    logger.warning(
        "%s: %d of %d annotations belong to images or categories that it does not list; they are "
        "left out.",
        truth.name,
        len(known) - known.sum(),
        len(known),
    )
    return truth.select(known)


def list_examples(ids: Sequence[Any]) -> str:
    examples = ", ".join(map(repr, ids[:3]))
    return f"it lists {len(ids)}, such as {examples}" if ids else "it lists none"
