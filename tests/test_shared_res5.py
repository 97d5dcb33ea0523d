"""A res5 of which regions share the first convolutions computes what it does on each region."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from resnext_det import shared_res5
from resnext_det.architecture import Architecture
from resnext_det.resnext import make_stage
from resnext_det.roi_align import RegionGrid
from resnext_det.shared_res5 import can_share, exchange_c4_head, run_res5

ARCHITECTURE = Architecture(26, 8, 4, stem_channels=8, res2_channels=16)
GRID = RegionGrid(14, 1 / 16, 0, aligned=True)
CHANNELS = 64


def make_res5(**options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    res5 = make_stage(ARCHITECTURE, "res5", **options)
    for module in res5.modules():
        if hasattr(module, "running_var"):
            for name, low, high in [("weight", 0.5, 1), ("bias", -1, 1), ("running_mean", -1, 1)]:
                nn.init.uniform_(getattr(module, name), low, high)
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return res5


def draw(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Draw two maps, and regions of them of which some lie partly or wholly off the map."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, CHANNELS, 12, 15, generator=generator)
    center = torch.rand(30, 2, generator=generator) * torch.tensor([300, 250]) - 30
    sides = torch.rand(30, 2, generator=generator) * 150
    images = torch.arange(30)[:, None] // 20
    regions = torch.cat([images, center - sides / 2, center + sides / 2], dim=1)
    maps = maps.contiguous(memory_format=torch.channels_last)
    return maps.to(dtype).requires_grad_(), regions.to(dtype)


def run_exactly(res5: nn.Module, maps: Tensor, regions: Tensor) -> Tensor:
    return res5(roi_align(maps, regions, 14, 1 / 16, 0, True))


SHARED: dict[str, dict[str, Any]] = {
    "frozen": {},
    "stride in the 1x1": {"stride_in_1x1": True},
    "norms with trained scale": {"norm": "FrozenStatisticsBN"},
    "no norms": {"norm": ""},
    "dilated": {"dilate": True},
}


@pytest.mark.parametrize("case", SHARED)
def test_it_is_exact_algebra(case: str) -> None:
    """In float64, off the map too, and so are all gradients; contiguous as everywhere."""
    res5, (maps, regions) = make_res5(**SHARED[case]).double(), draw(torch.float64)
    assert can_share(res5)
    shared, exact = run_res5(res5, maps, regions, GRID), run_exactly(res5, maps, regions)
    assert shared.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(shared, exact, rtol=1e-12, atol=1e-12)
    inputs = [maps, *(each for each in res5.parameters() if each.requires_grad)]
    weights = torch.randn(exact.shape).double()
    gradients = [torch.autograd.grad((out * weights).sum(), inputs) for out in (shared, exact)]
    for ours, theirs in zip(*gradients):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    assert all(each.is_contiguous() for each in gradients[0][1:])


def test_rounding_is_that_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """In inference too, which computes a part of the regions after the other."""
    monkeypatch.setattr(shared_res5, "_PORTION", 8)
    res5, (maps, regions) = make_res5(), draw()
    with torch.no_grad():
        exact = run_exactly(res5, maps, regions)
        difference = run_res5(res5, maps, regions, GRID) - exact
    assert float(difference.norm() / exact.norm()) < 1e-6


def test_batch_norms_share_in_inference_alone() -> None:
    """Their statistics in training are over the values of regions, which no map has."""
    maps, regions = draw(torch.float64)
    for training in (True, False):
        results, states = [], []
        for run in (lambda *given: run_res5(*given, GRID), run_exactly):
            res5 = make_res5(norm="BN").double().train(training)
            assert can_share(res5) is not training
            results.append(run(res5, maps, regions))
            states.append(res5.state_dict())
        torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)
        for key, value in states[0].items():
            torch.testing.assert_close(value, states[1][key], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("change", ["GN", "a block of another class", "an activation"])
def test_what_cannot_be_shared_is_computed_on_each_region(change: str) -> None:
    res5: Any = make_res5(norm="GN" if change == "GN" else "FrozenBN").double()
    if change == "a block of another class":
        res5[0] = nn.Sequential(res5[0])
    elif change == "an activation":
        res5[0].conv1.activation = torch.tanh
    assert not can_share(res5) and not can_share(nn.Identity())
    maps, regions = draw(torch.float64)
    torch.testing.assert_close(
        run_res5(res5, maps, regions, GRID), run_exactly(res5, maps, regions)
    )


def test_in_bfloat16_it_is_as_near_to_float32_as_the_exact_one() -> None:
    res5, (maps, regions) = make_res5(), draw()
    wanted = run_exactly(res5, maps, regions).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        shared, exact = run_res5(res5, maps, regions, GRID), run_exactly(res5, maps, regions)
    assert shared.dtype == torch.bfloat16
    ours, theirs = (
        float((each.detach() - wanted).norm() / wanted.norm()) for each in (shared, exact)
    )
    assert ours < 1.5 * theirs < 0.02
    shared.float().square().mean().backward()
    assert maps.grad is not None and bool(maps.grad.isfinite().all()) and maps.grad.any()


def test_without_regions() -> None:
    res5, (maps, regions) = make_res5(), draw()
    out = run_res5(res5, maps, regions[:0], GRID)
    assert out.shape == (0, 2 * CHANNELS, 7, 7)
    out.sum().backward()
    assert not exchange_c4_head(res5)
