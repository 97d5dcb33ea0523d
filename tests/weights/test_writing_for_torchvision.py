"""torchvision's own networks load what is written for them strictly and compute the same."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from resnext_det.architecture import Architecture
from resnext_det.detection.portable.build import build_detector
from resnext_det.resnext import ResNeXt, ResNeXtClassifier
from resnext_det.weights.file import read_weights
from resnext_det.weights.preprocessing import KNOWN
from resnext_det.weights.writing import write_weights
from tests.weights.helpers import (
    HEADS,
    THIN,
    TORCHVISION,
    classifier,
    configuration,
    drop_counters,
    fill_randomly,
    rename_torchvision,
    same_bits,
    torchvision_network,
)


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_torchvision_computes_our_features(norm: str, tmp_path: Path) -> None:
    model = classifier(norm=norm)
    write_weights(model, tmp_path / "weights.pth", "torchvision", preprocessing=TORCHVISION)
    network = torchvision_network().eval()
    network.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(network(images), model(images), rtol=1e-4, atol=1e-5)


def test_without_a_classifier_torchvision_has_an_identity_there(tmp_path: Path) -> None:
    backbone = fill_randomly(ResNeXt(THIN, out_features=("res5",)))
    write_weights(backbone, tmp_path / "weights.pth", "torchvision", preprocessing=TORCHVISION)
    network: Any = torchvision_network()
    network.fc = nn.Identity()
    network.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))


def test_counters_are_kept_where_there_are_some(tmp_path: Path) -> None:
    model = ResNeXtClassifier(THIN, num_classes=7, norm="BN").train()
    model(torch.randn(2, 3, 64, 64))
    write_weights(model, tmp_path / "theirs.pth", "torchvision", preprocessing=TORCHVISION)
    theirs = torch.load(tmp_path / "theirs.pth", weights_only=True)
    assert {int(theirs[name]) for name in theirs if name.endswith("num_batches_tracked")} == {1}
    write_weights(model, tmp_path / "ours.pth", "native", preprocessing=TORCHVISION)
    assert not [name for name in read_weights(tmp_path / "ours.pth").state if "num_batches" in name]


@pytest.mark.parametrize("source", ["fair", "msra"])
def test_torchvision_weights_are_made_for_its_preprocessing(source: str, tmp_path: Path) -> None:
    """BGR in 0-255 with our weights gives what RGB in torchvision's scale gives with theirs."""
    preprocessing = replace(KNOWN[source], stride_in_1x1=False)
    model = classifier()
    write_weights(model, tmp_path / "weights.pth", "torchvision", preprocessing=preprocessing)
    network = torchvision_network().eval()
    network.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    rgb = torch.randint(0, 256, (2, 3, 64, 64)).float()

    def normalized(images: Tensor, mean: Any, std: Any) -> Tensor:
        return torchvision.transforms.functional.normalize(images, list(mean), list(std))

    with torch.no_grad():
        expected = model(normalized(rgb.flip(1), preprocessing.mean, preprocessing.std))
        features = network(normalized(rgb / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    assert torch.allclose(features, expected, rtol=1e-3, atol=1e-4)


def test_channels_alone_are_swapped_to_the_last_bit(tmp_path: Path) -> None:
    mean, std = TORCHVISION.mean[::-1], TORCHVISION.std[::-1]
    preprocessing = replace(TORCHVISION, channel_order="BGR", mean=mean, std=std)
    model = classifier()
    write_weights(model, tmp_path / "weights.pth", "torchvision", preprocessing=preprocessing)
    state = rename_torchvision(torch.load(tmp_path / "weights.pth", weights_only=True))
    state["stem.conv1.weight"] = state["stem.conv1.weight"].flip(1)
    assert same_bits(drop_counters(state), drop_counters(model.state_dict()))


def test_folded_norms_are_right_in_evaluation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = classifier(norm="FrozenBN")
    for name, tensor in model.state_dict().items():
        if "running" in name:
            tensor.fill_(float("var" in name))
    folded = replace(TORCHVISION, batch_norm="folded")
    with caplog.at_level(logging.WARNING):
        write_weights(model, tmp_path / "weights.pth", "torchvision", preprocessing=folded)
    assert "folded into scale and bias" in caplog.text
    assert "evaluation (eval()) alone" in caplog.text
    network = torchvision_network().eval()
    network.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(network(images), model(images), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(network.train()(images), model(images), rtol=0.1)


def other(architecture: Architecture, **options: Any) -> nn.Module:
    return ResNeXtClassifier(architecture, num_classes=2, **options)


@pytest.mark.parametrize(
    ("model", "preprocessing", "reason"),
    [
        (lambda: classifier(), None, "preprocessing of these weights is not known"),
        (
            lambda: classifier(),
            KNOWN["msra"],
            "STRIDE_IN_1X1 True.*torchvision's ResNet has it in the 3x3",
        ),
        (lambda: classifier(), KNOWN["detectron1"], "for which no weights make up; write another"),
        (lambda: other(Architecture(26, 2, 4, 32)), TORCHVISION, "have 32, 256 and 3 channels"),
        (lambda: other(Architecture(26, 2, 4, 64, 64)), TORCHVISION, "have 64, 64 and 3 channels"),
        (lambda: other(THIN, in_channels=4), TORCHVISION, "have 64, 256 and 4 channels"),
        (
            lambda: other(Architecture(26, 8, 4), norm="GN"),
            TORCHVISION,
            "has no running_mean, so it is no batch norm",
        ),
        (lambda: other(THIN, norm=""), TORCHVISION, "has no weight, so it is no batch norm"),
        (lambda: ResNeXt(THIN), TORCHVISION, "end before res5"),
        (
            lambda: build_detector(configuration(*HEADS["FPN"])),
            TORCHVISION,
            "detector's.*--backbone-only",
        ),
        (lambda: nn.Linear(3, 3), TORCHVISION, "no stem.conv1.weight"),
    ],
)
def test_what_torchvision_has_no_network_for(
    model: Any, preprocessing: Any, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=reason):
        write_weights(model(), tmp_path / "weights.pth", "torchvision", preprocessing=preprocessing)
    assert list(tmp_path.iterdir()) == []


def test_a_strange_weight_is_refused(tmp_path: Path) -> None:
    state = {**classifier().state_dict(), "stem.fc.bias": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"has nothing for 'stem\.fc\.bias'"):
        write_weights(state, tmp_path / "weights.pth", "torchvision", preprocessing=TORCHVISION)
