"""Networks told from the shapes of their weights, and a detector's backbone among its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor

from resnext_det.architecture import BLOCKS_PER_STAGE, DETECTION_DEPTHS, Architecture
from resnext_det.detection.portable.build import build_detector
from resnext_det.resnext import ResNeXt, ResNeXtClassifier
from resnext_det.weights.structure import (
    extract_detector_backbone,
    find_architecture,
    guess_architecture,
)
from tests.weights.helpers import HEADS, SMALL, configuration, rename_torchvision

State = dict[str, Tensor]


def build_on_meta(build: Callable[..., torch.nn.Module], *arguments: Any, **options: Any) -> State:
    """The names and shapes of a network's weights, without memory."""
    with torch.device("meta"):
        return dict(build(*arguments, **options).state_dict())


@pytest.mark.parametrize(
    ("network", "name"),
    [
        ("resnet50", "R-50"),
        ("resnet101", "R-101"),
        ("resnet152", "R-152"),
        ("resnext50_32x4d", "X-50-32x4d"),
        ("resnext101_32x8d", "X-101-32x8d"),
        ("resnext101_64x4d", "X-101-64x4d"),
        ("wide_resnet50_2", "X-50-1x128d"),
        ("wide_resnet101_2", "X-101-1x128d"),
    ],
)
def test_torchvision_networks_are_recognized(network: str, name: str) -> None:
    state = rename_torchvision(build_on_meta(torchvision.models.get_model, network))
    assert str(find_architecture(state)) == name
    assert guess_architecture(
        {key: tensor for key, tensor in state.items() if "norm" not in key}
    ) == find_architecture(state)


@pytest.mark.parametrize(
    "network", ["resnext50_32x4d", "resnext101_32x4d", "resnet26", "resnet200"]
)
def test_timm_networks_are_recognized(network: str) -> None:
    arguments = {"resnet200": {"layers": [3, 24, 36, 3]}, "resnet26": {"layers": [2, 2, 2, 2]}}
    if network in arguments:
        state = build_on_meta(
            timm.models.resnet.ResNet, timm.models.resnet.Bottleneck, **arguments[network]
        )
    else:
        state = build_on_meta(timm.create_model, network)
    assert guess_architecture(rename_torchvision(state)) == Architecture.parse(network)


@pytest.mark.parametrize("depth", DETECTION_DEPTHS)
@pytest.mark.parametrize(
    ("template", "end", "prefix"),
    [
        ((1, 64, 64, 256), "res4", "backbone."),
        ((32, 4, 64, 256), "res5", "backbone.bottom_up."),
        ((3, 7, 5, 11), "res5", "bottom_up."),
        ((2, 40, 32, 128), "res4", ""),
    ],
)
def test_backbones_are_recognized(
    depth: int, template: tuple[int, ...], end: str, prefix: str
) -> None:
    architecture = Architecture(depth, *template)
    state = build_on_meta(
        ResNeXt, architecture, out_features=(end,), in_channels=len(prefix) + 1, norm="BN"
    )
    assert (
        guess_architecture({f"{prefix}{name}": tensor for name, tensor in state.items()})
        == architecture
    )


@pytest.mark.parametrize("shortcuts", [True, False])
@pytest.mark.parametrize("depth", BLOCKS_PER_STAGE)
def test_classifiers_are_recognized(depth: int, shortcuts: bool) -> None:
    architecture = Architecture(depth, 8, 4, shortcuts=shortcuts)
    state = build_on_meta(ResNeXtClassifier, architecture, 10)
    assert find_architecture(state) == architecture


@pytest.mark.parametrize("head", HEADS)
def test_a_detector_has_its_backbone(head: str) -> None:
    cfg = configuration(*HEADS[head])
    model = build_detector(cfg)
    state = model.state_dict()
    assert guess_architecture(state) == SMALL
    backbone = extract_detector_backbone(state)
    assert list(backbone) == list(build_on_meta(ResNeXt, SMALL, out_features=("res5",)))
    for name, tensor in backbone.items():
        places = [
            f"{prefix}{name}" for prefix in ("backbone.bottom_up.", "backbone.", "roi_heads.")
        ]
        assert [place for place in places if place in state and state[place] is tensor]


def change(**changes: tuple[int, ...] | None) -> State:
    """A small network's weights with others of another shape, more, or (None) fewer."""
    state = build_on_meta(ResNeXtClassifier, SMALL)
    for name, shape in changes.items():
        name = name.replace("__", ".")
        if shape is None:
            del state[name]
        else:
            state[name] = torch.empty(shape, device="meta")
    return state


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({}, "no stem.conv1.weight"),
        (
            {"conv1.weight": torch.empty(64, 3, 7, 7)},
            "no stem.conv1.weight.*first name 'conv1.weight'",
        ),
        ({"stem.conv1.weight": torch.empty(64, 3, 7, 7)}, "have no blocks"),
        (
            rename_torchvision(build_on_meta(torchvision.models.resnet18)),
            r"basic blocks of two convolutions \(ResNet-18\), which is not supported; give those",
        ),
        (
            rename_torchvision(build_on_meta(torchvision.models.resnet34)),
            r"basic blocks of two convolutions \(ResNet-34\)",
        ),
        (
            rename_torchvision(build_on_meta(timm.create_model, "resnet50d")),
            "lack stem.conv1.weight|no stem.conv1.weight",
        ),
        (
            rename_torchvision(build_on_meta(timm.create_model, "seresnext50_32x4d")),
            r"with squeeze-and-excitation \(SE\): it has 'res2.0.se.",
        ),
        (
            rename_torchvision(build_on_meta(timm.create_model, "res2net50_26w_4s")),
            r"convolutions over parts of the channels \(Res2Net\)",
        ),
        (change(res5__1__conv4__weight=(18, 256, 3, 3)), "res5.1.conv4.weight"),
        (change(res4__1__conv2__weight=None), "lack res4.1.conv2.weight"),
        (change(res3__0__shortcut__weight=None), "lack res3.0.shortcut.weight"),
        (change(res3__1__shortcut__weight=(64, 64, 1, 1)), "res3.1.shortcut.weight, where"),
        (change(stem__conv1__weight=(8, 3, 3, 3)), "3x3, where that of a ResNeXt-26 is 7x7"),
        (change(res2__0__conv2__weight=(32, 7, 3, 3)), "groups of 7; these do not divide"),
        (change(res3__1__conv2__weight=(64, 64, 3, 3)), "of no ResNeXt of one template"),
        (change(res2__2__conv1__weight=(32, 32, 1, 1)), "3-2-2-2 blocks.*50: 3-4-6-3"),
        (change(res2__7__conv1__weight=(32, 32, 1, 1)), "lack some of the blocks of res2"),
        (change(res2__0__conv2__weight=(32, 0, 3, 3)), "no weight of a convolution"),
        (change(res2__0__conv2__weight=()), "no weight of a convolution"),
        (change(stem__conv1__weight=(8, 3, 7)), r"of 1D convolutions \(stem.conv1.weight is \(8"),
        (change(stem__conv1__weight=(8, 3)), "no weight of a convolution"),
    ],
)
def test_other_networks_are_not(state: State, reason: str) -> None:
    assert guess_architecture(state) is None
    with pytest.raises(ValueError, match=reason):
        find_architecture(state)


def test_a_depth_that_two_stages_do_not_tell() -> None:
    state = build_on_meta(ResNeXt, Architecture(50, 32, 4), out_features=("res3",))
    with pytest.raises(ValueError, match="have 3-4 blocks"):
        find_architecture(state)


def test_one_weight_in_two_places() -> None:
    state = build_on_meta(ResNeXt, SMALL, out_features=("res5",))
    twice = {
        f"{prefix}{name}": tensor
        for prefix in ("backbone.", "bottom_up.")
        for name, tensor in state.items()
    }
    with pytest.raises(
        ValueError, match=r"stem.conv1.weight in two places, the second is bottom_up"
    ):
        extract_detector_backbone(twice)
