"""Move the pixels, points, boxes, polygons and masks of an image by one step after another.

A mapper draws steps from its random numbers, and applies each of them in turn to whatever belongs
to the image. The numbers are those of detectron2's and fvcore's transforms, in the number format
that they are given in: coordinates that are integers stay integers, and are truncated where a
resize makes fractions of them, as in detectron2.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

PAD_VALUE = 128
"""The gray of padding in detectron2's large-scale jitter."""


class Step:
    """Move an image and what belongs to it; nothing that is given is changed.

    Coordinates are pixels: those of an image of (height, width) go from 0 to width and height.
    """

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """Move the pixels of uint8 (H, W, C), maybe as a view."""
        raise NotImplementedError

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Move points (N, 2), x and y, in their own number format."""
        raise NotImplementedError

    def apply_mask(self, mask: np.ndarray) -> np.ndarray:
        """Move a mask (H, W), uint8 of 0 and 1; what is new around it is 0."""
        return self.apply_image(mask[:, :, None])[:, :, 0]

    def apply_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Move boxes (N, 4), x0, y0, x1, y1, in their own number format; none is clipped."""
        return _order_corners(self.apply_coords(boxes.reshape(-1, 2)).reshape(-1, 4))

    def apply_polygons(self, polygons: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Move the polygons of one object, each (points, 2); a crop may change their number."""
        return [self.apply_coords(polygon) for polygon in polygons]


@dataclass(frozen=True)
class Resize(Step):
    """Resize from (height, width) to (new_height, new_width)."""

    height: int
    width: int
    new_height: int
    new_width: int

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        return resize_image(image, self.new_height, self.new_width)

    def apply_mask(self, mask: np.ndarray) -> np.ndarray:
        size = (self.new_width, self.new_height)
        return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        moved = coords.copy()
        # Assigned and not multiplied in place, which numpy refuses for integers.
        moved[:, 0] = moved[:, 0] * (self.new_width * 1.0 / self.width)
        moved[:, 1] = moved[:, 1] * (self.new_height * 1.0 / self.height)
        return moved


@dataclass(frozen=True)
class InterpolatedResize(Resize):
    """Resize as torchvision's detectors and MLPerf's do, without averaging pixels.

    Each new pixel is interpolated between the four nearest of the image, however much it shrinks.
    No coordinate is truncated.
    """

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """Resize uint8 (H, W, C), rounded to whole levels, where these detectors keep fractions."""
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
        size = (self.new_height, self.new_width)
        resized = F.interpolate(pixels, size, mode="bilinear", align_corners=False)
        return resized[0].permute(1, 2, 0).round().to(torch.uint8).numpy()

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return super().apply_coords(coords.astype(np.float64))


@dataclass(frozen=True)
class Flip(Step):
    """Mirror an image of (height, width): "horizontal" or "vertical"."""

    direction: str
    height: int
    width: int

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        return image[:, ::-1] if self.direction == "horizontal" else image[::-1]

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        moved = coords.copy()
        if self.direction == "horizontal":
            moved[:, 0] = self.width - moved[:, 0]
        else:
            moved[:, 1] = self.height - moved[:, 1]
        return moved


@dataclass(frozen=True)
class Crop(Step):
    """Cut out the window from (x0, y0) of (width, height), as far as the image reaches."""

    x0: int
    y0: int
    width: int
    height: int

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        return image[self.y0 : self.y0 + self.height, self.x0 : self.x0 + self.width]

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords - np.array([self.x0, self.y0], dtype=coords.dtype)

    def apply_polygons(self, polygons: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Cut polygons at the window's edges, by shapely: see ``check_cutting``."""
        from shapely import geometry

        # buffer(0) makes polygons that cross themselves valid. detectron2 calls it of the window
        # too, which decides in which order the points of the result stand.
        corners = (self.x0, self.y0, self.x0 + self.width, self.y0 + self.height)
        window = geometry.box(*corners).buffer(0.0)
        found = []
        for polygon in polygons:
            whole = geometry.Polygon(polygon).buffer(0.0)
            if not whole.is_valid:
                continue
            cut = whole.intersection(window)
            # An object may fall into parts, of which lines and points have no area.
            for part in getattr(cut, "geoms", [cut]):
                if isinstance(part, geometry.Polygon) and part.is_valid and not part.is_empty:
                    found.append(np.asarray(part.exterior.coords)[:-1])  # the first again
        return [self.apply_coords(points) for points in found]


@dataclass(frozen=True)
class Pad(Step):
    """Add columns on the right and rows at the bottom, of the gray ``value``."""

    right: int
    bottom: int
    value: int = PAD_VALUE

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        padding = ((0, self.bottom), (0, self.right), (0, 0))
        return np.pad(image, padding, constant_values=self.value)

    def apply_mask(self, mask: np.ndarray) -> np.ndarray:
        return np.pad(mask, ((0, self.bottom), (0, self.right)))

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords.copy()


def check_cutting() -> None:
    """Refuse to cut polygons where shapely is not installed.

    Raises:
        ValueError: see above.
    """
    if importlib.util.find_spec("shapely") is None:
        raise ValueError(
            "masks are cut at the edges of a crop by shapely, which is not installed; write pip "
            "install 'resnext-det[polygons]', or leave INPUT.CROP.ENABLED and INPUT.SCALE_JITTER "
            "out"
        )


def move_boxes(steps: Iterable[Step], boxes: np.ndarray) -> np.ndarray:
    """Move boxes (N, 4), x0, y0, x1, y1, by one step after another; none is clipped.

    Where there is no step, corners in the wrong order are put in order all the same, as in
    detectron2.
    """
    boxes = _order_corners(boxes)
    for step in steps:
        boxes = step.apply_boxes(boxes)
    return boxes


def _order_corners(boxes: np.ndarray) -> np.ndarray:
    corners = boxes.reshape(-1, 2, 2)
    return np.hstack([corners.min(axis=1), corners.max(axis=1)])


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8 (H, W, 1 or 3) by PIL's bilinear filter, which averages when it shrinks."""
    gray = image.shape[2] == 1
    resized = Image.fromarray(image[:, :, 0] if gray else image).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    return np.asarray(resized)[:, :, None] if gray else np.asarray(resized)
