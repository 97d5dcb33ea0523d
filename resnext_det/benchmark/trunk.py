"""Timing of the trunk (stem to res5, batch norms frozen) beside torchvision's and detectron2's networks of the same shape."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops.misc import FrozenBatchNorm2d

from resnext_det.architecture import BLOCKS_PER_STAGE, Architecture
from resnext_det.benchmark.timing import Timing, take_turns
from resnext_det.resnext import ResNeXt


def _build_detectron2_trunk(architecture: Architecture, *, freeze_at: int = 0) -> nn.Module:
    """Stem to res5 as ``build_resnet_backbone`` builds it, with frozen batch norms and the stride in the 3x3 convolution."""
    from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock, ResNet

    stages = [
        ResNet.make_stage(
            BottleneckBlock,
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
    stem = BasicStem(in_channels=3, out_channels=architecture.stem_channels, norm="FrozenBN")
    return ResNet(stem, stages, out_features=["res2", "res3", "res4", "res5"], freeze_at=freeze_at)


FEATURES = ("res2", "res3", "res4", "res5")
MODES = ("inference", "training")


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

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = {}
        for name, layer in zip(FEATURES, (self.layer1, self.layer2, self.layer3, self.layer4)):
            features[name] = x = layer(x)
        return features


def trunks(architecture: Architecture, *, freeze_at: int = 0) -> dict[str, nn.Module]:
    """Each implementation's trunk, by name; detectron2's where that is installed.

    The first ``freeze_at`` of stem, res2 ... get no gradient.
    """
    ours = ResNeXt(architecture, norm="FrozenBN", out_features=FEATURES).freeze(freeze_at)
    theirs = _TorchvisionTrunk(architecture)
    frozen = [[theirs.conv1], [theirs.layer1], [theirs.layer2], [theirs.layer3], [theirs.layer4]][
        :freeze_at
    ]
    for group in frozen:
        for module in group:
            module.requires_grad_(False)
    found: dict[str, nn.Module] = {"resnext_det": ours, "torchvision": theirs}
    if importlib.util.find_spec("detectron2") is not None:
        found["detectron2"] = _build_detectron2_trunk(architecture, freeze_at=freeze_at)
    return found


def compare(
    architecture: Architecture,
    *,
    mode: str,
    batch: int,
    height: int,
    width: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    repeats: int = 7,
) -> list[Timing]:
    """Time every implementation on one batch of random images.

    Args:
        mode: ``inference``, or ``training``: forward and backward, with FREEZE_AT 2.
        dtype: float32, or bfloat16: autocast.
        repeats: turns that count, after one that does not.

    Raises:
        ValueError: an unknown mode.
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is unknown; choose {' or '.join(MODES)}")
    images = torch.randn(batch, 3, height, width, device=device)
    steps: dict[str, Callable[[], None]] = {}
    for name, trunk in trunks(architecture, freeze_at=2 if mode == "training" else 0).items():
        steps[name] = _step(trunk.to(device).train(mode == "training"), images, mode, dtype)
    return take_turns(steps, device, repeats)


def _step(trunk: nn.Module, images: Tensor, mode: str, dtype: torch.dtype) -> Callable[[], None]:
    def step() -> None:
        with (
            torch.set_grad_enabled(mode == "training"),
            torch.autocast(images.device.type, dtype=dtype, enabled=dtype != torch.float32),
        ):
            features: Mapping[str, Tensor] = trunk(images)
        if mode == "training":
            trunk.zero_grad()
            features["res5"].float().square().mean().backward()

    return step
