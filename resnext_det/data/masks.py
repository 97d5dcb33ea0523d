"""Move the segmentations of annotations along with their image, with detectron2's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resnext_det.data.geometry import Step
from resnext_det.masks import BitMasks, PolygonMasks, rasterize_polygons

MASK_FORMATS = ("polygon", "bitmask")


def make_masks(
    segmentations: Sequence[Any], size: tuple[int, int], steps: Sequence[Step], mask_format: str
) -> PolygonMasks | BitMasks:
    """Make the masks of a transformed image.

    Equals detectron2's ``transform_instance_annotations`` and ``annotations_to_instances`` to the
    last bit: polygons are moved before they are filled with pixels, and those of integers alone are
    truncated to whole pixels by a resize.

    Args:
        segmentations: of N objects, polygons or encodings of a record.
        size: (height, width) of the transformed image.
        steps: that the image went through.
        mask_format: "polygon" or "bitmask".

    Raises:
        ValueError: an object has none, or an encoding where polygons are asked for.
    """
    if not all(segmentations):
        raise ValueError(
            "an object has no segmentation, on which MODEL.MASK_ON = True trains; write polygons "
            "or a run-length encoding for each, or MODEL.MASK_ON False"
        )
    if mask_format == "polygon":
        return PolygonMasks([_move_polygons(each, steps) for each in segmentations])
    masks = np.zeros((len(segmentations), *size), bool)
    for mask, segmentation in zip(masks, segmentations):
        if isinstance(segmentation, Mapping):
            mask[:] = _move_encoding(segmentation, steps)
        else:
            mask[:] = rasterize_polygons(_move_polygons(segmentation, steps), *size)
    return BitMasks(masks)


def _move_polygons(polygons: Any, steps: Sequence[Step]) -> list[np.ndarray]:
    if isinstance(polygons, Mapping):
        raise ValueError(
            "an object has a run-length encoding where polygons are asked for; write "
            "INPUT.MASK_FORMAT bitmask"
        )
    moved = [np.asarray(polygon).reshape(-1, 2) for polygon in polygons]
    for step in steps:
        moved = step.apply_polygons(moved)
    return [polygon.reshape(-1) for polygon in moved]


def _move_encoding(encoding: Mapping[str, Any], steps: Sequence[Step]) -> np.ndarray:
    from pycocotools.mask import decode

    mask = decode(encoding)
    for step in steps:
        mask = step.apply_mask(mask)
    return mask
