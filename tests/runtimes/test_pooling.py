"""The fast pooler cuts the regions that each engine's own pooler cuts."""

from __future__ import annotations

import pytest
import torch

from resnext_det.runtimes.pooling import find_poolers
from tests.runtimes.test_optimize import build


@pytest.mark.parametrize(
    "engine", ["portable", pytest.param("detectron2", marks=pytest.mark.detectron2)]
)
def test_it_cuts_what_the_engine_cuts(engine: str) -> None:
    ((pooler, fast),) = find_poolers(build(engine, "FPN"))
    torch.manual_seed(0)
    maps = [torch.randn(2, 128, side, side) for side in (32, 16)]
    corners = 160 * torch.rand(2, 9, 2) - 16  # some lie partly off the map
    boxes = list(torch.cat([corners, corners + 90 * torch.rand(2, 9, 2)], dim=2))
    given = boxes
    if engine == "detectron2":
        from detectron2.structures import Boxes

        given = [Boxes(one) for one in boxes]
    with torch.no_grad():
        exact, cut = pooler(maps, given), fast(maps, given)
    assert cut.shape == exact.shape == (18, 128, 3, 3)
    assert torch.allclose(cut, exact, atol=1e-4)
