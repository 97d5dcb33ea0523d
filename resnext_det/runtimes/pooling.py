"""Cut the regions of a detector out of its maps by matrix products, in either engine."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from resnext_det.roi_align import RegionGrid, align_regions

_NAMES = ("box_pooler", "pooler", "mask_pooler")  # the second of C4 and of the portable engine


class FastCutter(nn.Module):
    """Stand in for detectron2's RoIAlign of one map, for inference: the same, within rounding."""

    def __init__(self, grid: RegionGrid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, features: Tensor, regions: Tensor) -> Tensor:
        return align_regions(features, regions, self.grid)


def find_poolers(model: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Find the poolers of a detector's boxes and masks, and copy each with a faster RoIAlign.

    Left out are those that cut by RoIPool or rotate, and those whose cells are not square.
    """
    heads: Any = getattr(model, "roi_heads", None)
    poolers = [getattr(heads, name, None) for name in _NAMES]
    copies = [(pooler, _copy_faster(pooler)) for pooler in poolers if pooler is not None]
    return [(pooler, fast) for pooler, fast in copies if fast is not None]


def _copy_faster(pooler: Any) -> nn.Module | None:
    fast: Any = copy.copy(pooler)
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
        fast._modules = {"level_poolers": nn.ModuleList(map(FastCutter, grids))}
        return fast
    if not hasattr(pooler, "pooler_type") or pooler.pooler_type == "ROIPool":
        return None
    fast.by_matrices = True
    return fast
