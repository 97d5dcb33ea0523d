"""The network up to res5, with frozen batch norms, beside other implementations of it."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops.misc import FrozenBatchNorm2d

from resnext_det.architecture import BLOCKS_PER_STAGE, Architecture
from resnext_det.benchmark.cases import (
    CALIBRATED,
    DTYPES,
    Candidate,
    Key,
    NetworkCase,
    hold_precision,
    select_names,
)
from resnext_det.benchmark.peers import list_runtimes, run_in_onnxruntime, run_in_openvino
from resnext_det.resnext import ResNeXt
from resnext_det.runtimes.optimize import optimize
from resnext_det.weights.formats import convert_to_native

FEATURES = ("res2", "res3", "res4", "res5")
FREEZE_AT = 2
"""The first so many of stem, res2 ... are not trained, as in detection by default."""

_FORWARDS = {"ONNX Runtime": run_in_onnxruntime, "OpenVINO": run_in_openvino}
_CHANNELS_LAST = "channels-last"


@dataclass(frozen=True)
class TrunkCase(NetworkCase):
    """Compare the stem to res5 of every implementation, with the same weights, on noise.

    In training it is forward and backward, with FREEZE_AT 2.

    Args:
        peers: the other implementations, of those that ``list_peers`` gives; the first is the
            reference.
        others: see ``NetworkCase``.
    """

    peers: Sequence[str] = ()

    @property
    def title(self) -> str:
        words = ["trunk (stem to res5)", self.mode, self.describe_images()]
        if self.mode == "training":
            words[1] = f"forward and backward with FREEZE_AT {FREEZE_AT}"
        return ", ".join([*words, str(self.device)])

    @property
    def reference(self) -> str:
        return self.peers[0] if self.peers else "resnext_det"

    def list_keys(self) -> list[Key]:
        ours = ["resnext_det"]
        if self.mode == "inference":
            ours += [f"resnext_det, {backend}" for backend in self.backends]
        names = dict.fromkeys([self.reference, *self.peers, *ours])
        keys = []
        for network in self.networks:
            keys.append(Key(network, self.reference, "float32"))
            for dtype in self.dtypes:
                keys += [Key(network, name, dtype) for name in select_names(list(names), dtype)]
        return list(dict.fromkeys(keys))

    def build(self, key: Key) -> Candidate:
        architecture, training = Architecture.parse(key.network), self.mode == "training"
        name, _, runtime = key.name.partition(", ")
        trunk = build_trunk(name, architecture, freeze_at=FREEZE_AT if training else 0)
        trunk.to(self.device).train(training)
        images = _draw_images(self.batch, self.height, self.width).to(self.device)
        run: Callable[[], Mapping[str, Any]]
        step: Callable[[], Any]
        if runtime in _FORWARDS:
            forward = _FORWARDS[runtime](_AsTuple(trunk), images, key.dtype)
            run = lambda: dict(zip(FEATURES, forward()))  # noqa: E731
        else:
            if runtime == _CHANNELS_LAST:
                trunk.to(memory_format=torch.channels_last)
                images = images.contiguous(memory_format=torch.channels_last)
            elif runtime:
                calibration = None
                if key.dtype == "int8":
                    calibration = torch.randn(CALIBRATED, *images.shape)
                dtype = DTYPES[key.dtype]
                trunk = optimize(trunk, runtime, dtype, example=images, calibration=calibration)
            plain = not runtime or runtime == _CHANNELS_LAST
            run = _make_forward(trunk, images, DTYPES[key.dtype] if plain else torch.float32)
        step = run = hold_precision(key.dtype, run)
        compute, size, weights = run, (self.height, self.width), count_bytes(trunk)
        counted = architecture.multiply_adds(*size, num_classes=None)
        if training:
            step = hold_precision(key.dtype, _make_training(trunk, run))
            compute = lambda: _measure_gradient(trunk, step)  # noqa: E731
            counted = count_training(architecture, *size, FREEZE_AT)
            weights += count_trained_bytes(trunk)  # the gradient stands until the next step
        return Candidate(step, compute, self.batch * counted, weights)

    def forget(self) -> None:
        _draw_weights.cache_clear()
        _build_unfrozen.cache_clear()
        _draw_images.cache_clear()


def list_peers(mode: str, device: torch.device) -> tuple[str, ...]:
    """List other implementations of a trunk that are installed; the first is the reference.

    "torchvision, OpenVINO" is torchvision's network in that runtime, as its user exports it.
    """
    peers = [name for name in ("detectron2", "torchvision", "timm") if _is_installed(name)]
    if device.type == "cuda":
        peers.append(f"torchvision, {_CHANNELS_LAST}")
    elif mode == "inference":
        peers += [f"torchvision, {runtime}" for runtime in list_runtimes()]
    return tuple(peers)


def group_networks(names: Sequence[str]) -> list[list[str]]:
    """Group names of architectures by their depth: a ResNeXt with its ResNet."""
    depths: dict[int, list[str]] = {}
    for name in names:
        depths.setdefault(Architecture.parse(name).depth, []).append(name)
    return list(depths.values())


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@lru_cache(maxsize=2)
def _draw_images(batch: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


class _AsTuple(nn.Module):
    """Give the maps as a tuple, as exporters want it."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.trunk(images).values())


def _make_forward(
    trunk: nn.Module, images: Tensor, dtype: torch.dtype
) -> Callable[[], Mapping[str, Tensor]]:
    """Make what computes the maps; autocast computes them in another type than float32."""

    def forward() -> Mapping[str, Tensor]:
        with (
            torch.set_grad_enabled(trunk.training),
            torch.autocast(images.device.type, dtype=dtype, enabled=dtype != torch.float32),
        ):
            return trunk(images)

    return forward


def _make_training(
    trunk: nn.Module, forward: Callable[[], Mapping[str, Tensor]]
) -> Callable[[], Tensor]:
    def step() -> Tensor:
        trunk.zero_grad()
        loss = forward()["res5"].float().square().mean()
        loss.backward()
        return loss.detach()

    return step


def _measure_gradient(trunk: nn.Module, step: Callable[[], Tensor]) -> dict[str, Tensor]:
    """Measure the loss and the length of the gradient, which no name of a parameter changes."""
    loss = step()
    gradients = [p.grad.float().square().sum() for p in trunk.parameters() if p.grad is not None]
    return {"loss": loss, "gradient": torch.stack(gradients).sum().sqrt()}


def count_training(architecture: Architecture, height: int, width: int, freeze_at: int) -> int:
    """Count the multiply-adds of a forward and a backward pass.

    A trained convolution computes two more of its size, for its weights and its input, and those
    that read what is frozen one, for their weights.

    Args:
        freeze_at: the first so many of stem, res2 ... are not trained.
    """
    frozen = ("stem", *FEATURES)[:freeze_at]
    first = ("stem", *FEATURES)[freeze_at]
    reads_frozen = {f"{first}.conv1"} | {f"{first}.0.{name}" for name in ("conv1", "shortcut")}
    total = 0
    for layer in architecture.convolutions(height, width):
        times = 1 if layer.name.partition(".")[0] in frozen else 3 - (layer.name in reads_frozen)
        total += times * layer.multiply_adds
    return total


def count_bytes(model: nn.Module) -> int:
    """Count the bytes of a model's parameters and buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def count_trained_bytes(model: nn.Module) -> int:
    """Count the bytes of the parameters that are trained, as many as of their gradient."""
    trained = [one for one in model.parameters() if one.requires_grad]
    return sum(one.numel() * one.element_size() for one in trained)


def build_trunks(architecture: Architecture, *, freeze_at: int = 0) -> dict[str, nn.Module]:
    """Build the stem to res5 of every library that is installed, with the same random weights.

    Args:
        freeze_at: the first so many of stem, res2 ... get no gradient.

    Returns:
        The networks by library, ours first; all have frozen batch norms.
    """
    names = ("resnext_det", "torchvision", "detectron2", "timm")
    return {
        name: build_trunk(name, architecture, freeze_at=freeze_at)
        for name in names
        if _is_installed(name)
    }


def build_trunk(name: str, architecture: Architecture, *, freeze_at: int = 0) -> nn.Module:
    """Build the stem to res5 of a library, with weights that are the same in all of them.

    Blocks add little to their input, as trained ones do, so that maps stay finite.
    """
    trunk: Any = copy.deepcopy(_build_unfrozen(name, architecture))
    if name in ("resnext_det", "detectron2"):
        return trunk.freeze(freeze_at)
    stages = ([trunk.conv1], trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4)
    for stage in stages[:freeze_at]:
        for module in stage:
            module.requires_grad_(False)
    return trunk


@lru_cache(maxsize=16)  # so many for the table of GPUs
def _build_unfrozen(name: str, architecture: Architecture) -> nn.Module:
    state = _draw_weights(architecture)
    if name in ("resnext_det", "detectron2"):
        trunk: nn.Module = ResNeXt(architecture, norm="FrozenBN", out_features=FEATURES)
        if name == "detectron2":
            trunk = _build_detectron2_trunk(architecture)
        trunk.load_state_dict(convert_to_native(state)[1])
        return trunk
    trunk = _TorchvisionTrunk(architecture) if name == "torchvision" else _build_timm(architecture)
    trunk.load_state_dict(dict(state))
    return trunk


@lru_cache(maxsize=2)
def _draw_weights(architecture: Architecture) -> Mapping[str, Tensor]:
    """Draw weights under torchvision's names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trunk = _TorchvisionTrunk(architecture)
    for name, value in trunk.state_dict().items():
        if name.endswith("bn3.weight"):
            value.fill_(0.25)
    return trunk.state_dict()


class _TorchvisionTrunk(ResNet):
    """torchvision's ResNet up to layer4, with its frozen batch norm."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(
            Bottleneck,
            list(BLOCKS_PER_STAGE[architecture.depth]),
            groups=architecture.cardinality,
            width_per_group=architecture.width,
            norm_layer=FrozenBatchNorm2d,
        )
        self.fc = nn.Identity()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return _run_layers(self, self.maxpool(self.relu(self.bn1(self.conv1(images)))))


def _run_layers(network: Any, x: Tensor) -> dict[str, Tensor]:
    layers = (network.layer1, network.layer2, network.layer3, network.layer4)
    features = {}
    for name, layer in zip(FEATURES, layers):
        features[name] = x = layer(x)
    return features


def _build_timm(architecture: Architecture) -> Any:
    """Build timm's ResNet up to layer4, with its frozen batch norm."""
    from timm.layers import freeze_batch_norm_2d
    from timm.models import resnet

    class Trunk(resnet.ResNet):
        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return _run_layers(self, self.maxpool(self.act1(self.bn1(self.conv1(images)))))

    blocks = BLOCKS_PER_STAGE[architecture.depth]
    groups, width = architecture.cardinality, architecture.width
    trunk = Trunk(resnet.Bottleneck, blocks, num_classes=0, cardinality=groups, base_width=width)
    return freeze_batch_norm_2d(trunk)


def _build_detectron2_trunk(architecture: Architecture) -> nn.Module:
    """Build what ``build_resnet_backbone`` builds with the stride in the 3x3 convolution."""
    from detectron2.modeling.backbone import resnet

    stages = [
        resnet.ResNet.make_stage(
            resnet.BottleneckBlock,
            stage.blocks,
            stride_per_block=[stage.stride] + [1] * (stage.blocks - 1),
            in_channels=stage.in_channels,
            out_channels=stage.out_channels,
            bottleneck_channels=stage.bottleneck_channels,
            num_groups=stage.cardinality,
            norm="FrozenBN",
            stride_in_1x1=False,
        )
        for stage in architecture.stages()
    ]
    stem = resnet.BasicStem(3, architecture.stem_channels, norm="FrozenBN")
    return resnet.ResNet(stem, stages, out_features=list(FEATURES))
