"""Hold the masks of the objects of an image, as polygons or as bitmaps.

Both behave as the classes of detectron2 whose names they bear, to the last bit, and a portable
detector takes either library's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnext_det.instances import Boxes

_AT_ONCE = 16  # bitmaps that are numbers of float32 at one time
_NARROWEST = 0.1  # pixels; a box narrower than this is cut out as if it were so wide


class PolygonMasks:
    """Hold masks as polygons, which stay in the memory of the CPU.

    Args:
        polygons: of each of N objects its polygons, each x0, y0, x1, y1 ... in pixels. Pixels that
            an odd number of one polygon's outlines enclose are inside, and an object has those of
            all its polygons.

    Raises:
        ValueError: a polygon has an odd number of coordinates, or fewer than three points.
    """

    def __init__(self, polygons: Sequence[Sequence[np.ndarray]]) -> None:
        self.polygons = [[np.array(each, np.float64) for each in parts] for parts in polygons]
        for each in (each for parts in self.polygons for each in parts):
            if each.ndim != 1 or len(each) % 2 or len(each) < 6:
                raise ValueError(
                    f"a polygon has an array of shape {each.shape}; give x0, y0, x1, y1 ... of "
                    "three points or more"
                )

    def __len__(self) -> int:
        return len(self.polygons)

    def __getitem__(self, index: Any) -> PolygonMasks:
        """Select by slice, mask or indices, or by a number: masks of length 1."""
        if isinstance(index, Tensor):
            index = (index.nonzero()[:, 0] if index.dtype == torch.bool else index).tolist()
        if isinstance(index, int):
            index = [index]
        selected = object.__new__(PolygonMasks)  # without another check and copy of the polygons
        selected.polygons = (
            self.polygons[index]
            if isinstance(index, slice)
            else [self.polygons[position] for position in index]
        )
        return selected

    def __repr__(self) -> str:
        return f"PolygonMasks({len(self)})"

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def to(self, device: torch.device | str) -> PolygonMasks:
        """Return these masks, wherever they are asked for."""
        return self

    def nonempty(self) -> Tensor:
        """Tell which masks have a polygon: bool, (N,)."""
        return torch.tensor([len(parts) > 0 for parts in self.polygons], dtype=torch.bool)

    def get_bounding_boxes(self) -> Boxes:
        """Return the boxes around the polygons, which reach no further up and left than 0."""
        boxes = torch.zeros(len(self), 4)
        for box, parts in zip(boxes, self.polygons):
            points = np.concatenate(parts).reshape(-1, 2) if parts else np.empty((0, 2))
            corners = torch.from_numpy(points.astype(np.float32))
            box[:2] = corners.min(dim=0).values if parts else torch.inf
            box[2:] = corners.max(dim=0).values.clip(min=0) if parts else 0
        return Boxes(boxes)

    def crop_and_resize(self, boxes: Tensor, size: int) -> Tensor:
        """Cut each mask out by its box, and draw what is inside with ``size`` pixels a side.

        Args:
            boxes: (N, 4), x0, y0, x1, y1 in pixels.

        Returns:
            bool, (N, size, size), on the device of ``boxes``.
        """
        _check_number(boxes, self)
        cut = np.zeros((len(self), size, size), bool)
        for mask, parts, box in zip(cut, self.polygons, boxes.detach().cpu().numpy()):
            width, height = box[2:] - box[:2]
            factors = np.array([size / max(width, _NARROWEST), size / max(height, _NARROWEST)])
            moved = [((part.reshape(-1, 2) - box[:2]) * factors).reshape(-1) for part in parts]
            mask[:] = rasterize_polygons(moved, size, size)
        return torch.from_numpy(cut).to(boxes.device)


class BitMasks:
    """Hold masks as bitmaps.

    Args:
        tensor: bool, or what converts to it, (N, H, W), of the size of the image.

    Raises:
        ValueError: it has another number of dimensions.
    """

    def __init__(self, tensor: Tensor | np.ndarray) -> None:
        self.tensor = torch.as_tensor(tensor).to(torch.bool)
        if self.tensor.dim() != 3:
            raise ValueError(
                f"masks have shape {tuple(self.tensor.shape)}; give (masks, height, width)"
            )

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, index: Any) -> BitMasks:
        """Select by slice, mask or indices, or by a number: masks of length 1."""
        selected = self.tensor[index]
        return BitMasks(selected[None] if isinstance(index, int) else selected)

    def __repr__(self) -> str:
        return f"BitMasks({len(self)}, image_size={self.image_size})"

    @property
    def image_size(self) -> tuple[int, int]:
        return self.tensor.shape[1], self.tensor.shape[2]

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def to(self, device: torch.device | str) -> BitMasks:
        return BitMasks(self.tensor.to(device))

    def nonempty(self) -> Tensor:
        """Tell which masks have a pixel: bool, (N,)."""
        return self.tensor.flatten(1).any(dim=1)

    def get_bounding_boxes(self) -> Boxes:
        """Return the boxes around the masks' pixels, on the CPU; all 0 of a mask without any."""
        boxes = torch.zeros(len(self), 4)
        columns, rows = self.tensor.any(dim=1).cpu(), self.tensor.any(dim=2).cpu()
        for number in self.nonempty().nonzero()[:, 0].tolist():
            x, y = columns[number].nonzero()[:, 0], rows[number].nonzero()[:, 0]
            boxes[number] = torch.stack([x[0], y[0], x[-1] + 1, y[-1] + 1])
        return Boxes(boxes)

    def crop_and_resize(self, boxes: Tensor, size: int) -> Tensor:
        """Cut each mask out by its box, by RoIAlign, and halve its values at 0.5.

        Args:
            boxes: (N, 4), x0, y0, x1, y1 in pixels.

        Returns:
            bool, (N, size, size), on the device of the masks.
        """
        from torchvision.ops import roi_align

        _check_number(boxes, self)
        regions = boxes.to(self.device, torch.float32)
        if self.device.type == "cpu":
            return self._crop_one_by_one(regions, size)
        cut = []
        for masks, corners in zip(self.tensor.split(_AT_ONCE), regions.split(_AT_ONCE)):
            numbers = torch.arange(len(masks), device=self.device, dtype=torch.float32)[:, None]
            values, rois = masks[:, None].float(), torch.cat([numbers, corners], dim=1)
            cut.append(roi_align(values, rois, size, 1.0, 0, aligned=True)[:, 0] >= 0.5)
        return torch.cat(cut)

    def _crop_one_by_one(self, boxes: Tensor, size: int) -> Tensor:
        """Crop masks one after another on the CPU, see ``crop_and_resize``.

        One map of float32 serves all masks: of each, only the pixels that RoIAlign reads are
        copied into it. To convert all pixels of every mask would take seconds.
        """
        from torchvision.ops import roi_align

        numbers = torch.zeros(1, 1, *self.image_size)
        cut = torch.empty(len(self), size, size, dtype=torch.bool)
        for mask, box, result in zip(self.tensor, boxes, cut):
            x0, y0, x1, y1 = box.tolist()
            window = (
                slice(max(math.floor(y0) - 1, 0), max(math.ceil(y1) + 2, 0)),
                slice(max(math.floor(x0) - 1, 0), max(math.ceil(x1) + 2, 0)),
            )
            numbers[0, 0][window] = mask[window].float()
            values = roi_align(numbers, [box[None]], size, 1.0, 0, aligned=True)[0, 0]
            torch.ge(values, 0.5, out=result)
        return cut


def rasterize_polygons(polygons: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """Fill the pixels of one object's polygons, by pycocotools: bool, (height, width)."""
    if len(polygons) == 0:
        return np.zeros((height, width), bool)
    import pycocotools.mask

    parts = pycocotools.mask.frPyObjects(list(polygons), height, width)
    return pycocotools.mask.decode(pycocotools.mask.merge(parts)).astype(bool)


def _check_number(boxes: Tensor, masks: Any) -> None:
    if len(boxes) != len(masks):
        raise ValueError(f"there are {len(boxes)} boxes for {len(masks)} masks; give one each")
