"""Place anchors as torchvision's detectors do, and MLPerf's RetinaNet with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from resnext_det.detection.portable.boxes import AnchorGenerator, shift_anchors


class TorchvisionAnchorGenerator(AnchorGenerator):
    """Place torchvision's anchors, which differ from detectron2's in three things.

    The corners of a cell's anchors are rounded to whole pixels; all sizes of the first ratio come
    first; and neighboring cells are as many whole pixels apart as the padded image's side has per
    cell, such as 114 where 800 pixels have 7 cells, which detectron2 places 128 pixels apart.

    Args:
        sizes, aspect_ratios: as ``AnchorGenerator``.
        strides: pixels of the image between neighboring cells, one per level. The first one has to
            divide the padded image's sides; the others follow from the maps.
    """

    def __init__(
        self,
        *,
        sizes: Sequence[Sequence[float]],
        aspect_ratios: Sequence[Sequence[float]],
        strides: Sequence[int],
    ) -> None:
        super().__init__(sizes=sizes, aspect_ratios=aspect_ratios, strides=strides, offset=0.0)

    def make_cell(self, sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
        """Make the anchors of one cell, as ``make_cell_anchors``, in torchvision's order."""
        areas = torch.tensor(sizes, dtype=torch.float32)
        heights = torch.tensor(aspect_ratios, dtype=torch.float32).sqrt()
        widths = 1 / heights
        width, height = ((factors[:, None] * areas).flatten() for factors in (widths, heights))
        return (torch.stack((-width, -height, width, height), dim=1) / 2).round()

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map features (N, C, Hi, Wi) to anchors (Hi * Wi * A, 4), per level."""
        sides = [side * self.strides[0] for side in features[0].shape[-2:]]
        anchors = []
        for level, feature in enumerate(features):
            cell: Tensor = getattr(self, f"cell{level}")
            ys, xs = (
                torch.arange(cells, device=cell.device) * (side // cells)
                for cells, side in zip(feature.shape[-2:], sides)
            )
            anchors.append(shift_anchors(cell, xs, ys))
        return anchors
