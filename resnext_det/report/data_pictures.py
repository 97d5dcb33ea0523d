"""Choose images of a set that show what is in it, and draw them as the detector sees them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np
from fvcore.common.config import CfgNode
from markupsafe import Markup

from resnext_det.data.geometry import resize_image
from resnext_det.data.inspection.masks import find_mask_faults
from resnext_det.data.reading import read_image
from resnext_det.data.records import Record, pack_records
from resnext_det.data.statistics import SetStatistics
from resnext_det.data.transforms import DetectionMapper
from resnext_det.detection.datasets import test_mapper, train_mapper
from resnext_det.detection.drawing import choose_colors, choose_labels, draw_detections
from resnext_det.detection.labels import Color
from resnext_det.masks import BitMasks, PolygonMasks, rasterize_polygons
from resnext_det.report.pictures import embed_image

logger = logging.getLogger(__name__)

_WIDTH = 460  # of a picture, in pixels
_MAX_BYTES = 30_000
_LOOKS = 2000  # for images whose file is there


def choose_images(found: SetStatistics, count: int, *, seed: int = 0) -> list[int]:
    """Choose images by chance, so that every class is seen if there is room, the rarest first.

    Images whose file is not there are passed over.

    Returns:
        indices of images, in the order of the set; the same for the same set and seed.
    """
    random = np.random.RandomState(seed)
    order = random.permutation(found.num_images)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    counts = found.count_objects()
    chosen: dict[int, None] = {}
    seen: set[int] = set()
    for kind in np.argsort(counts, kind="stable").tolist():
        if len(chosen) >= count:
            break
        if not counts[kind] or kind in seen:
            continue
        having = np.unique(found.owners[found.classes == kind])
        index = _find_first(having[np.argsort(place[having])].tolist(), found, chosen)
        if index is not None:
            chosen[index] = None
            seen |= set(found.classes[found.owners == index].tolist())
    while len(chosen) < count:
        index = _find_first(order.tolist(), found, chosen, most=_LOOKS)
        if index is None:
            break
        chosen[index] = None
    return sorted(chosen)


def _find_first(
    indices: Sequence[int], found: SetStatistics, without: Collection[int], *, most: int = 100
) -> int | None:
    """Find the first image whose file is there, of so many at most."""
    left = (index for index in indices[: most + len(without)] if index not in without)
    return next((index for index in left if os.path.isfile(found.file_names[index])), None)


def draw_samples(
    cfg: CfgNode,
    found: SetStatistics,
    records: Sequence[Record],
    indices: Sequence[int],
    *,
    augmented: bool = True,
) -> list[Markup]:
    """Draw images with boxes and masks as the detector gets them.

    Args:
        augmented: by chance, as in training; else as in tests, where masks are drawn if no object
            lacks one.
    """
    mapper = train_mapper(cfg) if augmented else _build_test_mapper(cfg, records)

    def draw(index: int) -> Markup:
        sample = mapper(records[index], np.random.RandomState(index))
        objects = sample["instances"]
        boxes, classes = objects.gt_boxes.tensor.numpy(), objects.gt_classes.tolist()
        masks = (
            _fill_masks(objects.gt_masks, *objects.image_size) if objects.has("gt_masks") else None
        )
        image = _convert_to_bgr(sample["image"].numpy().transpose(1, 2, 0), cfg.INPUT.FORMAT)
        return _embed(image, boxes, classes, found, index, masks)

    return _draw_each(draw, indices, found)


def _build_test_mapper(cfg: CfgNode, records: Sequence[Record]) -> DetectionMapper:
    cfg = cfg.clone()
    cfg.defrost()
    packed = pack_records(records)
    cfg.INPUT.MASK_FORMAT = "bitmask"  # to which polygons and encodings are brought
    if packed.segmentations is None or find_mask_faults(packed, cfg.INPUT.MASK_FORMAT):
        cfg.MODEL.MASK_ON = False
    return test_mapper(cfg, with_objects=True)


def _fill_masks(masks: PolygonMasks | BitMasks, height: int, width: int) -> np.ndarray:
    """Fill the pixels of masks: bool (N, height, width)."""
    if isinstance(masks, BitMasks):
        return masks.tensor.numpy()
    filled = [rasterize_polygons(polygons, height, width) for polygons in masks.polygons]
    return np.stack(filled) if filled else np.zeros((0, height, width), bool)


def draw_as_tested(
    found: SetStatistics, indices: Sequence[int], objects: Sequence[Sequence[int]]
) -> list[Markup]:
    """Draw images at the size of tests with some of their boxes.

    Args:
        objects: for every image the numbers of the objects to be drawn.
    """
    shown = dict(zip(indices, objects, strict=True))

    def draw(index: int) -> Markup:
        image = read_image(found.file_names[index], "BGR")
        image = resize_image(image, *found.view_sizes[index].tolist())
        rows = np.array(shown[index])
        return _embed(image, found.boxes[rows], found.classes[rows].tolist(), found, index)

    return _draw_each(draw, indices, found)


def _draw_each(
    draw: Callable[[int], Markup], indices: Sequence[int], found: SetStatistics
) -> list[Markup]:
    pictures = []
    for index in indices:
        try:
            pictures.append(draw(index))
        except (ValueError, OSError) as error:  # the look at the data tells it, or --check-data
            logger.warning("%s is not shown: %s", found.file_names[index], error)
    return pictures


def _embed(
    image: np.ndarray,
    boxes: np.ndarray,
    classes: Sequence[int],
    found: SetStatistics,
    index: int,
    masks: np.ndarray | None = None,
) -> Markup:
    """Draw boxes and masks on a thumbnail, so that lines and letters are as large in every picture.

    Args:
        masks: bool (N, height, width); None where there are none.
    """
    labels, colors = _choose_names(found.class_names)
    names = [labels[k] for k in classes]
    drawn = draw_detections(image, boxes, names, masks=masks, colors=colors, width=_WIDTH)
    height, width = image.shape[:2]
    name = os.path.basename(found.file_names[index])
    old = " x ".join(map(str, found.image_sizes[index].tolist()[::-1]))
    objects = f"{len(classes)} object{'s' * (len(classes) != 1)}"
    return embed_image(
        drawn,
        f"{name} with {objects}",
        _WIDTH,
        caption=f"{name}: {objects}, {width} x {height} of {old} pixels",
        max_bytes=_MAX_BYTES,
    )


@cache
def _choose_names(class_names: tuple[str, ...]) -> tuple[list[str], dict[str, Color]]:
    """Choose labels and their colors, once for all pictures: what cannot be drawn is warned of."""
    labels = choose_labels(class_names)
    return labels, choose_colors(labels)


def _convert_to_bgr(image: np.ndarray, image_format: str) -> Any:
    if image.shape[2] == 1:
        return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_GRAY2BGR)
    return np.ascontiguousarray(image[:, :, ::-1] if image_format == "RGB" else image)
