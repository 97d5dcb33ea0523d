"""Networks found by their structure: under any prefix, in nn.Sequential, among several."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.resnet import ResNet

from resnext_det.console import Look
from resnext_det.resnext import ResNeXt
from resnext_det.weights import load_weights, read_weights
from resnext_det.weights.doctor.diagnosis import diagnose
from resnext_det.weights.doctor.text import format_diagnoses
from resnext_det.weights.formats import convert_to_native
from tests.weights.foreign_names import (
    caffe2_arrays,
    detectron2_state,
    features,
    put_under,
    pycls_state,
    random_network,
)
from tests.weights.helpers import DC5, STAGES, THIN, detector, drop_counters, same_bits, save

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def states(network: ResNet) -> dict[str, State]:
    return {
        "torchvision": network.state_dict(),
        "pycls": pycls_state(network),
        "detectron2": detectron2_state(network),
        "caffe2": {n: torch.from_numpy(a) for n, a in caffe2_arrays(network, "riv").items()},
    }


def select_trunk(network: ResNet) -> State:
    return {n: t for n, t in detectron2_state(network).items() if not n.startswith("linear.")}


def check(found: State, network: ResNet) -> None:
    trunk = {n: t for n, t in found.items() if not n.startswith("linear.")}
    assert same_bits(drop_counters(trunk), select_trunk(network))


PREFIXES = [
    *("backbone.0.body.", "timm_model.", "base_model.", "resnet50.", "feature_extractor."),
    *("features.", "student.backbone.", "backbone._orig_mod.", "_fsdp_wrapped_module.", "0."),
    *("_module.", "_forward_module.model.", "model.backbone.conv_encoder.model.", "cnn.0.0."),
    *("encoder.layer4.", "pixel_level_module.encoder.", "a-b.Ä c.", "layer1.0.", "x" * 300 + "."),
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("format", ["torchvision", "pycls", "detectron2", "caffe2"])
def test_any_prefix(states: dict[str, State], prefix: str, format: str) -> None:
    found = convert_to_native(put_under(prefix, states[format]))
    assert (found.format, found.left_out) == (format, ())
    wanted = states["detectron2"]
    assert drop_counters(found.state).keys() == wanted.keys()
    assert all(torch.equal(found.state[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize(
    ("part", "wrapped"),
    [
        ("layer1.", "layer1._fsdp_wrapped_module."),
        ("layer1.0.", "layer1.0._checkpoint_wrapped_module."),
        ("layer2.1.conv1.", "layer2.1.conv1._orig_mod."),
        ("layer3.", "module.layer3.module._orig_mod."),
        ("fc.", "_fsdp_wrapped_module._fpw_module.fc.module."),
        ("conv1.", "conv1._orig_mod."),
    ],
)
def test_wrappers_in_the_middle(network: ResNet, part: str, wrapped: str) -> None:
    state = {
        f"net.{wrapped}{n.removeprefix(part)}" if n.startswith(part) else f"net.{n}": tensor
        for n, tensor in network.state_dict().items()
    }
    found = convert_to_native(state)
    assert found.prefix == "net."
    assert same_bits(drop_counters(found.state), detectron2_state(network))


@pytest.mark.slow  # torch.compile takes seconds to be imported
def test_what_torchs_wrappers_write(network: ResNet) -> None:
    """Compiled, averaged, in parallel and checkpointed: the names are torch's own."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    wrapped = random_network(26, 2, 4)
    wrapped.layer1 = torch.compile(wrapped.layer1)  # type: ignore[assignment]
    wrapped.layer2[0] = checkpoint_wrapper(wrapped.layer2[0])
    whole = torch.optim.swa_utils.AveragedModel(nn.DataParallel(torch.compile(wrapped)))
    names = dict(whole.named_parameters()) | dict(whole.named_buffers())  # with every wrapper
    assert "module.module._orig_mod.layer1._orig_mod.0.conv1.weight" in names
    assert any("layer2.0._checkpoint_wrapped_module.conv1" in name for name in names)
    for state in (names, whole.state_dict()):
        found = convert_to_native({name: tensor.detach() for name, tensor in state.items()})
        assert (found.left_out, found.prefix) == (("n_averaged",), "")
        check(found.state, network)


class Beheaded(nn.Module):
    """As U-Nets and pyramids of many projects hold a ResNet."""

    def __init__(self, network: ResNet, stem: str) -> None:
        super().__init__()
        parts = (network.conv1, network.bn1, network.relu, network.maxpool)
        setattr(self, stem, nn.Sequential(*parts))
        for index in range(1, 5):
            setattr(self, f"layer{index}", getattr(network, f"layer{index}"))


SEQUENTIALS: dict[str, Callable[[ResNet], nn.Module]] = {
    "without fc": lambda n: nn.Sequential(*list(n.children())[:-1]),
    "without pooling": lambda n: nn.Sequential(*list(n.children())[:-2]),
    "whole": lambda n: nn.Sequential(*n.children()),
    "one before": lambda n: nn.Sequential(nn.Identity(), *n.children()),
    "one within": lambda n: nn.Sequential(*list(n.children())[:6], nn.ReLU(), n.layer3, n.layer4),
    "without pool": lambda n: nn.Sequential(n.conv1, n.bn1, n.relu, *list(n.children())[4:8]),
    "another layer behind": lambda n: nn.Sequential(
        *list(n.children())[:-2], n.layer4, nn.Conv2d(2, 2, 1)
    ),
    "fastai's": lambda n: nn.Sequential(
        nn.Sequential(*list(n.children())[:-2]),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm1d(8), nn.Linear(8, 5)),
    ),
    "its stem as one": lambda n: nn.Sequential(
        nn.Sequential(n.conv1, n.bn1, n.relu, n.maxpool), n.layer1, n.layer2, n.layer3, n.layer4
    ),
    "layer0": lambda n: Beheaded(n, "layer0"),
    "stem": lambda n: Beheaded(n, "stem"),
    "layers": lambda n: nn.ModuleDict(
        {
            "conv1": n.conv1,
            "bn1": n.bn1,
            "stages": nn.ModuleList([n.layer1, n.layer2, n.layer3, n.layer4]),
        }
    ),
    "IntermediateLayerGetter": lambda n: torchvision.models._utils.IntermediateLayerGetter(
        n, {"layer4": "0"}
    ),
    "create_feature_extractor": lambda n: create_feature_extractor(n, ["layer4"]),
}


@pytest.mark.parametrize("prefix", ["", "backbone.", "model.features."])
@pytest.mark.parametrize("name", SEQUENTIALS)
def test_numbers_for_names(network: ResNet, name: str, prefix: str) -> None:
    found = convert_to_native(put_under(prefix, SEQUENTIALS[name](network).state_dict()))
    check(found.state, network)
    assert found.prefix.startswith(prefix)


def test_its_features_are_the_networks(network: ResNet, tmp_path: Path) -> None:
    """The same images give the same features, read through a file."""
    body = nn.Sequential(nn.Sequential(*list(network.children())[:-2]), nn.Linear(3, 3))
    model = ResNeXt(THIN, out_features=STAGES).eval()
    report = load_weights(model, save({"model": body.state_dict()}, tmp_path))
    assert report.left_out == ("1.weight", "1.bias")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found = model(images)
        for stage, wanted in features(network, images).items():
            torch.testing.assert_close(found[stage], wanted, rtol=1e-4, atol=1e-5)


def test_an_activation_with_weights_between_the_numbers_is_told(network: ResNet) -> None:
    parts = list(network.children())
    state = nn.Sequential(*parts[:2], nn.PReLU(), *parts[3:8]).state_dict()
    with pytest.raises(ValueError, match=r"'2\.weight' is no name of torchvision's ResNeXt"):
        convert_to_native(state)


# --- several


def make_pair(network: ResNet, other: ResNet) -> State:
    return {
        **put_under("student.backbone.", network.state_dict()),
        **put_under("teacher.module.backbone.", other.state_dict()),
        "loss.center": torch.ones(3),
    }


def test_several_networks_are_named_and_the_prefix_chooses(
    network: ResNet, other: ResNet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(make_pair(network, other), tmp_path)
    with pytest.raises(ValueError) as caught:
        read_weights(path)
    assert str(caught.value) == (
        f"weights {path}: there are several networks among the weights: 'student.backbone.' "
        "(X-26-2x4d), 'teacher.backbone.' (X-26-4x4d); choose one: --prefix student.backbone., or "
        "read_weights(path, prefix=...)"
    )
    for prefix in ("teacher.backbone.", "teacher.module.backbone", "teacher"):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            file = read_weights(path, prefix=prefix)
        check(file.state, other)
        assert file.prefix == "teacher.backbone."
        assert len(file.left_out) == len(network.state_dict()) + 1
        assert "the network under the prefix 'teacher.backbone.' is read" in caplog.text
    with pytest.raises(ValueError) as caught:
        read_weights(path, prefix="backbone.")
    assert (
        "there is no network under the prefix 'backbone.'; there are 'student.backbone.' "
        "(X-26-2x4d), 'teacher.backbone.' (X-26-4x4d)" in str(caught.value)
    )


def test_of_several_networks_a_usable_one_is_advised(network: ResNet) -> None:
    basic = ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], 5).state_dict()
    several = {**put_under("a.", basic), **put_under("b c.", network.state_dict())}
    with pytest.raises(ValueError, match=r"'a\.' \(no ResNeXt\).*: --prefix 'b c\.', or"):
        convert_to_native(several)
    several = {**put_under("a.", basic), **put_under("b.", basic)}
    with pytest.raises(ValueError, match=r"several networks .* none is usable.* of basic blocks"):
        convert_to_native(several)


@pytest.mark.parametrize("part", ["", "conv1."])
def test_folded_norms_are_told(part: str, network: ResNet) -> None:
    """Those of the whole network, or of its first convolution alone."""
    state = {}
    for name, tensor in network.state_dict().items():
        if name.startswith(part) and name.endswith("weight") and tensor.dim() == 4:
            state[f"{name.removesuffix('weight')}bias"] = torch.ones(len(tensor))
        if tensor.dim() > 1 or name.startswith("fc.") or (part and not name.startswith("bn1.")):
            state[name] = tensor
    with pytest.raises(ValueError, match=r"conv1\.bias stands in place of a norm: .* \(fused"):
        convert_to_native(state)


def test_detectors_among_several(other: ResNet) -> None:
    """As Unbiased Teacher's checkpoints, which hold two of detectron2's detectors."""
    whole = detector(*DC5).state_dict()
    state = {
        **put_under("modelTeacher.", whole),
        **put_under("modelStudent.", {name: tensor + 1 for name, tensor in whole.items()}),
    }
    with pytest.raises(ValueError, match=r"'modelTeacher.' \(a detector of X-26-4x8d\), 'modelSt"):
        convert_to_native(state)
    found = convert_to_native(state, "modelTeacher.")
    assert (found.format, found.prefix) == ("detector", "modelTeacher.")
    assert same_bits(found.state, whole)
    assert len(found.left_out) == len(whole)


@pytest.mark.parametrize(
    "copy", ["ema_model.module.", "model_ema.", "module_ema.", "encoder_k.", "backbone_momentum."]
)
def test_copies_that_a_training_keeps_are_left_out(
    network: ResNet, other: ResNet, copy: str
) -> None:
    state = {
        **put_under(copy, other.state_dict()),
        **put_under("encoder_q.", network.state_dict()),
        "queue": torch.ones(2),
    }
    found = convert_to_native(state)
    check(found.state, network)
    assert (found.prefix, found.passed_over) == ("encoder_q.", (copy.replace(".module.", "."),))
    check(convert_to_native(state, copy).state, other)


def test_copies_are_told(
    network: ResNet, other: ResNet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = put_under("encoder_k.", other.state_dict())
    state |= put_under("encoder_q.", network.state_dict())
    both = {"state_dict": state, "ema_state_dict": state, "optimizer": {}}
    for word, prefixed in (("model", {"model": network.state_dict()}), ("encoder", both)):
        prefixed |= {"swa_weights": other.state_dict(), "heads": {"0.weight": torch.ones(2, 2)}}
        with caplog.at_level(logging.INFO):
            file = read_weights(save(prefixed, tmp_path))
        first, *others = file.passed_over
        if word == "model":
            assert (first, others) == ("'swa_weights'", [])
        else:
            assert first == "'ema_state_dict'"
            assert others[-1] == "'encoder_k.' (--prefix encoder_k. chooses it)"
        assert ", ".join(file.passed_over) in caplog.text
        page = format_diagnoses([diagnose(file.path)], Look(100))
        assert "passed over     other networks of the file: " + first in page


def test_a_module_under_two_names_is_one_network(network: ResNet, tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.resnet = network
            self.features = nn.Sequential(*list(network.children())[:-2])

    file = read_weights(save(Twice().state_dict(), tmp_path))
    check(file.state, network)
    assert file.prefix == "resnet."


# --- heads


def replace_head(network: ResNet, **heads: nn.Module) -> State:
    trunk = {n: t for n, t in network.state_dict().items() if not n.startswith("fc.")}
    return {
        **trunk,
        **{f"{n}.{k}": t for n, head in heads.items() for k, t in head.state_dict().items()},
    }


HEADS: dict[str, dict[str, nn.Module]] = {
    "fc of several": {"fc": nn.Sequential(nn.Dropout(), nn.Linear(2048, 3))},
    "classifier": {"classifier": nn.Linear(2048, 3)},
    "linear": {"linear": nn.Linear(2048, 3)},
    "head": {"head": nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))},
    "projection": {"projection_head": nn.Linear(2, 2), "aux": nn.Conv2d(2, 2, 3)},
    "a convolution": {"fc": nn.Conv2d(2048, 3, 1)},
    "two": {"fc": nn.Linear(2048, 3), "last_linear": nn.Linear(2048, 4)},
    "a fifth stage": {"layer5": nn.Sequential(nn.Conv2d(3, 3, 3)), "conv6": nn.Conv2d(3, 3, 3)},
    "a pyramid": {"neck": nn.ModuleList([nn.Conv2d(2, 2, 1)]), "bbox_head": nn.Linear(2, 2)},
}


@pytest.mark.parametrize("prefix", ["", "model.", "a.b."])
@pytest.mark.parametrize("name", HEADS)
def test_a_head_of_any_name_is_left_out(
    network: ResNet, name: str, prefix: str, tmp_path: Path
) -> None:
    from resnext_det.classification.weights import load_classifier

    state = put_under(prefix, replace_head(network, **HEADS[name]))
    file = read_weights(save(state, tmp_path))
    check(file.state, network)
    heads = [n for n in state if n.removeprefix(prefix).startswith(tuple(HEADS[name]))]
    assert sorted(file.left_out) == sorted(heads)
    with pytest.raises(
        ValueError, match=r"is a backbone without a classifier \(.* were left out"
    ) as e:
        load_classifier(file)
    assert heads[0] in str(e.value)


@pytest.mark.parametrize("name", ["fc", "last_linear", "head.fc"])
@pytest.mark.parametrize("prefix", ["", "net.student."])
def test_one_linear_layer_of_a_known_name_is_the_classifier(
    network: ResNet, name: str, prefix: str
) -> None:
    from_fc = {n.replace("fc.", f"{name}."): t for n, t in network.state_dict().items()}
    found = convert_to_native({**put_under(prefix, from_fc), "x": torch.ones(1)})
    assert torch.equal(found.state["linear.weight"], network.fc.weight)
    assert found.left_out == ("x",)


def test_a_head_beside_the_backbone(network: ResNet) -> None:
    state = put_under("student.backbone.", replace_head(network))
    state |= {"student.fc.weight": torch.ones(3, 8), "student.fc.bias": torch.ones(3)}
    assert len(convert_to_native(state).state["linear.bias"]) == 3


def test_the_head_of_our_names_too(network: ResNet) -> None:
    extra = {"head.0.weight": torch.ones(2, 2), "fpn_lateral2.weight": torch.ones(2)}
    found = convert_to_native({**detectron2_state(network), **extra})
    assert found.left_out == tuple(extra)


# --- hostile and large


def test_many_and_long_names_take_no_time(network: ResNet) -> None:
    one = torch.ones(1)
    state = dict(network.state_dict())
    state |= {f"head.{index}.conv1.weight": one for index in range(20_000)}
    state |= {f"x{index}.layer1.0.conv1.weight": one for index in range(10_000)}
    state |= {f"y{index}.conv1.weight": one for index in range(10_000)}
    state |= {
        "module." * 50_000 + "a.conv1.weight": one,
        "a" + "layer1." * 50_000 + "conv1.weight": one,
    }
    state |= {"a" * 500_000 + ".0.conv1.weight": one, "1." * 100_000 + "0.conv1.weight": one}
    state |= {"x." * 100_000 + name: tensor for name, tensor in list(state.items())[:3]}
    begin = time.process_time()
    check(convert_to_native(state).state, network)
    assert time.process_time() - begin < 20  # it takes about 1 second


def test_thousands_of_networks_are_not_all_described() -> None:
    one = torch.ones(1)
    state = {
        f"{'n' * 200}{index}.{name}": one
        for index in range(2000)
        for name in ("conv1.weight", "layer1.0.conv1.weight")
    }
    with pytest.raises(ValueError, match=r"there are several networks .* and 1994 more") as caught:
        convert_to_native(state)
    assert len(str(caught.value)) < 1500


def test_a_deep_prefix_takes_no_time(network: ResNet) -> None:
    prefix = "a." * 20_000
    state: Any = put_under(prefix, dict(network.state_dict()))
    state |= {f"b{index}": torch.ones(1) for index in range(300)}
    begin = time.process_time()
    check(convert_to_native(state).state, network)
    assert time.process_time() - begin < 20


def test_a_detector_of_two_backbones_is_one(network: ResNet) -> None:
    heads = {"roi_heads.box_head.fc1.weight": torch.ones(1)}
    pair = {
        **put_under("backbone.rgb.", detectron2_state(network)),
        **put_under("backbone.depth.", detectron2_state(network)),
    }
    found = convert_to_native({**pair, **heads})
    assert (found.format, found.prefix, found.left_out) == ("detector", "", ())
    assert set(found.state) == {*pair, *heads}
    found = convert_to_native(put_under("model.", {**pair, **heads}) | {"loss.w": torch.ones(1)})
    assert (found.format, found.prefix, found.left_out) == ("detector", "model.", ("loss.w",))
