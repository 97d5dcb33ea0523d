"""Cut the regions of a detector out of its maps by matrix products, in either engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from resnext_det.roi_align import RegionGrid, align_regions

_NAMES = ("box_pooler", "pooler")  # of detectron2's FPN heads, and of all others


class FastPooler(nn.Module):
    """Stand in for a pooler of either engine, for inference: the same regions, within rounding.

    Args:
        grids: of each map, finest first.
        first_level: of the finest map; its stride is 2 to this power.
        canonical: the level that a region of so many pixels a side is cut out of (FPN, equation 1).
    """

    def __init__(
        self, grids: Sequence[RegionGrid], first_level: int, canonical: tuple[int, int]
    ) -> None:
        super().__init__()
        self.grids, self.first_level = tuple(grids), first_level
        self.canonical = canonical

    def forward(self, maps: Sequence[Tensor], boxes: Sequence[Any]) -> Tensor:
        """Cut the boxes of each image, (Ri, 4) or detectron2's ``Boxes``, out of (N, C, Hi, Wi)."""
        regions = []
        for index, one in enumerate(boxes):
            tensor = one if isinstance(one, Tensor) else one.tensor
            regions.append(torch.cat([tensor.new_full((len(tensor), 1), index), tensor], dim=1))
        return self.pool(maps, torch.cat(regions))

    def pool(self, maps: Sequence[Tensor], regions: Tensor) -> Tensor:
        """Cut regions (R, 5), each the index of an image and a box.

        Returns:
            (R, C, cells, cells), in channels-last memory.
        """
        if len(self.grids) == 1:
            return align_regions(maps[0], regions, self.grids[0])
        levels, cells = self._assign_levels(regions[:, 1:]), self.grids[0].cells
        out = maps[0].new_empty(len(regions), cells, cells, maps[0].shape[1])
        for level, (x, grid) in enumerate(zip(maps, self.grids)):
            chosen = (levels == level).nonzero().flatten()
            if len(chosen):
                out[chosen] = align_regions(x, regions[chosen], grid).permute(0, 2, 3, 1)
        return out.permute(0, 3, 1, 2)

    def _assign_levels(self, boxes: Tensor) -> Tensor:
        level, side = self.canonical
        sizes = torch.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
        levels = torch.floor(level + torch.log2(sizes / side + 1e-8)) - self.first_level
        return levels.clamp(0, len(self.grids) - 1)


def find_pooler(model: nn.Module) -> tuple[nn.Module, FastPooler] | None:
    """Find the pooler of a detector's boxes, and make what stands in for it.

    Returns:
        None where there is none, it cuts by RoIPool or rotates, or cells are not square.
    """
    heads: Any = getattr(model, "roi_heads", None)
    pooler: Any = next((getattr(heads, name) for name in _NAMES if hasattr(heads, name)), None)
    if hasattr(pooler, "level_poolers"):  # detectron2's
        cutters = list(pooler.level_poolers)
        if not all(hasattr(cutter, "aligned") for cutter in cutters):
            return None
        if any(len(set(cutter.output_size)) != 1 for cutter in cutters):
            return None
        grids = [
            RegionGrid(one.output_size[0], one.spatial_scale, one.sampling_ratio, one.aligned)
            for one in cutters
        ]
        canonical = (pooler.canonical_level, pooler.canonical_box_size)
        return pooler, FastPooler(grids, pooler.min_level, canonical)
    if not hasattr(pooler, "pooler_type") or pooler.pooler_type == "ROIPool":
        return None
    aligned = pooler.pooler_type == "ROIAlignV2"
    grids = [
        RegionGrid(pooler.resolution, 1 / stride, pooler.sampling_ratio, aligned)
        for stride in pooler.strides
    ]
    return pooler, FastPooler(grids, pooler.first_level, (4, 224))
