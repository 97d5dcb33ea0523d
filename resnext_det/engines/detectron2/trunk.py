"""detectron2's own ResNet, to be timed beside ours."""

from __future__ import annotations

from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock, ResNet
from torch import nn

from resnext_det.architecture import Architecture


def build_trunk(architecture: Architecture, *, freeze_at: int = 0) -> nn.Module:
    """Stem to res5 as ``build_resnet_backbone`` builds it, with frozen batch norms and the stride in the 3x3 convolution."""
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
