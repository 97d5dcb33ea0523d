"""Compare what is computed from weights of 16 bits with float64: it is as exact as float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from resnext_det.resnext import ResNeXt
from resnext_det.weights import KNOWN, convert_preprocessing, load_weights, read_weights
from resnext_det.weights.formats import convert_to_native
from resnext_det.weights.rounding import choose_type
from resnext_det.weights.writing import make_torchvision_state, write_weights
from tests.weights.foreign_names import random_network as torchvision_network
from tests.weights.helpers import THIN, classifier, make_path, save
from tests.weights.test_formats import caffe2_state
from tests.weights.test_torch7_models import convert, convolution_and_norm
from tests.weights.test_torch7_models import random_network as torch7_network
from tests.weights.torch7_writer import build_torch7_network

TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn]
HALVES = TYPES[2:4]
EPS = 1e-5
STD = torch.tensor(KNOWN["torchvision"].std, dtype=torch.float64).view(1, 3, 1, 1)


def is_exact(found: Tensor, exact: Tensor) -> bool:
    """Compare with float64: within half a unit in float32's last place, or float64's rounding."""
    bits = 2**-24 if found.dtype == torch.float32 else 2**-50
    return bool(((found.double() - exact).abs() <= bits * exact.abs() + 1e-44).all())


def convert_types(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in state.items()}


@cache
def make_caffe2_stem(norms: str) -> dict[str, Tensor]:
    """Make what a file of Caffe2's has of its stem, and the block by which a network is known."""
    state = caffe2_state(torchvision_network(26), norms)
    kept = ("conv1_", "res_conv1_", "res2_0_branch2a_")
    return {name: t for name, t in state.items() if name.startswith(kept)}


@pytest.mark.parametrize("dtype", TYPES)
def test_another_pixel_std_is_exact(dtype: torch.dtype) -> None:
    # Of the size of trained stems: divided by 57 they are among float16's subnormal numbers.
    weight = (torch.randn(64, 3, 7, 7, dtype=torch.float64) * 0.02).to(dtype)
    target = replace(KNOWN["torchvision"], std=(1.0, 1.0, 1.0))
    state = {"stem.conv1.weight": weight, "stem.conv1.norm.bias": torch.ones(64).to(dtype)}
    found = convert_preprocessing(state, KNOWN["torchvision"], target)
    assert found["stem.conv1.weight"].dtype == choose_type(weight)
    assert is_exact(found["stem.conv1.weight"], weight.double() / STD)
    assert found["stem.conv1.norm.bias"].dtype == dtype
    swapped = convert_preprocessing(state, KNOWN["torchvision"], KNOWN["pycls"])
    assert swapped["stem.conv1.weight"].dtype == dtype, "an order alone needs no other type"


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("format", ["native", "safetensors", "torchvision", "detectron2"])
def test_a_converted_file_of_16_bits_keeps_the_numbers(
    format: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    state = convert_types(classifier().state_dict(), dtype)
    state["stem.conv1.weight"] = (torch.randn(state["stem.conv1.weight"].shape) * 0.02).to(dtype)
    no_std = replace(KNOWN["torchvision"], std=(1.0, 1.0, 1.0))
    # torchvision's format has a std of its own, so the way there goes the other way round.
    source, target = (no_std, KNOWN["torchvision"])[:: 1 if format == "torchvision" else -1]
    path = make_path(format, tmp_path)
    converted = state if format == "torchvision" else convert_preprocessing(state, source, target)
    given = source if format == "torchvision" else target
    write_weights(converted, path, format, preprocessing=given)
    found = read_weights(path).state
    factor = STD if format == "torchvision" else 1 / STD
    assert is_exact(found["stem.conv1.weight"], state["stem.conv1.weight"].double() * factor)
    assert found["stem.conv1.weight"].dtype == torch.float32
    assert torch.equal(found["res2.0.conv1.weight"].double(), state["res2.0.conv1.weight"].double())
    model = ResNeXt(THIN, out_features=("res5",))
    load_weights(model, path)
    assert is_exact(model.stem.conv1.weight, state["stem.conv1.weight"].double() * factor)


def test_torchvision_loads_a_state_of_two_types() -> None:
    network = torchvision_network(26)
    state = convert_types(convert_to_native(network.state_dict()).state, torch.bfloat16)
    source = replace(KNOWN["torchvision"], std=(1.0, 1.0, 1.0))
    written = make_torchvision_state(state, source)
    assert written["conv1.weight"].dtype == torch.float32
    network.load_state_dict(written)
    assert torch.equal(network.conv1.weight, written["conv1.weight"])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("norms", ["riv", "folded"])
def test_a_bias_folded_into_a_norm_is_exact(norms: str, dtype: torch.dtype) -> None:
    state = make_caffe2_stem(norms)
    state = convert_types({**state, "conv1_b": torch.randn(64) * 0.01}, dtype)
    found = convert_to_native(state).state
    norm = {key: found[f"stem.conv1.norm.{key}"] for key in ("weight", "bias")}
    mean, variance = (found[f"stem.conv1.norm.running_{key}"] for key in ("mean", "var"))
    added = state["conv1_b"].double()
    if norms == "riv":
        assert is_exact(mean, state["res_conv1_bn_rm"].double() - added)
        assert norm["bias"].dtype == dtype
    else:
        assert torch.equal(mean, torch.zeros_like(mean))
        assert is_exact(variance, torch.full((64,), 1 - EPS, dtype=torch.float64))
        scale = norm["weight"].double() * (variance.double() + EPS).rsqrt()
        assert is_exact(norm["bias"], state["res_conv1_bn_b"].double() + added * scale)


def test_statistics_that_are_added_do_not_follow_torchs_default_type() -> None:
    state = convert_types(make_caffe2_stem("folded"), torch.float16)
    torch.set_default_dtype(torch.float16)
    try:
        variance = convert_to_native(state).state["stem.conv1.norm.running_var"]
    finally:
        torch.set_default_dtype(torch.float32)
    assert is_exact(variance, torch.full_like(variance, 1 - EPS, dtype=torch.float64))


@pytest.mark.parametrize("dtype", TYPES[1:3])
@pytest.mark.parametrize("how", ["bias", "epsilon", "inverse"])
def test_old_norms_of_torch_7_are_exact(how: str, dtype: torch.dtype, tmp_path: Path) -> None:
    made = build_torch7_network(torch7_network())
    convolution, norm = convolution_and_norm(made)
    variance = torch.linspace(0.001, 2, 64, dtype=torch.float64).to(dtype)
    mean = norm.fields["running_mean"].to(dtype)
    norm.fields |= {"running_var": variance, "running_mean": mean}
    exact: Any = {"running_mean": mean.double(), "running_var": variance.double()}
    if how == "bias":
        bias = (torch.randn(64) * 0.01).to(dtype)
        convolution.fields["bias"] = bias
        exact["running_mean"] = mean.double() - bias.double()
    elif how == "epsilon":
        norm.fields["eps"] = 1e-3
        exact["running_var"] = variance.double() + (1e-3 - EPS)
    else:
        inverse = (norm.fields.pop("running_var").double() + 1e-3).rsqrt().to(dtype)
        norm.fields["running_std"] = inverse
        exact["running_var"] = inverse.double().pow(-2) - EPS
    found = convert(tmp_path, made)
    for key, value in exact.items():
        assert is_exact(found[f"stem.conv1.norm.{key}"], value), key


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("channels", [1, 4])
def test_inflated_input_is_exact(channels: int, dtype: torch.dtype, tmp_path: Path) -> None:
    state = convert_types(classifier().state_dict(), dtype)
    model = ResNeXt(THIN, out_features=("res5",), in_channels=channels)
    load_weights(model, save(state, tmp_path), inflate_input=True)
    weight = state["stem.conv1.weight"].double()
    exact = weight.sum(1, keepdim=True) if channels == 1 else weight[:, [0, 1, 2, 0]] * (3 / 4)
    assert is_exact(model.stem.conv1.weight, exact)


@pytest.mark.parametrize("dtype", TYPES[3:])
@pytest.mark.parametrize("format", ["native", "safetensors", "torchvision", "detectron2"])
def test_a_type_that_a_format_lacks_is_written_as_float32(
    format: str, dtype: torch.dtype, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = convert_types(classifier().state_dict(), dtype)
    path = make_path(format, tmp_path)
    write_weights(state, path, format, preprocessing=KNOWN["torchvision"])
    found = read_weights(path).state
    lacking = format == "detectron2" or dtype != torch.bfloat16
    assert found["res2.0.conv1.weight"].dtype == (torch.float32 if lacking else dtype)
    for name, tensor in found.items():
        assert torch.equal(tensor.double(), state.get(name, tensor).double()), name
    words = f"tensors of {dtype} are written as torch.float32, with the same values: the format "
    assert sum(words in record.getMessage() for record in caplog.records) == lacking


@pytest.mark.parametrize("format", ["native", "safetensors", "torchvision", "detectron2"])
def test_float64_stays_float64(format: str, tmp_path: Path) -> None:
    state = convert_types(classifier().state_dict(), torch.float64)
    state = {name: t * (1 + 1e-12) if t.is_floating_point() else t for name, t in state.items()}
    path = make_path(format, tmp_path)
    write_weights(state, path, format, preprocessing=KNOWN["torchvision"])
    for name, tensor in read_weights(path).state.items():
        assert torch.equal(tensor, state[name]), name
