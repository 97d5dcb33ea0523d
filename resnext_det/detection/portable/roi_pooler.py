"""Cut regions out of the levels of a pyramid, or of one map, with detectron2's numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align, roi_pool

from resnext_det.detection.portable.boxes import join_boxes
from resnext_det.roi_align import RegionGrid, align_regions, join_regions

# A region of 224 x 224 pixels, ImageNet's, is cut out of level 4 (FPN, equation 1).
_CANONICAL_SIZE = 224
_CANONICAL_LEVEL = 4

_POOLER_TYPES = ("ROIAlignV2", "ROIAlign", "ROIPool")


class ROIPooler(nn.Module):
    """Cut every region out of the feature map that fits its size.

    Args:
        resolution: side of the result in cells.
        strides: of the feature maps, in pixels: neighboring powers of 2, finest first.
        sampling_ratio: samples per cell and axis in RoIAlign; 0 adapts it to the region's size.
        pooler_type: ``ROIAlignV2`` (Mask R-CNN's, with half-pixel offsets right), ``ROIAlign``
            (Detectron 1's) or ``ROIPool`` (Fast R-CNN's).
        by_matrices: compute RoIAlign as matrix products on a CPU, see ``resnext_det.roi_align``.

    Raises:
        ValueError: another type; maps that are no neighbors.
    """

    def __init__(
        self,
        *,
        resolution: int,
        strides: Sequence[int],
        sampling_ratio: int,
        pooler_type: str,
        by_matrices: bool = False,
    ) -> None:
        super().__init__()
        if pooler_type not in _POOLER_TYPES:
            raise ValueError(
                f"pooler type {pooler_type!r} is unknown; choose {', '.join(_POOLER_TYPES)}"
            )
        levels = [math.log2(stride) for stride in strides]
        if levels != [int(levels[0]) + index for index in range(len(levels))]:
            raise ValueError(
                f"the feature maps of regions have the strides {tuple(strides)}, which are not "
                "neighboring powers of 2, finest first; write neighbors in "
                "MODEL.ROI_HEADS.IN_FEATURES, such as ['p2', 'p3', 'p4', 'p5']"
            )
        self.resolution = resolution
        self.strides = tuple(strides)
        self.sampling_ratio = sampling_ratio
        self.pooler_type = pooler_type
        self.by_matrices = by_matrices
        self.first_level = int(levels[0])

    def forward(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Cut the boxes (Ri, 4) of each of N images, in pixels, out of maps (N, C, Hi, Wi).

        Returns:
            (sum of Ri, C, resolution, resolution).
        """
        return self.pool(features, join_boxes(boxes))

    def pool(self, features: Sequence[Tensor], regions: Tensor) -> Tensor:
        """Cut regions (R, 5), each the index of an image and a box, as ``forward`` does."""
        if len(features) == 1:
            return self._pool(features[0], regions, self.strides[0])
        levels = self._assign_levels(regions[:, 1:])
        cuts, places = [], []
        for level, (feature, stride) in enumerate(zip(features, self.strides)):
            places.append((levels == level).nonzero().flatten())
            cuts.append(self._pool(feature, regions[places[-1]], stride))
        # Not len(), which has to be a number in a graph that is traced.
        return join_regions(regions.shape[0], cuts, places)

    def _assign_levels(self, boxes: Tensor) -> Tensor:
        """Choose the index of the map that each box (R, 4) is cut out of."""
        sizes = torch.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
        levels = torch.floor(_CANONICAL_LEVEL + torch.log2(sizes / _CANONICAL_SIZE + 1e-8))
        last_level = self.first_level + len(self.strides) - 1
        return levels.clamp(self.first_level, last_level).to(torch.int64) - self.first_level

    def _pool(self, feature: Tensor, regions: Tensor, stride: int) -> Tensor:
        aligned = self.pooler_type == "ROIAlignV2"
        if self.by_matrices and feature.device.type == "cpu":
            grid = RegionGrid(self.resolution, 1.0 / stride, self.sampling_ratio, aligned)
            return align_regions(feature, regions, grid)
        # Rounding boxes to bfloat16 would move them by pixels, so the map goes to the boxes' type.
        exact, scale = feature.to(regions.dtype), 1.0 / stride
        if self.pooler_type == "ROIPool":
            pooled = roi_pool(exact, regions, self.resolution, scale)
        else:
            pooled = roi_align(exact, regions, self.resolution, scale, self.sampling_ratio, aligned)
        return pooled.to(feature.dtype)
