"""torchvision's networks with random numbers, and their weights under other libraries' names, by
walking the modules and not by renaming."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

DEPTHS = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
KEYS = ("weight", "bias", "running_mean", "running_var")


def put_under(prefix: str, *states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put a prefix before all names, and the states together."""
    return {f"{prefix}{name}": tensor for state in states for name, tensor in state.items()}


def random_network(
    depth: int,
    groups: int = 32,
    width: int = 4,
    stride_in_1x1: bool = False,
    num_classes: int = 5,
) -> ResNet:
    """Make a ResNet of torchvision in evaluation, with statistics like those of a trained one."""
    torch.manual_seed(depth + groups)
    network = ResNet(
        Bottleneck,
        list(DEPTHS[depth]),
        num_classes=num_classes,
        groups=groups,
        width_per_group=width,
    )
    randomize(network)
    if stride_in_1x1:
        for block in (block for block in network.modules() if isinstance(block, Bottleneck)):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    return network.eval()


def randomize(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.uniform_(module.weight, 0.5, 1.2)
            nn.init.uniform_(module.bias, -0.3, 0.3)
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            if module.num_batches_tracked is not None:
                module.num_batches_tracked.fill_(7)


@torch.no_grad()
def features(network: Any, images: Tensor) -> dict[str, Tensor]:
    """res4 and res5 of a network of torchvision or timm."""
    x = network.maxpool(torch.relu(network.bn1(network.conv1(images))))
    res4 = network.layer3(network.layer2(network.layer1(x)))
    return {"res4": res4, "res5": network.layer4(res4)}


def blocks(network: ResNet) -> Iterator[tuple[int, int, Bottleneck]]:
    """Stage from 1, block from 0, and the block."""
    for stage in (1, 2, 3, 4):
        for index, block in enumerate(getattr(network, f"layer{stage}")):
            yield stage, index, block


def _norm(name: str, norm: nn.Module, *, counters: bool = True) -> dict[str, Tensor]:
    keys = (*KEYS, "num_batches_tracked") if counters else KEYS
    return {f"{name}.{key}": getattr(norm, key).detach().clone() for key in keys}


def mmpretrain_state(network: ResNet) -> dict[str, Tensor]:
    """An ImageClassifier's: backbone.* and head.fc.*."""
    own = network.state_dict()
    state = {
        f"backbone.{name}": tensor for name, tensor in own.items() if not name.startswith("fc.")
    }
    return {**state, "head.fc.weight": own["fc.weight"], "head.fc.bias": own["fc.bias"]}


def pycls_state(network: ResNet) -> dict[str, Tensor]:
    """As ``pycls/models/resnet.py`` and ``anynet.py`` name their modules."""
    state = {"stem.conv.weight": network.conv1.weight.detach(), **_norm("stem.bn", network.bn1)}
    for stage, index, block in blocks(network):
        name = f"s{stage}.b{index + 1}"
        if block.downsample is not None:
            state[f"{name}.proj.weight"] = block.downsample[0].weight.detach()
            state |= _norm(f"{name}.bn", block.downsample[1])
        for letter, number in zip("abc", (1, 2, 3)):
            state[f"{name}.f.{letter}.weight"] = getattr(block, f"conv{number}").weight.detach()
            state |= _norm(f"{name}.f.{letter}_bn", getattr(block, f"bn{number}"))
    state["head.fc.weight"], state["head.fc.bias"] = (
        network.fc.weight.detach(),
        network.fc.bias.detach(),
    )
    return state


def detectron2_state(network: ResNet) -> dict[str, Tensor]:
    state = {
        "stem.conv1.weight": network.conv1.weight.detach(),
        **_norm("stem.conv1.norm", network.bn1, counters=False),
    }
    for stage, index, block in blocks(network):
        layers = {
            f"conv{number}": (getattr(block, f"conv{number}"), getattr(block, f"bn{number}"))
            for number in (1, 2, 3)
        }
        if block.downsample is not None:
            layers["shortcut"] = (block.downsample[0], block.downsample[1])
        for layer, (convolution, norm) in layers.items():
            name = f"res{stage + 1}.{index}.{layer}"
            state |= {f"{name}.weight": convolution.weight.detach()}
            state |= _norm(f"{name}.norm", norm, counters=False)
    return {
        **state,
        "linear.weight": network.fc.weight.detach(),
        "linear.bias": network.fc.bias.detach(),
    }


NORM_SUFFIXES = {
    "beta": dict(zip(KEYS, ("gamma", "beta", "running_mean", "running_var"))),
    "riv": dict(zip(KEYS, ("s", "b", "rm", "riv"))),
}


def caffe2_arrays(
    network: ResNet, norms: str, *, head: str = "pred", zero_biases: bool = False
) -> dict[str, np.ndarray[Any, Any]]:
    """Make Caffe2's blobs.

    Args:
        norms: "folded" (scale and bias, computed here in float64), "beta" or "riv" (four arrays).
    """
    arrays: dict[str, Any] = {}

    def layer(
        convolution_name: str, norm_name: str, convolution: nn.Conv2d, norm: nn.BatchNorm2d
    ) -> None:
        arrays[f"{convolution_name}_w"] = convolution.weight.detach().numpy()
        if zero_biases:
            arrays[f"{convolution_name}_b"] = np.zeros(convolution.out_channels, np.float32)
        values = {key: getattr(norm, key).detach().numpy().astype(np.float64) for key in KEYS}
        if norms == "folded":
            scale = values["weight"] / np.sqrt(values["running_var"] + norm.eps)
            values = {"s": scale, "b": values["bias"] - values["running_mean"] * scale}
        else:
            values = {NORM_SUFFIXES[norms][key]: array for key, array in values.items()}
        arrays.update(
            {f"{norm_name}_bn_{key}": array.astype(np.float32) for key, array in values.items()}
        )

    layer("conv1", "res_conv1", network.conv1, network.bn1)
    for stage, index, block in blocks(network):
        name = f"res{stage + 1}_{index}_branch"
        if block.downsample is not None:
            layer(f"{name}1", f"{name}1", *block.downsample)  # type: ignore[arg-type]
        for letter, number in zip("abc", (1, 2, 3)):
            layer(
                f"{name}2{letter}",
                f"{name}2{letter}",
                getattr(block, f"conv{number}"),
                getattr(block, f"bn{number}"),
            )
    arrays[f"{head}_w"], arrays[f"{head}_b"] = (
        network.fc.weight.detach().numpy(),
        network.fc.bias.detach().numpy(),
    )
    return arrays
