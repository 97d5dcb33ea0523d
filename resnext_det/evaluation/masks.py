"""Read and check the masks of annotations and results, and compare them by pycocotools."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from resnext_det.data.annotations.coco_tables import AnnotationTable
from resnext_det.files import list_first
from resnext_det.rle import (
    encode_masks,
    encode_segmentation,
    explain_counts,
    explain_size,
    measure_counts,
)

logger = logging.getLogger(__name__)


class Mask(msgspec.Struct, gc=False):
    """Hold a compressed run-length encoding."""

    size: tuple[int, int]
    counts: str


def convert_mask(value: Any) -> Mask | None:
    """Convert an encoding as pycocotools gives it, with its counts in bytes; None if it is none."""
    if not isinstance(value, Mapping):
        return None
    size, counts = value.get("size"), value.get("counts")
    if isinstance(counts, bytes):
        counts = counts.decode("ascii", "replace")
    if not isinstance(size, list | tuple) or not isinstance(counts, str):
        return None
    if len(size) != 2 or not all(type(side) is int for side in size):
        return None
    return Mask((size[0], size[1]), counts)


def encode_annotations(table: AnnotationTable, name: str) -> np.ndarray | None:
    """Encode the masks of annotations: object (N,), the counts of each, "" of strays.

    Args:
        table: read with its segmentations.
        name: of the annotations, for messages.

    Returns:
        None, with a warning, where an annotation has no mask.
    """
    assert table.segmentations is not None
    known = (table.images >= 0) & (table.categories >= 0)
    lacking = known & (table.segmentations.find_kinds() == ord("n"))
    if lacking.any():
        which = list_first(map(str, table.ids[lacking].tolist()), 3)
        logger.warning(
            "%s: %d of %d annotations have no segmentation (id %s), so that masks are not "
            "evaluated; write one for each, or leave the masks of the results out.",
            *(name, lacking.sum(), known.sum(), which),
        )
        return None
    masks = np.full(len(known), "", object)
    for index in np.flatnonzero(known).tolist():
        height, width = table.sizes[table.images[index]].tolist()
        # Polygons of under three points cover nothing.
        masks[index] = (
            encode_segmentation(segmentation, height, width)
            if (segmentation := table.segmentations[index])
            else encode_masks(np.zeros((1, height, width), bool))[0]
        )
    return masks


def measure_masks(masks: Sequence[Mask], sizes: np.ndarray, name: str) -> np.ndarray:
    """Measure the areas of results' masks, (N,), in pixels.

    Args:
        sizes: (N, 2), height and width of the image of each.
        name: of the results, for messages.

    Raises:
        ValueError: a mask is of another size than its image, or is broken; the text names the
            entry.
    """
    given = np.array([mask.size for mask in masks], object).reshape(-1, 2)
    other = (given != sizes).any(axis=1)
    if other.any():
        index = int(other.argmax())
        told = explain_size(list(masks[index].size), *sizes[index].tolist())
        raise ValueError(f"entry {index} of {name} {told}")
    areas = measure_counts([mask.counts for mask in masks], sizes.prod(axis=1))
    if (areas < 0).any():
        index = int((areas < 0).argmax())
        height, width = sizes[index].tolist()
        told = explain_counts(masks[index].counts, height, width)
        raise ValueError(f"entry {index} of {name} {told}")
    return areas


def find_boxes(masks: Sequence[Mask]) -> np.ndarray:
    """Find the boxes around checked masks: (N, 4), x, y, width, height in pixels."""
    from pycocotools.mask import toBbox

    boxes = [toBbox({"size": list(mask.size), "counts": mask.counts}) for mask in masks]
    return np.array(boxes, np.float64).reshape(-1, 4)


def list_encodings(masks: np.ndarray, images: np.ndarray, sizes: np.ndarray) -> list[Any]:
    """List encodings as COCO's tools take them.

    Args:
        masks: (N,), the counts of each.
        images: (N,), numbers of images.
        sizes: (M, 2), height and width of every image.
    """
    pairs = zip(sizes[images].tolist(), masks.tolist(), strict=True)
    return [{"size": size, "counts": counts} for size, counts in pairs]
