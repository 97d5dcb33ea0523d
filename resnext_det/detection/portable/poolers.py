"""Cutting regions out of feature maps (Faster R-CNN's RoIPool, Mask R-CNN's RoIAlign), over one map or a pyramid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align, roi_pool

# A region of 224 x 224 pixels, ImageNet's, is cut out of level 4 (FPN, equation 1).
_CANONICAL_SIZE = 224
_CANONICAL_LEVEL = 4

POOLER_TYPES = ("ROIAlignV2", "ROIAlign", "ROIPool")


class ROIPooler(nn.Module):
    """Cuts every region out of the level that fits its size.

    Args:
        resolution: side of the result in cells.
        strides: of the feature maps, in pixels: neighbouring powers of 2, finest first.
        sampling_ratio: samples a cell and axis in RoIAlign; 0 takes as many as the region has cells.
        pooler_type: ``ROIAlignV2`` (half-pixel offsets right), ``ROIAlign`` (the legacy of Detectron 1) or ``ROIPool``.
    """

    def __init__(
        self, *, resolution: int, strides: Sequence[int], sampling_ratio: int, pooler_type: str
    ) -> None:
        super().__init__()
        if pooler_type not in POOLER_TYPES:
            raise ValueError(
                f"pooler type {pooler_type!r} is unknown; choose {', '.join(POOLER_TYPES)}"
            )
        levels = [math.log2(stride) for stride in strides]
        if levels != [int(levels[0]) + index for index in range(len(levels))]:
            raise ValueError(
                f"regions are cut out of maps of the strides {tuple(strides)}, which are not neighbouring powers of 2, finest first; "
                "let MODEL.ROI_HEADS.IN_FEATURES be neighbours, such as ['p2', 'p3', 'p4', 'p5']"
            )
        self.resolution = resolution
        self.strides = tuple(strides)
        self.sampling_ratio = sampling_ratio
        self.pooler_type = pooler_type
        self.first_level = int(levels[0])

    def forward(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Maps (N, C, Hi, Wi) and N tensors of boxes (Ri, 4) in pixels -> (sum of Ri, C, resolution, resolution)."""
        counts = torch.tensor([len(image_boxes) for image_boxes in boxes], device=boxes[0].device)
        images = torch.repeat_interleave(
            torch.arange(len(boxes), dtype=boxes[0].dtype, device=boxes[0].device), counts
        )
        regions = torch.cat([images[:, None], torch.cat(list(boxes))], dim=1)
        if len(features) == 1:
            return self._pool(features[0], regions, self.strides[0])
        levels = self._levels(regions[:, 1:])
        pooled = features[0].new_zeros(
            len(regions), features[0].shape[1], self.resolution, self.resolution
        )
        for level, (feature, stride) in enumerate(zip(features, self.strides)):
            chosen = (levels == level).nonzero().flatten()
            pooled.index_put_((chosen,), self._pool(feature, regions[chosen], stride))
        return pooled

    def _levels(self, boxes: Tensor) -> Tensor:
        """The index of the map that each box (R, 4) is cut out of."""
        sizes = torch.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
        levels = torch.floor(_CANONICAL_LEVEL + torch.log2(sizes / _CANONICAL_SIZE + 1e-8))
        last_level = self.first_level + len(self.strides) - 1
        return levels.clamp(self.first_level, last_level).to(torch.int64) - self.first_level

    def _pool(self, feature: Tensor, regions: Tensor, stride: int) -> Tensor:
        # Rounding boxes to bfloat16 would move them by pixels, so the map goes to the boxes' type.
        exact = feature.to(regions.dtype)
        scale = 1.0 / stride
        if self.pooler_type == "ROIPool":
            pooled = roi_pool(exact, regions, self.resolution, scale)
        else:
            aligned = self.pooler_type == "ROIAlignV2"
            pooled = roi_align(exact, regions, self.resolution, scale, self.sampling_ratio, aligned)
        return pooled.to(feature.dtype)
