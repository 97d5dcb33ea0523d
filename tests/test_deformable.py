"""Deformable convolutions equal a plain reference: a loop over the points, interpolated by hand."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from resnext_det.architecture import Architecture, Deformable
from resnext_det.deformable import DeformableConvNorm, make_sampling
from resnext_det.layers import ConvNorm
from resnext_det.resnext import ResNeXt, ResNeXtClassifier, make_stage
from tests.detection.detectron2_reference import move_points, randomize

TINY = Architecture(26, 2, 4, stem_channels=8, res2_channels=16)
KINDS = list(itertools.product((False, True), (1, 2)))  # modulated or not, groups


def interpolate(image: np.ndarray, y: float, x: float) -> float:
    """Interpolate between the four pixels around a point; beyond the edge there are zeros."""
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * image[row, column]
    return total


def convolve(layer: DeformableConvNorm, x: Tensor, sampling: Tensor, groups: int) -> np.ndarray:
    """Compute equation 2 of arXiv 1703.06211 (1 of 1811.11168) point by point, in float64."""
    weight, maps, points = (
        value.detach().double().numpy() for value in (layer.weight, x, sampling)
    )
    (stride, _), (dilation, _) = layer.stride, layer.dilation
    images, (height, width) = len(maps), points.shape[2:]
    modulated = points.shape[1] == 27 * groups
    values = np.zeros((images, maps.shape[1], 9, height, width))
    for n, channel, k, i, j in np.ndindex(*values.shape):
        place = 9 * (channel * groups // maps.shape[1]) + k
        y = i * stride + (k // 3 - 1) * dilation + points[n, 2 * place, i, j]
        x_ = j * stride + (k % 3 - 1) * dilation + points[n, 2 * place + 1, i, j]
        factor = 1.0
        if modulated:
            factor = 1 / (1 + math.exp(-points[n, 18 * groups + place, i, j]))
        values[n, channel, k, i, j] = factor * interpolate(maps[n, channel], y, x_)
    split = np.split(values, layer.groups, axis=1)
    kernels = np.split(weight.reshape(*weight.shape[:2], 9), layer.groups)
    parts = [np.einsum("nckij,ock->noij", *pair) for pair in zip(split, kernels)]
    return np.concatenate(parts, axis=1)


def make_layer(modulated: bool, groups: int, **options: Any) -> tuple[DeformableConvNorm, Tensor]:
    """Make a layer of 4 to 6 channels, and random points, some of them beyond the edge."""
    deformable = Deformable((), modulated, groups)
    options = {"stride": 2, "padding": 2, "dilation": 2, "groups": 2, "bias": False, **options}
    layer = DeformableConvNorm(deformable, 4, 6, **options)
    channels = (27 if modulated else 18) * groups
    return layer, 2 * torch.randn(2, channels, 3, 4, dtype=torch.float64)


@pytest.mark.parametrize(("modulated", "groups"), KINDS)
def test_numbers_equal_a_loop_over_the_points(modulated: bool, groups: int) -> None:
    torch.manual_seed(0)
    layer, sampling = make_layer(modulated, groups)
    x = torch.randn(2, 4, 5, 7, dtype=torch.float64)
    found = layer.double()(x, sampling)
    expected = torch.from_numpy(convolve(layer, x, sampling, groups))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("modulated", "groups"), KINDS)
@pytest.mark.parametrize("norm", ["", "FrozenBN", "BN"])
def test_gradients_reach_all_that_is_trained(norm: str, modulated: bool, groups: int) -> None:
    torch.manual_seed(0)
    layer, sampling = make_layer(modulated, groups, norm=norm)
    layer = layer.double()
    randomize(layer)
    x = torch.randn(2, 4, 5, 7, dtype=torch.float64, requires_grad=True)

    def compute(x: Tensor, sampling: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight}, (x, sampling))

    assert torch.autograd.gradcheck(
        compute, (x, sampling.requires_grad_(), layer.weight), fast_mode=True
    )


@pytest.mark.parametrize("norm", ["", "FrozenBN", "BN", "FrozenStatisticsBN"])
def test_points_that_do_not_move_give_the_plain_convolution(norm: str) -> None:
    """Modulated, each point weighs sigmoid(0), a half."""
    options: dict[str, Any] = {"padding": 1, "groups": 2, "bias": False, "norm": norm}
    plain = ConvNorm(4, 6, 3, **options)
    randomize(plain)
    x = torch.randn(2, 4, 6, 7).contiguous(memory_format=torch.channels_last)
    for modulated in (False, True):
        deformable = Deformable((), modulated, groups=2)
        layer = DeformableConvNorm(deformable, 4, 6, **options)
        layer.load_state_dict(plain.state_dict())
        sampling = make_sampling(deformable, 4, stride=1, dilation=1)
        with torch.no_grad():
            layer.weight *= 2 if modulated else 1
        found = layer(x, sampling(x))
        torch.testing.assert_close(found, plain(x), rtol=1e-5, atol=1e-5)
        assert found.is_contiguous(memory_format=torch.channels_last)


def test_a_backbone_has_them_in_the_stages_that_are_named() -> None:
    stages = ("res3", "res5")
    model = ResNeXt(
        TINY, out_features=("res4", "res5"), deformable=Deformable(stages, groups=2)
    ).freeze(3)
    offsets = [name for name, _ in model.named_parameters() if "conv2_offset" in name]
    assert offsets == [
        f"{stage}.{block}.conv2_offset.{kind}"
        for stage in stages
        for block in range(2)
        for kind in ("weight", "bias")
    ]
    move_points(model)
    model(torch.randn(1, 3, 64, 64))["res5"].square().mean().backward()
    res5 = {name for name in offsets if name.startswith("res5")}  # res3 is frozen
    trained = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert {name for name in offsets if name in trained and trained[name].any()} == res5
    others = make_stage(TINY, "res3", deformable=Deformable(("res4",)))
    assert others.state_dict().keys() == make_stage(TINY, "res3").state_dict().keys()


def test_it_runs_under_autocast_in_bfloat16_and_on_no_image() -> None:
    """torchvision's operator knows no bfloat16 on the CPU."""
    model = ResNeXt(TINY, out_features=("res5",), deformable=Deformable(("res5",), modulated=True))
    randomize(model)
    move_points(model)
    images = torch.randn(2, 3, 64, 96)
    expected = model(images)["res5"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(images)["res5"]
    found.float().square().mean().backward()
    assert found.dtype == torch.bfloat16
    assert float((found - expected).detach().abs().mean() / expected.detach().mean()) < 0.05
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.bfloat16()(images.bfloat16())["res5"].dtype == torch.bfloat16
    assert model.float().eval()(images[:0])["res5"].shape == (0, 128, 2, 3)


def test_it_scripts_compiles_and_copies() -> None:
    model = ResNeXt(TINY, out_features=("res4",), deformable=Deformable(("res4",), True, 2)).eval()
    move_points(model)
    images = torch.randn(1, 3, 64, 96)
    expected = model(images)["res4"]
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for other in (torch.jit.script(model), compiled, copy.deepcopy(model)):
        # By rounding, since one thread runs other kernels.
        torch.testing.assert_close(other(images)["res4"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("deformable", "said"),
    [
        (lambda: Deformable(("res2",), groups=0), "groups is 0; give an integer of 1 or more"),
        (lambda: Deformable(("res6",)), "has no stage 'res6' to be deformable; .* res2, res3"),
        (lambda: Deformable(("res3",), groups=3), "16 channels of res3's .* into 3 groups"),
    ],
)
def test_what_does_not_fit_is_refused(deformable: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ResNeXt(TINY, deformable=deformable())


def test_networks_for_small_images_and_classifiers_have_none() -> None:
    with pytest.raises(ValueError, match="X-29-2x4d has no stage 'res5'"):
        ResNeXt(Architecture(29, 2, 4), out_features=("res4",), deformable=Deformable(("res5",)))
    with pytest.raises(TypeError, match="deformable"):
        ResNeXtClassifier(TINY, deformable=Deformable(("res5",)))  # type: ignore[call-arg]
