"""Register ResNeXt as detectron2's ``Backbone``: alone, under FPN, and under RetinaNet's FPN.

A plain detectron2 configuration needs only ``cfg.MODEL.BACKBONE.NAME = "build_resnext_backbone"``.
``MODEL.RESNETS`` describes the network, as for detectron2's own ``build_resnet_backbone``;
parameter names and features are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, ROI_HEADS_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from detectron2.modeling.roi_heads import Res5ROIHeads
from torch import nn

from resnext_det.architecture import Architecture, Deformable
from resnext_det.config.backbone import (
    check_backbone,
    check_c4_head,
    read_architecture,
    read_backbone_arguments,
    refuse_foreign_keys,
)
from resnext_det.resnext import ResNeXt, make_stage


class ResNeXtBackbone(ResNeXt, Backbone):
    """Make our network detectron2's ``Backbone``; arguments and features are ``ResNeXt``'s.

    Args:
        freeze_at: detectron2's ``MODEL.BACKBONE.FREEZE_AT``, see ``ResNeXt.freeze``.
    """

    def __init__(
        self,
        architecture: Architecture | str,
        *,
        norm: str = "FrozenBN",
        out_features: Sequence[str] = ("res4",),
        stride_in_1x1: bool = False,
        dilate_res5: bool = False,
        deformable: Deformable | None = None,
        in_channels: int = 3,
        freeze_at: int = 0,
    ) -> None:
        if isinstance(architecture, str):
            architecture = Architecture.parse(architecture)
        super().__init__(
            architecture,
            norm=norm,
            out_features=out_features,
            stride_in_1x1=stride_in_1x1,
            dilate_res5=dilate_res5,
            deformable=deformable,
            in_channels=in_channels,
        )
        self.freeze(freeze_at)

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=self.out_channels[name], stride=self.out_strides[name])
            for name in self.out_features
        }


@BACKBONE_REGISTRY.register()
def build_resnext_backbone(cfg: Any, input_shape: ShapeSpec) -> ResNeXtBackbone:
    """Build the backbone that ``MODEL.RESNETS`` and ``MODEL.BACKBONE.FREEZE_AT`` describe.

    Raises:
        ValueError: a value is not honored, such as DEPTH 34.
    """
    check_backbone(cfg)
    return ResNeXtBackbone(
        **read_backbone_arguments(cfg),
        in_channels=input_shape.channels,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )


@BACKBONE_REGISTRY.register()
def build_resnext_fpn_backbone(cfg: Any, input_shape: ShapeSpec) -> FPN:
    """Build a ResNeXt under the FPN that ``MODEL.FPN`` describes, with p6 for the RPN."""
    return _build_fpn(cfg, build_resnext_backbone(cfg, input_shape), LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_resnext_fpn_backbone(cfg: Any, input_shape: ShapeSpec) -> FPN:
    """Build a ResNeXt under an FPN with p6 and p7 computed from res5, as RetinaNet needs them."""
    bottom_up = build_resnext_backbone(cfg, input_shape)
    channels = bottom_up.output_shape()["res5"].channels
    return _build_fpn(cfg, bottom_up, LastLevelP6P7(channels, cfg.MODEL.FPN.OUT_CHANNELS))


def _build_fpn(cfg: Any, bottom_up: ResNeXtBackbone, top_block: nn.Module) -> FPN:
    refuse_foreign_keys(cfg, "MODEL.FPN")
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


@ROI_HEADS_REGISTRY.register()
class ResNeXtRes5ROIHeads(Res5ROIHeads):
    """Run detectron2's C4 head, for boxes and masks, with our res5: the same keys, and faster."""

    @classmethod
    def _build_res5_block(cls, cfg: Any) -> tuple[nn.Sequential, int]:
        check_backbone(cfg)
        check_c4_head(cfg)
        resnets = cfg.MODEL.RESNETS
        architecture = read_architecture(cfg.MODEL.RESNETS)
        stage = make_stage(
            architecture, "res5", norm=resnets.NORM, stride_in_1x1=resnets.STRIDE_IN_1X1
        )
        return stage, architecture.stages()[-1].out_channels
