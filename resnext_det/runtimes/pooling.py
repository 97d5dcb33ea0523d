"""Cut the regions of a detector out of its maps by matrix products, in either engine."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from resnext_det.roi_align import RegionGrid, align_regions

_NAMES = ("box_pooler", "pooler")  # of detectron2's FPN heads, and of all others


class FastCutter(nn.Module):
    """Stand in for detectron2's RoIAlign of one map, for inference: the same, within rounding."""

    def __init__(self, grid: RegionGrid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, features: Tensor, regions: Tensor) -> Tensor:
        return align_regions(features, regions, self.grid)


def find_pooler(model: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """Find the pooler of a detector's boxes, and copy it with a faster RoIAlign.

    Returns:
        None where there is none, it cuts by RoIPool or rotates, or cells are not square.
    """
    heads: Any = getattr(model, "roi_heads", None)
    pooler: Any = next((getattr(heads, name) for name in _NAMES if hasattr(heads, name)), None)
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
        return pooler, fast
    if not hasattr(pooler, "pooler_type") or pooler.pooler_type == "ROIPool":
        return None
    fast.by_matrices = True
    return pooler, fast
