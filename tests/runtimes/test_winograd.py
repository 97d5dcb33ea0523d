"""Winograd's algorithm computes the convolution of the definition."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from resnext_det.layers import ConvNorm
from resnext_det.runtimes.winograd import Channels, WinogradConv2d, suits_winograd


@pytest.mark.parametrize(
    "shape", [(2, 128, 8, 12), (1, 128, 1, 1), (1, 128, 5, 90), (0, 128, 4, 4)]
)
def test_it_is_the_convolution_in_float64(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = ConvNorm(128, 136, 3, padding=1, activation=nn.ReLU())
    images = torch.randn(shape)
    with torch.no_grad():
        assert layer.bias is not None
        layer.bias.normal_()
        weight, bias = layer.weight.double(), layer.bias.double()
        exact = F.conv2d(images.double(), weight, bias, padding=1).relu()
        found = WinogradConv2d(layer)(images)
    assert found.shape == exact.shape
    if exact.numel():
        assert (found - exact).abs().max() < 1e-5 * exact.max()


def test_a_large_map_is_computed_in_bands() -> None:
    torch.manual_seed(0)
    layer, images = nn.Conv2d(256, 128, 3, padding=1), torch.randn(1, 256, 42, 64)
    with torch.no_grad():
        exact, found = layer(images), WinogradConv2d(layer)(images)
    assert (found - exact).abs().max() < 1e-5 * exact.abs().max()


@pytest.mark.parametrize("threads", [1, 2])
def test_what_follows_is_computed_band_by_band(threads: int) -> None:
    torch.manual_seed(0)
    layer = ConvNorm(128, 128, 3, padding=1, activation=nn.ReLU())
    following = [nn.Conv2d(128, count, 1) for count in (3, 12)]
    images, before = torch.randn(2, 128, 42, 64), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            hidden = layer(images)
            exact = torch.cat([one(hidden) for one in following], dim=1)
            found = WinogradConv2d(layer, following)(images)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert (found - exact).abs().max() < 1e-5 * exact.abs().max()
    assert torch.equal(Channels(3, 15)(found), found[:, 3:])


def test_what_suits() -> None:
    assert suits_winograd(nn.Conv2d(128, 128, 3, padding=1))
    for layer in (
        nn.Conv2d(128, 128, 1),
        nn.Conv2d(128, 128, 3),
        nn.Conv2d(128, 128, 3, padding=1, stride=2),
        nn.Conv2d(128, 128, 3, padding=1, groups=32),
        nn.Conv2d(64, 128, 3, padding=1),
        nn.Conv2d(2048, 128, 3, padding=1),
        ConvNorm(128, 128, 3, padding=1, norm="BN"),
        nn.Linear(128, 128),
    ):
        assert not suits_winograd(layer)
