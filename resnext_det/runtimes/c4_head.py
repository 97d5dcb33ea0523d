"""Make the head of a C4 detector fast: it shares work between regions, whatever the backend.

Its products of matrices are as fast in torch as in a runtime, and fewer than res5 on every region.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from resnext_det.roi_align import align_regions
from resnext_det.runtimes.folded import arrange_weights, fold_norms
from resnext_det.runtimes.parts import measure_difference
from resnext_det.shared_res5 import exchange_c4_head, find_shared_class, run_res5


def make_c4_head_fast(detector: nn.Module, dtype: torch.dtype) -> None:
    """Exchange a C4 detector's head, in place, for one that shares, with its norms folded.

    Args:
        detector: one of which ``find_shared_class`` finds a class.
        dtype: float32 or bfloat16, in which res5 computes.
    """
    exchange_c4_head(detector)
    heads: Any = detector.roi_heads
    heads.res5 = arrange_weights(fold_norms(heads.res5), dtype)


@torch.no_grad()
def measure_c4_error(model: nn.Module, fast: nn.Module, maps: dict[str, Tensor]) -> float:
    """Measure how far the features of regions differ, in units of the largest.

    Args:
        model: the exact detector.
        fast: the same after ``make_c4_head_fast``.
        maps: what its backbone gave of an example.
    """
    heads: Any = model.roi_heads
    grid: Any = find_shared_class(fast).find_grid(fast.roi_heads)  # type: ignore[union-attr]
    features = maps[heads.in_features[0]][:1]
    size = torch.tensor([features.shape[3], features.shape[2]]).repeat(2) / grid.scale
    corners = torch.rand(8, 2, 2, generator=torch.Generator().manual_seed(0)).sort(dim=1).values
    regions = torch.cat([torch.zeros(8, 1), corners.flatten(1) * size], dim=1).to(features.device)
    exact = heads.res5(align_regions(features, regions, grid))
    found = run_res5(fast.roi_heads.res5, features, regions, grid)  # type: ignore[union-attr, arg-type]
    return measure_difference(found, exact)
