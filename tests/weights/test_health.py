"""Test what the doctor finds in the numbers of weights."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor

from resnext_det.architecture import Architecture
from resnext_det.resnext import ResNeXt, ResNeXtClassifier
from resnext_det.weights.health import Health, check_numbers, tell_not_finite
from tests.weights.helpers import (
    SMALL,
    THIN,
    classifier,
    detector,
    fill_randomly,
    rename_torchvision,
    torchvision_network,
)

QUICKSTART = Architecture(26, 8, 4, stem_channels=32, res2_channels=64)


def test_trained_numbers_are_sound() -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        assert check_numbers(classifier().to(dtype).state_dict()) == Health()
    assert check_numbers(fill_randomly(detector()).state_dict()) == Health()
    assert check_numbers({}) == check_numbers({"a": torch.zeros(0, 2)}) == Health()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_number_that_is_not_finite_is_found(number: float, dtype: torch.dtype) -> None:
    state = classifier().to(dtype).state_dict()
    state["res4.1.conv2.weight"].view(-1)[7] = number
    ((fault,), warnings) = check_numbers(state)
    told = f"there are 1 NaN or infinite numbers, in 1 of {len(state)} tensors (res4.1.conv2.weight"
    assert fault.startswith(f"{told}); get the file again") and not warnings
    assert tell_not_finite(state) == fault


def test_many_names_are_counted() -> None:
    state = {name: tensor * torch.nan for name, tensor in classifier().state_dict().items()}
    (fault,) = check_numbers(state).faults
    floats = sum(tensor.is_floating_point() for tensor in state.values())
    assert f"in {floats} of {len(state)} tensors" in fault and f" and {floats - 3} more)" in fault


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float8_e4m3fn])
def test_the_greatest_numbers_are_finite(dtype: torch.dtype) -> None:
    """Their sum is not."""
    assert tell_not_finite({"a": torch.full((99, 9), torch.finfo(dtype).max).to(dtype)}) is None


@pytest.mark.parametrize(
    ("name", "value", "of_health"),
    [
        ("res3.0.conv1.norm.running_var", -1e-3, "there are variances below 0"),
        ("res3.0.conv1.weight", 0.0, "constant weights: all are one number in res3.0.conv1.weight"),
        ("linear.weight", 0.5, "constant weights: all are one number in linear.weight"),
        ("res3.0.conv1.norm.weight", 0.0, "norms of scale 0: "),
    ],
)
def test_other_faults(name: str, value: float, of_health: str) -> None:
    state = classifier().state_dict()
    state[name].fill_(value)
    faults, warnings = check_numbers(state)
    (told,) = (*faults, *warnings)
    assert told.startswith(of_health) and name in told
    assert bool(faults) == name.endswith("running_var")


def test_weights_of_integers_are_of_a_quantized_network() -> None:
    state = classifier().state_dict()
    state["linear.weight"] = state["linear.weight"].to(torch.int8)
    (fault,) = check_numbers(state).faults
    assert fault == "there are weights of int8, as of a quantized network, in linear.weight"


def make_networks() -> dict[str, dict[str, Tensor]]:
    """New networks as torchvision, timm and we begin them; the last norms' scale may begin at 0."""
    arguments: dict[str, Any] = {"groups": 2, "width_per_group": 4}
    block, layers = torchvision.models.resnet.Bottleneck, [2, 2, 2, 2]
    of_timm = timm.models.resnet.ResNet(
        timm.models.resnet.Bottleneck, layers, cardinality=2, base_width=4, num_classes=7
    )
    return {
        "torchvision": rename_torchvision(torchvision_network().state_dict()),
        "zero_init_residual": rename_torchvision(
            torchvision.models.ResNet(
                block, layers, zero_init_residual=True, **arguments
            ).state_dict()
        ),
        "timm": rename_torchvision(of_timm.state_dict()),
        "ours": ResNeXtClassifier(THIN).state_dict(),
        "GN": ResNeXt(QUICKSTART, norm="GN", out_features=("res5",)).state_dict(),
        "detector": detector("MODEL.RESNETS.NORM", "BN").state_dict(),
    }


def test_a_network_that_was_never_trained() -> None:
    for kind, state in make_networks().items():
        (fault,), warnings = check_numbers(state)
        assert not warnings and fault.startswith("never trained: "), kind
        assert fault.endswith("give the file of a trained network"), kind


def test_folded_norms_are_no_untrained_ones() -> None:
    """Their mean is 0 and their variance 1 too, and the bias tells."""
    state = classifier().state_dict()
    for name, tensor in state.items():
        if "running" in name:
            tensor.fill_(float("var" in name))
    assert check_numbers(state) == Health()


def test_a_step_of_training_is_enough() -> None:
    model = ResNeXt(SMALL, norm="BN", out_features=("res5",)).train()
    model(torch.rand(2, 3, 64, 64))
    assert check_numbers(model.state_dict()) == Health()
