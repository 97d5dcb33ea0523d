"""Summarize the boxes of a set as a detector sees them, from the annotations alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resnext_det.data.anchor_fit import AnchorGrid, fit_anchors
from resnext_det.data.inspection.box_forms import collect_boxes
from resnext_det.data.records import SMALLEST_SIDE, Record, pack_records
from resnext_det.data.transforms import ResizeShortestEdge, Stretch, scale_boxes

NEAR_COPY = 0.9
"""Two boxes of an image that overlap by this IoU or more are hardly of two objects."""

SLIP = 3
"""A box with a side of fewer pixels is likely a slip of the mouse."""


@dataclass(frozen=True)
class ModelView:
    """Say at which size a detector sees images, and which anchors it lays over them.

    Attributes:
        resize: to the size of tests.
        anchors: None where the detector has none, such as Fast R-CNN.
    """

    resize: ResizeShortestEdge | Stretch
    anchors: AnchorGrid | None = None

    def compute_sizes(self, sizes: np.ndarray) -> np.ndarray:
        """Compute the sizes (M, 2) after resizing of images of ``sizes`` (M, 2): height, width."""
        if not len(sizes):
            return sizes
        different, which = np.unique(sizes, axis=0, return_inverse=True)
        for row in different:
            for step in self.resize.list_steps(*row.tolist()):
                row[:] = step.new_height, step.new_width
        return different[which.reshape(-1)]


@dataclass(frozen=True, eq=False)
class SetStatistics:
    """Hold what the annotations of M images and K classes tell.

    An object is an annotation that is no crowd and whose box has an area; there are N of them.

    Attributes:
        class_names: K names.
        view: for whom ``view_sizes``, ``boxes`` and the anchors are.
        file_names: M.
        image_sizes: (M, 2) int, height and width as annotated.
        view_sizes: (M, 2) int, height and width as the detector sees the images.
        owners: (N,) int, the image of every object.
        classes: (N,) int.
        areas: (N,) float, in pixels of the annotated image, by which COCO calls an object small.
        shortest_sides: (N,) float, in pixels of the annotated image.
        boxes: (N, 4) float, x0, y0, x1, y1 in pixels of what the detector sees, clipped to it as a
            training clips them.
        crowds: the number of annotations that are crowds.
        flat_boxes: the number of annotations whose boxes have no area; training leaves them out.
        near_copies: (P, 2) int, pairs of objects of one image with an IoU of ``NEAR_COPY`` or more.
        anchor_ious: (N,) float, the IoU of every object with its best anchor; None without anchors.
        anchor_choices: (N,) int, which shape of ``view.anchors.list_shapes()`` that is.
    """

    class_names: tuple[str, ...]
    view: ModelView
    file_names: Sequence[str]
    image_sizes: np.ndarray
    view_sizes: np.ndarray
    owners: np.ndarray
    classes: np.ndarray
    areas: np.ndarray
    shortest_sides: np.ndarray
    boxes: np.ndarray
    crowds: int
    flat_boxes: int
    near_copies: np.ndarray
    anchor_ious: np.ndarray | None = None
    anchor_choices: np.ndarray | None = None

    @property
    def num_images(self) -> int:
        """Count the images: M."""
        return len(self.image_sizes)

    @property
    def num_objects(self) -> int:
        """Count the objects: N."""
        return len(self.owners)

    def count_objects(self) -> np.ndarray:
        """Count the objects of every class: (K,)."""
        return np.bincount(self.classes, minlength=len(self.class_names))

    def count_by_name(self, class_names: Sequence[str]) -> np.ndarray:
        """Count the objects of classes by their names, 0 of unknown ones: (len(class_names),)."""
        counts = dict(zip(self.class_names, self.count_objects().tolist(), strict=True))
        return np.array([counts.get(name, 0) for name in class_names], np.int64)

    def count_images(self) -> np.ndarray:
        """Count the images in which every class has an object: (K,)."""
        pairs = np.unique(np.stack([self.owners, self.classes], axis=1), axis=0)
        return np.bincount(pairs[:, 1], minlength=len(self.class_names))

    def count_per_image(self) -> np.ndarray:
        """Count the objects of every image: (M,)."""
        return np.bincount(self.owners, minlength=self.num_images)

    def measure_sizes(self) -> np.ndarray:
        """Measure objects by the square root of their area: (N,), in pixels of ``boxes``."""
        return np.sqrt(self._measure_sides().prod(axis=1))

    def measure_aspect_ratios(self) -> np.ndarray:
        """Measure height / width of every object that the detector sees, as anchors have it."""
        sides = self._measure_sides()
        seen = sides.min(axis=1) > SMALLEST_SIDE
        return sides[seen, 1] / sides[seen, 0]

    def find_vanished(self) -> np.ndarray:
        """Find the objects whose boxes have no area at the size that the detector sees: (N,) bool.

        Training leaves them out without a word. They are tiny, or their four numbers are integers,
        which detectron2 truncates to whole pixels after resizing.
        """
        return self._measure_sides().min(axis=1) <= SMALLEST_SIDE

    def find_slips(self) -> np.ndarray:
        """Find the objects with a side of fewer than ``SLIP`` pixels in the file: (N,) bool."""
        return self.shortest_sides < SLIP

    def measure_scales(self) -> np.ndarray:
        """Measure by what factor every image is resized: (M,)."""
        return np.sqrt(self.view_sizes.prod(axis=1) / self.image_sizes.prod(axis=1))

    def compute_anchor_recall(self, iou: float) -> float:
        """Compute the share of the objects that some anchor overlaps by ``iou`` or more.

        Returns:
            nan without objects or anchors.
        """
        if self.anchor_ious is None or not len(self.anchor_ious):
            return float("nan")
        return float((self.anchor_ious >= iou).mean())

    def match_classes(self) -> np.ndarray:
        """Tell for every pair of ``near_copies`` whether both have the same class: (P,) bool.

        If so, one is likely a copy; if not, they contradict each other.
        """
        first, second = self.classes[self.near_copies].T
        return first == second

    def _measure_sides(self) -> np.ndarray:
        return self.boxes[:, 2:] - self.boxes[:, :2]


def summarize_boxes(
    records: Sequence[Record], class_names: Sequence[str], view: ModelView
) -> SetStatistics:
    """Summarize a set without reading an image: COCO's 118,287 images take some seconds.

    Args:
        records: detectron2's standard dicts, whose category_id is an index into ``class_names``.
        view: of the detector.
    """
    packed = pack_records(records)
    table = collect_boxes(packed)
    flat = (table.boxes[:, 2:] <= SMALLEST_SIDE).any(axis=1)
    chosen = ~table.crowds & ~flat
    owners, given = table.owners[chosen], table.boxes[chosen]
    sizes = view.compute_sizes(packed.sizes)
    seen = sizes[owners]
    factors = (seen / packed.sizes[owners])[:, ::-1]
    # A stretch truncates no box, whatever its numbers.
    integral = table.whole[chosen] & (not isinstance(view.resize, Stretch))
    corners = scale_boxes(given, integral, factors)
    boxes = np.minimum(corners.clip(min=0), np.tile(seen[:, ::-1], 2))
    ious = choices = None
    if view.anchors is not None:
        ious, choices = fit_anchors(boxes, seen, view.anchors)
    return SetStatistics(
        class_names=tuple(class_names),
        view=view,
        file_names=packed.file_names,
        image_sizes=packed.sizes,
        view_sizes=sizes,
        owners=owners,
        classes=table.classes[chosen],
        areas=given[:, 2:].prod(axis=1),
        shortest_sides=given[:, 2:].min(axis=1),
        boxes=boxes,
        crowds=int(table.crowds.sum()),
        flat_boxes=int((flat & ~table.crowds).sum()),
        near_copies=find_near_copies(given, owners),
        anchor_ious=ious,
        anchor_choices=choices,
    )


def find_near_copies(
    boxes: np.ndarray, owners: np.ndarray, *, iou: float = NEAR_COPY
) -> np.ndarray:
    """Find pairs of boxes of one image that overlap almost wholly.

    Boxes are compared in the order of their areas. Of two whose areas differ by more than ``iou``
    none overlap so far, so that a box meets a few others only.

    Args:
        boxes: (N, 4) with areas: x, y, width, height.
        owners: (N,), the image of each.
        iou: that a pair has at least, above 0.

    Returns:
        (P, 2), indices into ``boxes``, the smaller one first, in ascending order.
    """
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    areas = boxes[:, 2:].prod(axis=1)
    order = np.lexsort((areas, owners))
    found = [np.empty((0, 2), np.int64)]
    places, step = np.arange(len(boxes)), 1
    while True:
        places = places[places + step < len(boxes)]
        first, second = order[places], order[places + step]
        near = (owners[first] == owners[second]) & (areas[first] >= iou * areas[second])
        places, first, second = places[near], first[near], second[near]
        if not len(places):
            break
        sides = np.minimum(high[first], high[second]) - np.maximum(low[first], low[second])
        shared = np.maximum(sides, 0).prod(axis=1)
        matches = shared >= iou * (areas[first] + areas[second] - shared)
        found.append(np.stack([first[matches], second[matches]], axis=1))
        step += 1
    pairs = np.sort(np.concatenate(found), axis=1)
    return pairs[np.lexsort(pairs.T[::-1])]
