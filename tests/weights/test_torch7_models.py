"""torchvision's networks, written as the paper's Torch 7 code builds them, get our names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.resnet import Bottleneck, ResNet

from resnext_det.architecture import Architecture
from resnext_det.resnext import ResNeXtClassifier
from resnext_det.weights.torch7 import read_torch7
from resnext_det.weights.torch7_models import convert_torch7_network
from tests.weights.foreign_names import randomize
from tests.weights.torch7_writer import Module, build_torch7_network, make_sequential, write_torch7


def convert(folder: Path, network: Any) -> dict[str, Tensor]:
    """Write a network as a Torch 7 file, read it and convert it."""
    path = folder / "a.t7"
    path.write_bytes(write_torch7(network))
    return convert_torch7_network(read_torch7(path))


def random_network(*, groups: int = 4, width: int = 16) -> ResNet:
    torch.manual_seed(0)
    network = ResNet(Bottleneck, [1, 2, 1, 1], num_classes=5, groups=groups, width_per_group=width)
    randomize(network)
    return network.eval()


@pytest.mark.parametrize("form", ["B", "C"])
@pytest.mark.parametrize("matrices", [False, True])
def test_a_network_of_the_papers_code(tmp_path: Path, form: str, matrices: bool) -> None:
    network = random_network()
    state = convert(tmp_path, build_torch7_network(network, form=form, matrices=matrices))
    theirs = network.state_dict()
    assert torch.equal(state["res3.1.conv2.weight"], theirs["layer2.1.conv2.weight"])
    assert torch.equal(
        state["res4.0.shortcut.norm.running_var"], theirs["layer3.0.downsample.1.running_var"]
    )
    assert len(state) == len([name for name in theirs if not name.endswith("num_batches_tracked")])


def test_its_outputs_are_the_networks(tmp_path: Path) -> None:
    """Form B at full width and 50 layers, in form C."""
    torch.manual_seed(0)
    network = ResNet(Bottleneck, [3, 4, 6, 3], groups=32, width_per_group=4).eval()
    made = {"model": make_sequential(build_torch7_network(network, form="B"))}
    ours = ResNeXtClassifier(Architecture.parse("X-50-32x4d")).eval()
    missing, unexpected = ours.load_state_dict(convert(tmp_path, made), strict=False)
    assert unexpected == []
    assert all(name.endswith("num_batches_tracked") for name in missing)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), network(images), rtol=1e-4, atol=1e-5)


def convolution_and_norm(module: Module) -> tuple[Module, Module]:
    return module.fields["modules"][0], module.fields["modules"][1]


def test_old_norms_epsilons_and_biases_compute_the_same(tmp_path: Path) -> None:
    """As Torch computes (x + bias - mean) / sqrt(var + eps), in float64."""
    made = build_torch7_network(random_network())
    convolution, norm = convolution_and_norm(made)
    plain = {
        name: tensor.double() for name, tensor in norm.fields.items() if isinstance(tensor, Tensor)
    }
    bias = torch.linspace(-1, 1, 64).double()
    norm.fields |= {
        "eps": 1e-3,
        "running_var": plain["running_var"],
        "running_mean": plain["running_mean"],
    }
    convolution.fields["bias"] = bias
    x = torch.randn(10, 64).double()
    wanted = (x + bias - plain["running_mean"]) / (plain["running_var"] + 1e-3).sqrt()
    state = convert(tmp_path, made)
    mean, variance = state["stem.conv1.norm.running_mean"], state["stem.conv1.norm.running_var"]
    torch.testing.assert_close(
        (x - mean) / (variance + 1e-5).sqrt(), wanted, rtol=1e-12, atol=1e-12
    )
    norm.fields["running_std"] = (norm.fields.pop("running_var") + 1e-3).pow(-0.5)
    state = convert(tmp_path, made)
    torch.testing.assert_close(state["stem.conv1.norm.running_var"], variance, rtol=1e-12, atol=0)


def break_network(made: Module, how: str) -> Any:
    parts = made.fields["modules"]
    convolution, norm = convolution_and_norm(made)
    block = parts[4].fields["modules"][0]
    if how == "no head":
        return make_sequential(*parts[:-1])
    if how == "a table":
        return {"a": 1}
    if how == "a tensor":
        return torch.ones(3)
    if how == "no block":
        parts[4] = make_sequential(convolution, norm)
    elif how == "a third path":
        block.fields["modules"][0].fields["modules"].append(Module("nn.Identity", {}))
    elif how == "no norm":
        del block.fields["modules"][0].fields["modules"][0].fields["modules"][1]
    elif how == "no running_mean":
        del norm.fields["running_mean"]
    elif how == "of other channels":
        norm.fields["weight"] = torch.ones(63)
    elif how == "no Linear":
        parts[-1].class_name = "nn.Bilinear"
    elif how == "a text as weight":
        convolution.fields["weight"] = "a"
    elif how == "a matrix of another size":
        convolution.fields["weight"] = torch.ones(64, 146)
    elif how == "itself":
        parts[:] = [made]
    elif how == "2**40 ways to one module":
        for _ in range(40):
            made = make_sequential(made, made)
    return made


HOWS = (
    *("no head", "a table", "a tensor", "no block", "a third path", "no norm", "no running_mean"),
    *("of other channels", "no Linear", "a text as weight", "a matrix of another size", "itself"),
    "2**40 ways to one module",
)


@pytest.mark.parametrize("how", HOWS)
def test_another_network_is_an_error(tmp_path: Path, how: str) -> None:
    made = break_network(build_torch7_network(random_network()), how)
    with pytest.raises(ValueError, match="no ResNet or ResNeXt for ImageNet: "):
        convert(tmp_path, made)


def test_small_files_that_would_become_large_networks(tmp_path: Path) -> None:
    """Form B with one tensor that every group refers to."""
    made = build_torch7_network(random_network(groups=32, width=4), form="B")
    paths = made.fields["modules"][4].fields["modules"][0].fields["modules"][0].fields["modules"][0]
    table = paths.fields["modules"][0]
    large = torch.zeros(4, 1 << 18, 1, 1)
    for group in table.fields["modules"]:
        group.fields["modules"][0].fields["weight"] = large
    with pytest.raises(ValueError, match="elements in all groups"):
        convert(tmp_path, made)
