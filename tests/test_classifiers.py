"""Networks of the paper that no detector has: for small images, and without shortcuts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.resnet import Bottleneck

from resnext_det.architecture import Architecture
from resnext_det.forms import convert
from resnext_det.resnext import ResNeXt, ResNeXtClassifier
from tests.test_architecture import PUBLISHED
from tests.test_resnext import load, randomize

SMALL_IMAGES = Architecture(29, 4, 16)


class CifarNetwork(nn.Module):
    """models/resnext.lua of the ResNeXt repository, with torchvision's blocks."""

    def __init__(self, blocks: int, groups: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for number, planes in enumerate((64, 128, 256), start=1):
            layers = []
            for index in range(blocks):
                stride = 2 if index == 0 and number > 1 else 1
                projection = None
                if channels != 4 * planes:
                    convolution = nn.Conv2d(channels, 4 * planes, 1, stride, bias=False)
                    projection = nn.Sequential(convolution, nn.BatchNorm2d(4 * planes))
                layers.append(Bottleneck(channels, planes, stride, projection, groups, width))
                channels = 4 * planes
            self.add_module(f"layer{number}", nn.Sequential(*layers))
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(F.avg_pool2d(x, 8).flatten(1))


@pytest.mark.parametrize("training", [False, True])
def test_the_network_for_small_images_is_the_repositorys(training: bool) -> None:
    theirs = randomize(CifarNetwork(3, 4, 16, 10)).double().train(training)
    ours = ResNeXtClassifier(SMALL_IMAGES, 10).double().train(training)
    load(ours, theirs)
    images = torch.randn(
        3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    expected = theirs(images)
    assert (ours(images) - expected).abs().max() < 1e-10 * expected.abs().max()


def test_maps_of_the_network_for_small_images() -> None:
    network = ResNeXt(SMALL_IMAGES, norm="BN", out_features=("stem", "res2", "res3", "res4"))
    sizes = {
        name: tuple(map_.shape[1:]) for name, map_ in network(torch.zeros(1, 3, 32, 32)).items()
    }
    assert sizes == {
        "stem": (64, 32, 32),
        "res2": (256, 32, 32),
        "res3": (512, 16, 16),
        "res4": (1024, 8, 8),
    }
    assert network.out_strides == {"stem": 1, "res2": 1, "res3": 2, "res4": 4}
    with pytest.raises(ValueError, match=r"res5.*some of stem, res2, res3, res4$"):
        ResNeXt(SMALL_IMAGES, out_features=("res5",))


@pytest.mark.parametrize("form", ["A", "B", "C"])
@pytest.mark.parametrize("name", ["X-26-4x8d-plain", "X-29-2x8d-plain"])
def test_a_plain_network_is_a_chain_of_convolutions(name: str, form: str) -> None:
    network = ResNeXtClassifier(Architecture.parse(name), 10).double()
    assert not [key for key in network.state_dict() if "shortcut" in key]
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    x = network.stem(images)
    for name in network.stage_names:
        for block in network.get_submodule(name):
            for layer in (block.conv1, block.conv2, block.conv3):
                convolved = F.conv2d(
                    x, layer.weight, None, layer.stride, layer.padding, 1, layer.groups
                )
                x = F.relu(
                    F.batch_norm(convolved, None, None, layer.norm.weight, layer.norm.bias, True)
                )
    expected = network.linear(x.mean((2, 3)))
    assert (convert(network, form)(images) - expected).abs().max() < 1e-10


OTHERS = ["X-29-8x64d", "X-29-16x64d", "X-50-32x4d-plain", "R-50-plain", "X-29-4x8d-plain", "R-200"]


@pytest.mark.parametrize("name", [*(name for name, *_ in PUBLISHED), *OTHERS])
def test_counts_are_those_of_the_modules_and_of_torch(name: str) -> None:
    """Torch's counter is right in the forward pass, with groups too."""
    architecture = Architecture.parse(name)
    size, classes = (32, 10) if architecture.for_small_images else (224, 1000)
    with torch.device("meta"):
        network = ResNeXtClassifier(architecture, classes).eval()
        images = torch.zeros(1, 3, size, size)
    assert architecture.num_parameters(classes) == sum(
        values.numel() for values in network.parameters()
    )
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    assert 2 * architecture.multiply_adds(size, size, classes) == counter.get_total_flops()
