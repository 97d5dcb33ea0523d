"""Quantized models are near the exact ones, compute in int8 inside, and lose what they may."""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resnext_det import Architecture, ResNeXt, optimize
from resnext_det.runtimes import quantization
from resnext_det.runtimes.openvino_core import get_core
from resnext_det.runtimes.quantization import Calibration, check_loss
from tests.runtimes.test_optimize import build, draw_image

TOOLS = {"openvino": "nncf", "onnxruntime": "onnxruntime"}


def draw_batches(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 3, 64, 96, generator=generator) for _ in range(count)]


@pytest.fixture(scope="module")
def backbone() -> ResNeXt:
    torch.manual_seed(0)
    architecture = Architecture(26, 4, 4, stem_channels=16, res2_channels=32)
    return ResNeXt(architecture, norm="BN", out_features=("res2", "res3")).eval()


def count_in_openvino(graph: Any) -> tuple[int, int]:
    """Count the convolutions that OpenVINO computes in int8, and all."""
    compiled = get_core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    types = [
        str(fact["runtimePrecision"].value)
        for fact in facts
        if fact["layerType"].value == "Convolution"
    ]
    return sum(name in ("i8", "u8") for name in types), len(types)


def count_in_onnx(model: bytes) -> tuple[int, int]:
    """Count the convolutions whose maps and weights are of int8, and all."""
    import onnx

    graph = onnx.load_from_string(model).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    return sum(
        all(made_by.get(name) == "DequantizeLinear" for name in node.input[:2])
        for node in convolutions
    ), len(convolutions)


@pytest.mark.parametrize("tool", TOOLS)
def test_maps_are_near_the_exact_ones_and_computed_in_int8(
    backbone: ResNeXt, tool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(TOOLS[tool])
    name = {"openvino": "quantize_openvino", "onnxruntime": "quantize_onnx"}[tool]
    count = {"openvino": count_in_openvino, "onnxruntime": count_in_onnx}[tool]
    quantize, made = getattr(quantization, name), []
    monkeypatch.setattr(quantization, name, lambda *given: made.append(quantize(*given)) or made[0])
    fast = optimize(backbone, tool, torch.int8, calibration=iter(draw_batches(4)))
    convolutions = sum(isinstance(layer, nn.Conv2d) for layer in backbone.modules())
    assert count(made[0]) == (convolutions, convolutions)  # those in groups too
    if tool == "openvino":  # the output that res3 reads too has the values that it reads
        sources = [result.input_value(0).get_node() for result in made[0].get_results()]
        assert [node.get_type_name() for node in sources] == ["FakeQuantize", "Relu"]
    for images in (draw_batches(5)[4], torch.randn(2, 3, 50, 70)):
        with torch.no_grad():
            maps, fast_maps = backbone(images), fast(images)
        for level, exact in maps.items():
            found = fast_maps[level]
            assert found.dtype == torch.float32 and found.shape == exact.shape
            error = float((found - exact).norm() / exact.norm())
            assert 1e-3 < error < 0.05  # float32 would differ by less


@pytest.mark.slow
def test_a_detector_is_quantized_on_its_own_samples(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("nncf")
    model = build("portable", "FPN")
    samples = [{"image": draw_image(64, width)} for width in (96, 64, 70)]
    with caplog.at_level(logging.INFO):
        fast = optimize(
            model,
            "openvino",
            torch.int8,
            calibration=samples,
            measure=lambda one: float(one(samples[:1])[0]["instances"].scores.mean()),
            max_loss=0.1,
        )
    with torch.no_grad():
        exact, found = (one(samples[:1])[0]["instances"] for one in (model, fast))
    assert abs(len(found) - len(exact)) <= 0.2 * len(exact)
    assert torch.allclose(found.scores[:5], exact.scores[:5], atol=0.05)
    assert "Quantized to int8, the model measures 0." in caplog.text


def test_a_loss_above_the_bound_is_refused(backbone: ResNeXt) -> None:
    numbers = {id(backbone): 62.7, id(backbone.stem): 61.45}
    pair = backbone, backbone.stem
    check_loss(*pair, Calibration([0], lambda one: numbers[id(one)], 1.3))
    with pytest.raises(ValueError, match=r"62\.70 in float32 and 61\.45 in int8, a loss of 1\.25 "):
        check_loss(*pair, Calibration([0], lambda one: numbers[id(one)], 1.2))
    with pytest.raises(ValueError, match="measure gives nan for the model"):
        check_loss(*pair, Calibration([0], lambda one: float("nan")))


def test_what_is_refused(backbone: ResNeXt, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {"calibration": draw_batches(1)}
    with pytest.raises(ValueError, match="calibrated on images, and none was given; give calibrat"):
        optimize(backbone, "openvino", torch.int8, calibration=[])
    with pytest.raises(
        ValueError, match="'folded' has no int8; choose 'openvino' or 'onnxruntime'"
    ):
        optimize(backbone, "folded", torch.int8, **given)
    with pytest.raises(
        ValueError, match=r"are of dtype torch.int8, and the dtype is torch.float32"
    ):
        optimize(backbone, "folded", **given)
    with pytest.raises(ValueError, match=r"max_loss = 1\.0 bounds .* nothing measures it; give"):
        optimize(backbone, "openvino", torch.int8, **given, max_loss=1.0)
    with pytest.raises(ValueError, match="max_loss = -1 is no loss to accept; give 0 or more"):
        optimize(backbone, "openvino", torch.int8, **given, measure=lambda one: 0, max_loss=-1)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "nncf" else find(name)
    )
    with pytest.raises(ValueError, match=r"not installed \(nncf\).*'resnext-det\[openvino\]'$"):
        optimize(backbone, "openvino", torch.int8, **given)
