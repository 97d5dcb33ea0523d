"""RoIAlign by matrix products is torchvision's, and so is its gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from resnext_det import roi_align as module
from resnext_det.roi_align import RegionGrid, align_regions, join_regions

HEIGHT, WIDTH, SCALE = 13, 17, 1 / 16


def draw_regions(count: int, seed: int = 0) -> Tensor:
    """Draw regions of two maps: many inside, some tiny, some huge, some off the map, some empty."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    center = draw(count, 2) * torch.tensor([WIDTH, HEIGHT]) / SCALE
    size = torch.exp(draw(count, 2) * 9 - 2)  # 0.1 to 1100 pixels
    corners = torch.cat([center - size / 2, center + size / 2], dim=1)
    corners[::7] -= 250
    corners[1::7] += 250
    corners[2::11, 2:] = corners[2::11, :2]  # of no size
    corners[3::11, 2:] = corners[3::11, :2] - 20  # turned around
    images = torch.arange(count, dtype=torch.float64)[:, None] * 2 // max(count, 1)
    return torch.cat([images, corners], dim=1)


def draw_maps(channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (2, channels, HEIGHT, WIDTH)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize(("sampling_ratio", "cells", "every"), [(0, 14, 1), (0, 7, 2), (2, 5, 1)])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_values_and_gradients_are_torchvisions(
    aligned: bool,
    sampling_ratio: int,
    cells: int,
    every: int,
    memory_format: torch.memory_format,
) -> None:
    regions = draw_regions(200)
    maps = draw_maps().contiguous(memory_format=memory_format).requires_grad_()
    grid = RegionGrid(cells, SCALE, sampling_ratio, aligned).keep_every(every)
    ours = align_regions(maps, regions, grid)
    theirs = roi_align(maps, regions, cells, SCALE, sampling_ratio, aligned)[..., ::every, ::every]
    assert ours.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2)).double()
    (our_gradient,) = torch.autograd.grad((ours * weights).sum(), maps)
    (their_gradient,) = torch.autograd.grad((theirs * weights).sum(), maps)
    torch.testing.assert_close(our_gradient, their_gradient, rtol=0, atol=1e-10)


def test_many_regions_at_once_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU takes the regions of a map in portions, each from the whole map."""
    regions, grid = draw_regions(30), RegionGrid(7, SCALE, 0, True)
    maps = draw_maps().requires_grad_()
    results = []
    for apart in (True, False):
        monkeypatch.setattr(module, "_runs_regions_apart", lambda weights, apart=apart: apart)
        monkeypatch.setattr(module, "_NUMBERS_AT_ONCE", 7 * WIDTH * 3 * 4)  # four regions
        cut = align_regions(maps, regions, grid)
        results.append((cut.detach(), *torch.autograd.grad(cut.square().sum(), maps)))
    for one, other in zip(*results):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_without_regions() -> None:
    maps = draw_maps().requires_grad_()
    cut = align_regions(maps, draw_regions(0), RegionGrid(14, SCALE, 0, True, every=2))
    assert cut.shape == (0, 3, 7, 7)
    cut.sum().backward()
    assert maps.grad is not None and not maps.grad.any()


def test_types() -> None:
    """bfloat16 maps give what float32 ones do, rounded once, also under autocast."""
    regions, grid = draw_regions(40).float(), RegionGrid(7, SCALE, 0, True)
    maps = draw_maps().bfloat16().requires_grad_()
    expected = align_regions(maps.float(), regions, grid)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cut = align_regions(maps, regions, grid)
        assert align_regions(maps.float(), regions, grid).dtype == torch.float32
    assert cut.dtype == torch.bfloat16 and torch.equal(cut, expected.bfloat16())
    (gradient,) = torch.autograd.grad(cut.sum(), maps)
    assert gradient.dtype == torch.bfloat16 and gradient.any()
    assert not align_regions(maps, regions.requires_grad_(), grid).sum().isnan()


def test_a_trace_calls_torchvisions_operator() -> None:
    regions, grid = draw_regions(20).float(), RegionGrid(7, SCALE, 0, True, every=2)
    maps = draw_maps().float()
    traced = torch.jit.trace(
        lambda maps, regions: align_regions(maps, regions, grid), (maps, regions)
    )
    assert "torchvision::roi_align" in str(traced.graph)
    torch.testing.assert_close(traced(maps, regions), align_regions(maps, regions, grid))


def test_second_derivatives_are_refused() -> None:
    """``torch.autograd.grad`` would give none, without a word."""
    maps = draw_maps().requires_grad_()
    cut = align_regions(maps, draw_regions(5), RegionGrid(7, SCALE, 0, True))
    with pytest.raises(RuntimeError, match=r"have no second derivatives.*StandardROIHeads"):
        torch.autograd.grad(cut.square().sum(), maps, create_graph=True)


@pytest.mark.parametrize("far", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_a_region_in_no_image_is_refused(far: float) -> None:
    regions = draw_regions(5)
    regions[3, 2] = far
    with pytest.raises(ValueError, match=r"reaches to .*, which is in no image; drop boxes"):
        align_regions(draw_maps(), regions, RegionGrid(7, SCALE, 0, True))


def test_joined_regions_and_their_gradients_are_those_of_index_put() -> None:
    generator = torch.Generator().manual_seed(0)
    places = [torch.tensor([4, 0, 2]), torch.tensor([], dtype=torch.int64), torch.tensor([1, 3])]
    cuts = [torch.randn(len(place), 3, 2, 2, generator=generator) for place in places]
    for cut in cuts:
        cut.requires_grad_()
    reference = torch.zeros(5, 3, 2, 2)
    for place, cut in zip(places, cuts):
        reference = reference.index_put((place,), cut)
    joined, results = join_regions(5, cuts, places), []
    assert torch.equal(joined, reference)
    for one in (joined, reference):
        first = torch.autograd.grad(one.exp().sum(), cuts, create_graph=True)
        second = torch.autograd.grad(sum(value.square().sum() for value in first), cuts)
        results.append([*first, *second])
    assert all(torch.equal(one, other) for one, other in zip(*results))
