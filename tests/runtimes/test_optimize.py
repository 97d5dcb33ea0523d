"""Optimized models answer as the exact ones: of both engines, with every backend, on every size."""

from __future__ import annotations

import copy
import importlib.util
import itertools
import logging
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resnext_det import Architecture, ResNeXt, ResNeXtClassifier, optimize
from resnext_det.architecture import Deformable
from resnext_det.detection.jobs import find_engine
from resnext_det.runtimes import BACKENDS, backends
from resnext_det.runtimes.backends import check_dtype, list_backends
from resnext_det.shared_res5 import find_shared_class
from tests.detection.helpers import (
    C4_CHANGES,
    C4_MASKS,
    CASCADE_CHANGES,
    DC5_CHANGES,
    FPN,
    MASKS,
    RETINANET_CHANGES,
    override,
)

SIZES = ((64, 96), (50, 70), (64, 96), (96, 41))
ENGINES = ("portable", "detectron2")
# As many channels as Winograd's algorithm is used for.
WIDE = override("MODEL.FPN", OUT_CHANNELS=128)
SURE = override("MODEL.ROI_HEADS", SCORE_THRESH_TEST=0.1)
SHARED = override("MODEL.ROI_HEADS", NAME="ResNeXtSharedRes5ROIHeads")
KINDS: dict[str, list[Any]] = {
    "FPN": [*WIDE, *SURE],
    "C4": [*C4_CHANGES, *SURE],
    "C4, shared": [*C4_CHANGES, *SHARED, *SURE],
    "RetinaNet": [
        *(*RETINANET_CHANGES, *WIDE),
        *override("MODEL.RETINANET", SCORE_THRESH_TEST=0.1),
    ],
    "FPN, masks": [*MASKS, *WIDE, *SURE],
    "C4, masks": [*C4_MASKS, *SURE],
    "DC5, masks": [*DC5_CHANGES, *MASKS, *SURE],
    "cascade": [*CASCADE_CHANGES, *WIDE, *SURE],
    "cascade, masks": [*CASCADE_CHANGES, *MASKS, *WIDE, *SURE],
}
NETWORK = Architecture(26, 2, 4, stem_channels=8, res2_channels=16)


def draw_image(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height)
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)


def build(engine: str, kind: str) -> nn.Module:
    """Build a tiny detector that finds something, with statistics that are not the first ones."""
    torch.manual_seed(0)
    if engine == "detectron2":
        pytest.importorskip("detectron2", reason="detectron2 is not installed")
    module: Any = find_engine(engine)
    if engine == "portable":
        from resnext_det.detection.portable.build import build_detector
    else:
        build_detector = module.build_detector
    model = build_detector(module.load_config(FPN, KINDS[kind])).eval()
    for name, value in model.named_buffers():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
    # Scores of RetinaNet, and masks, are nearly equal before a training.
    layers = ("head.cls_score.weight", "roi_heads.mask_head.predictor.weight")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in layers:
                parameter.mul_(200)
    return model


def count_equal(exact: Any, found: Any) -> int:
    """Count the detections of one class, score, box and mask, within rounding, in both."""
    near = (exact.scores[:, None] - found.scores).abs() < 1e-5
    near &= exact.pred_classes[:, None] == found.pred_classes
    boxes = exact.pred_boxes.tensor[:, None], found.pred_boxes.tensor
    near &= (boxes[0] - boxes[1]).abs().amax(dim=2) < 1e-2
    if exact.has("pred_masks"):
        assert 0.001 < exact.pred_masks.float().mean() < 0.5
        for one, other in near.nonzero().tolist():
            different = exact.pred_masks[one] != found.pred_masks[other]
            near[one, other] = different.float().mean() < 1e-3
    return int(min(near.any(dim=0).sum(), near.any(dim=1).sum()))


def list_cases() -> Iterator[Any]:
    """List (backend, engine, kind); to convert a detector takes a runtime half a second."""
    rest = ("DC5, masks", "cascade, masks")  # of what others are
    quick = {
        *(("folded", "portable", kind) for kind in KINDS if kind not in rest),
        *(("folded", "detectron2", kind) for kind in ("FPN", "C4", "C4, shared", "RetinaNet")),
        ("openvino", "portable", "C4"),
        ("openvino", "detectron2", "FPN"),
        ("onnxruntime", "portable", "FPN"),
        ("onnxruntime", "portable", "C4"),
    }
    for case in itertools.product(BACKENDS[1:], ENGINES, KINDS):
        marks = [] if case in quick else [pytest.mark.slow]
        if case[1] == "detectron2":
            marks.append(pytest.mark.detectron2)
        yield pytest.param(*case, marks=marks)


@pytest.mark.parametrize(("backend", "engine", "kind"), list_cases())
def test_a_detector_answers_as_the_exact_one(backend: str, engine: str, kind: str) -> None:
    if backend not in list_backends():
        pytest.skip(f"{backend} is not installed")
    model = build(engine, kind)
    before = copy.deepcopy(model.state_dict())
    fast = optimize(model, backend, example=[{"image": draw_image(*SIZES[0])}])
    if kind.startswith("C4"):
        heads = fast.get_submodule("roi_heads")
        assert find_shared_class(fast) is type(heads)
        assert not any("norm" in name for name in heads.get_submodule("res5").state_dict())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    for height, width in SIZES:
        sample = {"image": draw_image(height, width), "height": 2 * height, "width": width}
        with torch.no_grad():
            exact, found = (each([sample])[0]["instances"] for each in (model, fast))
        assert type(found) is type(exact) and found.image_size == exact.image_size
        assert len(exact) > 0
        assert count_equal(exact, found) == len(exact) == len(found)


def test_a_c4_head_in_bfloat16_answers_nearly_as_the_exact_one() -> None:
    model = build("portable", "C4")
    sample = {"image": draw_image(64, 96)}
    fast = optimize(model, "folded", torch.bfloat16, example=[sample])
    assert next(fast.get_submodule("roi_heads.res5").parameters()).dtype == torch.bfloat16
    with torch.no_grad():
        exact, found = (each([sample])[0]["instances"] for each in (model, fast))
    assert abs(float(found.scores.max() - exact.scores.max())) < 0.01


@pytest.mark.parametrize("backend", ["folded", "openvino"])
def test_bfloat16_states_its_difference(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    if backend not in list_backends(torch.bfloat16):
        pytest.skip(f"{backend} is not installed")
    try:
        check_dtype(torch.bfloat16, torch.device("cpu"))
    except ValueError as error:
        pytest.skip(str(error))
    network = ResNeXt(NETWORK, out_features=("res2", "res3")).eval()
    images = torch.randn(1, 3, 64, 64)
    with caplog.at_level(logging.INFO):
        found = optimize(network, backend, torch.bfloat16, example=images)(images)
    with torch.no_grad():
        exact = network(images)
    errors = [(found[name] - exact[name]).abs().max() / exact[name].abs().max() for name in exact]
    assert found["res3"].dtype == torch.float32
    assert 1e-4 < max(errors) < 0.05
    assert f"differ by at most {float(max(errors)):.1e} of the largest" in caplog.text


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_backbone_gives_the_same_maps_in_any_memory_type_and_thread(backend: str) -> None:
    pytest.importorskip(backend)
    torch.manual_seed(0)
    network = ResNeXt(NETWORK, norm="BN", out_features=("res2", "res4")).eval()
    fast = optimize(network, backend, example=torch.randn(1, 3, 64, 96))

    @torch.no_grad()
    def check(images: Tensor) -> None:
        exact, found = network(images.float()), fast(images)
        assert list(found) == list(exact)
        for name, value in exact.items():
            assert torch.allclose(found[name], value, atol=1e-4 * float(value.abs().max()))

    images = torch.randn(1, 3, 320, 448)
    for _ in range(2):  # the first one of a size is computed in the runtime's own memory
        check(torch.randn(2, 3, 33, 71))
        check(images.contiguous(memory_format=torch.channels_last))
        check(images[:, :, ::2, ::2])
        check(images.double())
        check((10 * images + 128).to(torch.uint8))
    sizes = [torch.randn(1, 3, 32 * index, 64) for index in (1, 2, 3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(check, 20 * sizes))


def test_a_classifier_gives_the_same_logits() -> None:
    network = ResNeXtClassifier(NETWORK, 5).eval()
    images = torch.randn(2, 3, 64, 64)
    assert torch.allclose(optimize(network, "folded")(images), network(images), atol=1e-5)


class _Sized(nn.Conv2d):
    """Multiply by the height, which a trace takes for a number."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * int(x.shape[2])


def test_a_graph_of_something_else_is_refused() -> None:
    pytest.importorskip("openvino")
    with pytest.raises(ValueError, match="'openvino' does not compute what this model does: on"):
        optimize(_Sized(3, 4, 1).eval(), "openvino", example=torch.ones(1, 3, 32, 32))


def test_deploy_has_it_too() -> None:
    from resnext_det import deploy

    assert deploy.optimize is optimize


def test_an_optimized_model_is_copied_but_neither_saved_nor_loaded() -> None:
    network = ResNeXt(NETWORK).eval()
    images = torch.randn(1, 3, 32, 32)
    fast = optimize(network, "folded", example=images)
    assert torch.equal(copy.deepcopy(fast)(images)["res4"], fast(images)["res4"])
    with pytest.raises(ValueError, match="cannot be saved or sent to another process; save the"):
        pickle.dumps(fast)
    with pytest.raises(ValueError, match="has no weights to save"):
        fast.state_dict()
    with pytest.raises(ValueError, match="takes no weights"):
        fast.load_state_dict(network.state_dict(), strict=False)
    with pytest.raises(ValueError, match="was given a model that it made"):
        optimize(fast, "folded")


@pytest.mark.slow
def test_more_models_are_compiled_than_torch_compiles_by_default() -> None:
    network = ResNeXt(NETWORK, out_features=("res2",)).eval()
    images = torch.randn(1, 3, 32, 32)
    models = [optimize(network, "compiled", example=images) for _ in range(10)]
    for x in (images, torch.randn(2, 3, 48, 71)):
        with torch.no_grad():
            exact = network(x)["res2"]
        assert all(torch.allclose(fast(x)["res2"], exact, atol=1e-4) for fast in models)


def test_what_is_refused() -> None:
    network = ResNeXt(NETWORK).eval()
    with pytest.raises(ValueError, match="backend 'tensorrt' is unknown; choose one of auto, fold"):
        optimize(network, "tensorrt")
    with pytest.raises(ValueError, match="dtype 'float16' is not supported; choose one of float32"):
        optimize(network, "folded", "float16")
    with pytest.raises(ValueError, match=r"'onnxruntime' has no bfloat16 on a CPU; choose"):
        optimize(network, "onnxruntime", torch.bfloat16)
    with pytest.raises(ValueError, match="given a str; give a backbone or a detector"):
        optimize("model.pth", "folded")  # type: ignore[arg-type]
    fast_rcnn = nn.Module().eval()
    fast_rcnn.backbone, fast_rcnn.proposal_generator = network, None
    with pytest.raises(ValueError, match=r"takes the proposals of every image.* give an image wit"):
        optimize(fast_rcnn, "folded")
    fast = optimize(network, "folded", example=torch.randn(1, 3, 32, 32))
    with pytest.raises(ValueError, match="for inference alone, and this one is in training mode"):
        fast.train()(torch.randn(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"has the shape \(1, 4, 32, 32\); .* \(any, 3, any, any"):
        fast.eval()(torch.randn(1, 4, 32, 32))
    with pytest.raises(ValueError, match=r"is in training mode.* call model.eval"):
        optimize(network.train(), "folded")
    network.eval().get_submodule("res2.0").train()
    with pytest.raises(ValueError, match=r"a part of it, is in training mode"):
        optimize(network, "folded")
    with pytest.raises(
        ValueError, match=r"weights are torch.float64, .* call model.float\(\) first"
    ):
        optimize(network.eval().double(), "folded")


def test_a_backend_that_cannot_compute_a_model_says_so() -> None:
    class Branching(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 0 else super().forward(x)

    with pytest.raises(ValueError, match="backend 'compiled': it cannot compute this model"):
        optimize(Branching(3, 4, 1).eval(), "compiled", example=torch.ones(1, 3, 8, 8))


def test_a_deformable_backbone_is_computed_or_refused(capfd: pytest.CaptureFixture[str]) -> None:
    deformable = Deformable(["res2"], modulated=True)
    network = ResNeXt(NETWORK, out_features=("res2",), deformable=deformable).eval()
    for name, value in network.named_parameters():
        if "offset" in name:
            nn.init.normal_(value)
    images = torch.randn(1, 3, 33, 70)
    with torch.no_grad():
        exact = network(images)["res2"]
    if "onnxruntime" in list_backends():
        found = optimize(network, "onnxruntime", example=torch.randn(2, 3, 64, 64))(images)["res2"]
        assert torch.allclose(found, exact, atol=1e-4 * float(exact.abs().max()))
    if "openvino" in list_backends():
        with pytest.raises(ValueError, match=r"operator of this model \(No conv.*: DeformConv-19"):
            optimize(network, "openvino", example=images)
    assert capfd.readouterr().out == ""


def test_weights_that_are_no_numbers_are_refused() -> None:
    network = ResNeXt(NETWORK).eval()
    next(network.parameters()).data[0] = torch.nan
    with pytest.raises(ValueError, match="gives NaN or infinity on the example; look for damaged"):
        optimize(network, "folded", example=torch.randn(1, 3, 32, 32))


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    network, find = nn.Conv2d(3, 4, 1).eval(), importlib.util.find_spec
    absent = ("onnxruntime", "openvino")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in absent else find(name)
    )
    for name, extra in (("onnxruntime", "onnx"), ("openvino", "openvino")):
        with pytest.raises(
            ValueError,
            match=rf"'{name}' needs packages that are not installed \({name}\); run pip install "
            rf"'resnext-det\[{extra}\]', or choose 'folded'",
        ):
            optimize(network, name)
    assert list_backends() == ("folded", "compiled")
    assert optimize(network)(torch.ones(1, 3, 8, 8)).shape == (1, 4, 8, 8)


def test_bfloat16_is_refused_without_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Conv2d(3, 4, 1).eval()
    monkeypatch.setattr(backends, "measure_speed", lambda dtype: 0.5)
    with pytest.raises(ValueError, match=r"lacks the instructions .* takes 2\.0 times as long as"):
        optimize(network, "folded", torch.bfloat16)
    monkeypatch.setattr(backends, "measure_speed", lambda dtype: 1.0)
    openvino = pytest.importorskip("openvino")
    monkeypatch.setattr(openvino.Core, "get_property", lambda *names: ["FP32"])
    with pytest.raises(ValueError, match="'openvino' has no bfloat16 on this CPU"):
        optimize(network, "openvino", torch.bfloat16)


def test_signals_are_handled_after_openvino_has_gone() -> None:
    pytest.importorskip("openvino")
    code = (
        "import signal; from resnext_det.runtimes.openvino import compile_graph; import torch; "
        "from openvino import Model, opset13 as ops; "
        "x = ops.parameter([1, 4]); graph = Model([ops.relu(x)], [x]); "
        "first, second = (compile_graph(graph, torch.float32) for _ in range(2)); "
        "signal.signal(signal.SIGINT, lambda *_: print('handled')); "
        "del first, second; signal.raise_signal(signal.SIGINT)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_nothing_reports_that_openvino_is_used() -> None:
    pytest.importorskip("openvino")
    code = (
        "import sys; import resnext_det.runtimes.openvino; import openvino.tools.ovc as ovc; "
        "print(ovc.telemetry.__class__.__module__, sys.modules['openvino_telemetry'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "None"]


def test_outputs_keep_their_memory_as_long_as_they_are_held() -> None:
    pytest.importorskip("openvino")
    from resnext_det.runtimes.openvino import OutputMemory

    memory = OutputMemory()
    maps, vector = memory.take([(2, 3, 4), (5,)])
    maps.zero_()
    kept = maps[1, :, 1:]
    address = vector.data_ptr()
    del maps, vector
    other, smaller = memory.take([(2, 3, 4), (4,)])
    other.fill_(1)
    assert float(kept.sum()) == 0  # a view holds it too
    assert smaller.data_ptr() == address
    for _ in range(10):
        memory.take([(2, 3, 4), (50,)])
        assert len(memory.kept) <= 4


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_the_next_image_does_not_overwrite_the_maps_of_this_one(backend: str) -> None:
    pytest.importorskip(backend)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    images = list(torch.randn(5, 1, 3, 9, 9))
    fast = optimize(network, backend, example=images[0])
    with torch.no_grad():
        for exact, found in zip(map(network, images), [fast(one) for one in images]):
            assert torch.allclose(found, exact, atol=1e-5)
