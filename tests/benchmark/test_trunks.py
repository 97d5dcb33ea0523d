"""Trunks and detectors that are timed compute the same; multiply-adds are counted."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from resnext_det.architecture import Architecture
from resnext_det.benchmark import FEATURES, build_trunks, comparison, list_peers, time_trunks
from resnext_det.benchmark.cases import MODES, Key
from resnext_det.benchmark.comparison import build_all
from resnext_det.benchmark.detectors import DetectorCase
from resnext_det.benchmark.engines import DETECTORS, list_engines
from resnext_det.benchmark.memory import measure_peak
from resnext_det.benchmark.trunks import TrunkCase, count_bytes, count_training, group_networks
from resnext_det.instances import Boxes, Instances

DETECTRON2 = importlib.util.find_spec("detectron2") is not None
CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["R-26", "X-26-8x4d"])
def test_the_networks_that_are_timed_are_equal(name: str) -> None:
    ours, *others = build_trunks(Architecture.parse(name), freeze_at=2).values()
    assert len(others) >= 1 + DETECTRON2
    images = torch.randn(1, 3, 64, 96)
    for theirs in others:
        with torch.no_grad():
            found, expected = ours(images), theirs(images)
        assert list(found) == list(expected) == list(FEATURES)
        for feature in FEATURES:
            error = (found[feature] - expected[feature]).abs().max() / expected[feature].abs().max()
            assert error < 1e-5
    for trunk in (ours, *others):
        frozen = {key.split(".")[0] for key, p in trunk.named_parameters() if not p.requires_grad}
        assert frozen in ({"stem", "res2"}, {"conv1", "layer1"})


def test_every_implementation_is_timed_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "PRODUCT_SIZES", {"cpu": 16})
    sizes = {"batch": 1, "height": 32, "width": 32, "repeats": 2}
    timings = time_trunks(Architecture(26, 2, 4), mode="training", device=CPU, **sizes)
    names = {"torchvision", "resnext_det"} | ({"detectron2"} if DETECTRON2 else set())
    assert names <= {timing.name for timing in timings}
    assert all(len(timing.seconds) == 2 and min(timing.seconds) > 0 for timing in timings)
    with pytest.raises(ValueError, match="mode 'trainig' is unknown; choose inference or training"):
        TrunkCase(["R-26"], "trainig", 1, 32, 32)


def test_bfloat16_and_backends_are_compared_with_float32() -> None:
    case = TrunkCase(
        *(["X-26-2x4d"], "inference", 1, 32, 32),
        dtypes=("bfloat16",),
        backends=("folded",),
        peers=("torchvision",),
    )
    candidates, differences, left_out = build_all(case)
    assert left_out == {}
    names = ("torchvision", "resnext_det", "resnext_det, folded")
    assert list(candidates) == [
        Key("X-26-2x4d", "torchvision", "float32"),
        *(Key("X-26-2x4d", name, "bfloat16") for name in names),
    ]
    assert 1e-4 < differences[Key("X-26-2x4d", "resnext_det", "bfloat16")] < 0.1
    architecture = Architecture(26, 2, 4)
    for candidate in candidates.values():
        assert candidate.multiply_adds == architecture.multiply_adds(32, 32, num_classes=None)


def test_int8_is_of_some_backends_alone() -> None:
    words = {"dtypes": ("int8",), "backends": ("folded", "openvino"), "peers": ("torchvision",)}
    case = TrunkCase(["X-26-2x4d"], "inference", 1, 32, 32, **words)
    names = [("torchvision", "float32"), ("resnext_det, openvino", "int8")]
    assert [(key.name, key.dtype) for key in case.list_keys()] == names


def test_a_network_with_other_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from resnext_det.benchmark import trunks

    build = trunks.build_trunk

    def build_wrong(name: str, *arguments: object, **options: int) -> torch.nn.Module:
        trunk = build(name, *arguments, **options)
        if name == "resnext_det":
            trunk.res5[1].conv3.weight.data.mul_(1.5)
        return trunk

    monkeypatch.setattr(trunks, "build_trunk", build_wrong)
    case = TrunkCase(["X-26-2x4d"], "inference", 1, 32, 32, peers=("torchvision",))
    candidates, _, left_out = build_all(case)
    assert [key.name for key in candidates] == ["torchvision"]
    assert "it computes something else" in left_out["X-26-2x4d, resnext_det, float32"]


def test_the_backward_pass_is_counted() -> None:
    """Compare with hooks on every convolution of torch: one product for its output, one for each
    gradient that autograd computes."""
    architecture, counted = Architecture(26, 2, 4), [0]
    trunk = build_trunks(architecture, freeze_at=2)["torchvision"].train()

    def count(layer: torch.nn.Conv2d, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        products = output.numel() * layer.weight[0].numel()
        times = 1 + layer.weight.requires_grad + inputs[0].requires_grad
        counted[0] += products * times

    for layer in trunk.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(count)
    trunk(torch.randn(1, 3, 64, 96))
    assert count_training(architecture, 64, 96, 2) == counted[0]


def test_networks_of_one_depth_are_timed_together() -> None:
    names = ["R-50", "X-101-32x4d", "X-50-32x4d", "R-101"]
    assert group_networks(names) == [["R-50", "X-50-32x4d"], ["X-101-32x4d", "R-101"]]
    assert ("torchvision, channels-last" in list_peers("training", torch.device("cuda"))) is True


@pytest.mark.parametrize(
    ("kind", "mode", "dtypes"),
    [
        ("FPN", "training", ("bfloat16",)),
        ("C4", "inference", ("float32",)),
        *(
            pytest.param(kind, mode, ("float32",), marks=pytest.mark.slow)
            for kind in list(DETECTORS)[2:]
            for mode in MODES
        ),
    ],
)
def test_detectors_agree(kind: str, mode: str, dtypes: tuple[str, ...]) -> None:
    case = DetectorCase(
        *(["X-50-2x4d"], mode, 1, 64, 96),
        dtypes=dtypes,
        kind=kind,
        proposals=None if kind == "RetinaNet" or mode == "training" else 30,
    )
    candidates, _, left_out = build_all(case)
    assert left_out == {}
    assert {key.name for key in candidates} == set(list_engines("X-50-2x4d"))
    assert case.reference == ("detectron2" if DETECTRON2 else "resnext_det, portable")
    found = candidates[Key("X-50-2x4d", "resnext_det, portable", dtypes[0])]
    output = found.compute()
    if mode == "training":
        assert ("loss_mask" in output) == kind.startswith("Mask")
        assert found.step() is None
        return
    assert len(output[0]) > 5  # there are boxes that agree
    if kind.startswith("Mask"):
        assert 0.01 < output[0].pred_masks.float().mean() < 0.5


def test_detections_have_a_counterpart_of_their_class_place_and_mask() -> None:
    case = DetectorCase(["X-50-2x4d"], "inference", 1, 16, 16, kind="Mask-FPN")
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, :8, :8] = True
    boxes, classes = torch.tensor([[0.0, 0, 8, 8], [4, 4, 16, 16]]), torch.tensor([3, 5])

    def find(**changes: torch.Tensor) -> list[Instances]:
        found = {"pred_boxes": boxes, "pred_classes": classes, "pred_masks": masks, **changes}
        boxes_found = Boxes(found.pop("pred_boxes"))
        return [Instances((16, 16), pred_boxes=boxes_found, **found)]

    assert case.compare(find(), find()) == 0
    assert case.compare(find(pred_boxes=boxes + torch.tensor([[0.0], [3]])), find()) == 0.5
    assert case.compare(find(pred_classes=classes + 1), find()) == 1
    assert case.compare(find(pred_masks=~masks), find()) == 1
    other = masks.clone()
    other[0, :2] = False
    assert case.compare(find(pred_masks=other), find()) == 0.5
    assert case.compare([find()[0][:0]], find()) == 1


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own() -> None:
    """A trunk takes at least its weights, and less than this process with its libraries."""
    case = TrunkCase(["R-26"], "inference", 1, 64, 64)
    peak = measure_peak(case, Key("R-26", "resnext_det", "float32"))
    weights = count_bytes(build_trunks(Architecture.parse("R-26"))["resnext_det"])
    assert peak is not None and weights < peak < 5 * weights
