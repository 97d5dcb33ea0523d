"""Register ResNeXt as detectron2's ``Backbone``: alone, under FPN, and under RetinaNet's FPN.

A plain detectron2 configuration needs only ``cfg.MODEL.BACKBONE.NAME = "build_resnext_backbone"``.
``MODEL.RESNETS`` describes the network, as for detectron2's own ``build_resnet_backbone``;
parameter names and features are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, FrozenBatchNorm2d, ROIAlign, ShapeSpec, get_norm
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    ROI_HEADS_REGISTRY,
    Backbone,
    GeneralizedRCNN,
)
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from detectron2.modeling.poolers import convert_boxes_to_pooler_format
from detectron2.modeling.roi_heads import Res5ROIHeads
from detectron2.structures import Boxes
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from resnext_det import resnext
from resnext_det.architecture import Architecture, Deformable
from resnext_det.config.backbone import (
    check_backbone,
    check_c4_head,
    read_architecture,
    read_backbone_arguments,
    refuse_foreign_keys,
)
from resnext_det.layers import FROZEN_NORMS, Norm
from resnext_det.resnext import Bottleneck, ResNeXt, Stem
from resnext_det.roi_align import RegionGrid
from resnext_det.shared_res5 import SHARED_HEADS, run_res5

FROZEN_NORMS.add(FrozenBatchNorm2d)

# Ours, and those that detectron2's get_norm has a name for.
_OUR_NORMS = ("FrozenStatisticsBN", "GN")
_THEIR_NORMS = ("nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "LN", "")
NORMS = ("FrozenBN", "BN", "SyncBN", *_OUR_NORMS, *_THEIR_NORMS)
"""The values of MODEL.RESNETS.NORM on detectron2."""

_THEIR_BLOCKS = 3  # of the res5 of detectron2's Res5ROIHeads


def choose_norm(norm: Norm) -> Norm:
    """Choose what makes the norm that detectron2's ``get_norm`` makes, of its own types.

    FrozenStatisticsBN, which it lacks, is ours; GN is the same but for what an error says.

    Raises:
        ValueError: the name is unknown.
    """
    if isinstance(norm, str) and norm not in NORMS:
        raise ValueError(f"norm {norm!r} is not known; choose one of {', '.join(map(repr, NORMS))}")
    return norm if norm in _OUR_NORMS else partial(get_norm, norm)


class _Block(CNNBlockBase):
    """Make a block of ours detectron2's, so that it is frozen by detectron2's own norms."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super(CNNBlockBase, self).__init__(*args, **kwargs)


class ResNeXtStem(_Block, Stem):
    """A ``Stem`` that is detectron2's ``CNNBlockBase``."""


class ResNeXtBlock(_Block, Bottleneck):
    """A ``Bottleneck`` that is detectron2's ``CNNBlockBase``."""


def make_stage(
    architecture: Architecture | str, name: str, *, norm: Norm = "FrozenBN", **options: Any
) -> nn.Sequential:
    """Make the blocks of one stage of detectron2's types, such as the res5 of a C4 detector.

    Args:
        norm: a name in ``NORMS`` of this module, or a callable.
        architecture, name, options: see ``resnext_det.resnext.make_stage``.
    """
    norm = choose_norm(norm)
    return resnext.make_stage(architecture, name, norm=norm, block_class=ResNeXtBlock, **options)


class ResNeXtBackbone(ResNeXt, Backbone):
    """Make our network detectron2's ``Backbone``; arguments and features are ``ResNeXt``'s.

    Norms and blocks are of detectron2's types, and its attributes are there: what is written for
    its ResNet, such as ``FrozenBatchNorm2d.convert_frozenbatchnorm2d_to_batchnorm2d(backbone)`` or
    ``backbone.res2[0].freeze()``, works.

    Args:
        norm: a name in ``NORMS`` of this module, or a callable, as detectron2's ``get_norm`` takes.
        freeze_at: detectron2's ``MODEL.BACKBONE.FREEZE_AT``, see ``ResNeXt.freeze``.
    """

    stem_class = ResNeXtStem
    block_class = ResNeXtBlock

    def __init__(
        self,
        architecture: Architecture | str,
        *,
        norm: Norm = "FrozenBN",
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
            norm=choose_norm(norm),
            out_features=out_features,
            stride_in_1x1=stride_in_1x1,
            dilate_res5=dilate_res5,
            deformable=deformable,
            in_channels=in_channels,
        )
        # What detectron2's ``Backbone.output_shape`` goes by, of every stage that is built.
        self._out_features = list(out_features)
        self._out_feature_channels = {"stem": self.stem.out_channels}
        self._out_feature_strides = {"stem": self.stem.stride}
        stride, stages = self.stem.stride, cast(list[Any], self.stages)
        for name, stage in zip(self.stage_names, stages):
            stride *= stage.stride
            self._out_feature_channels[name] = stage.out_channels
            self._out_feature_strides[name] = stride
        self.freeze(freeze_at)

    def freeze(self, freeze_at: int = 0) -> ResNeXtBackbone:
        """Freeze the first parts of the network, see ``ResNeXt.freeze``; return self."""
        super().freeze(freeze_at)
        return self


def convert_cfg(cfg: Any) -> CfgNode:
    """Convert an OmegaConf configuration, whose lists are no lists; detectron2 builds from both."""
    return CfgNode(OmegaConf.to_container(cfg)) if isinstance(cfg, DictConfig) else cfg


def refuse_other_res5(cfg: Any) -> None:
    """Refuse detectron2's own C4 head where its res5 is not that of the configured network.

    Raises:
        ValueError: ``Res5ROIHeads``, or a class derived from it, would build another one.
    """
    name, kind = cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.META_ARCHITECTURE
    if name not in ROI_HEADS_REGISTRY or "fpn" in cfg.MODEL.BACKBONE.NAME:
        return
    if kind not in META_ARCH_REGISTRY or not issubclass(
        META_ARCH_REGISTRY.get(kind), GeneralizedRCNN
    ):
        return  # without such heads
    build = getattr(ROI_HEADS_REGISTRY.get(name), "_build_res5_block", None)
    if getattr(build, "__func__", None) is not Res5ROIHeads._build_res5_block.__func__:
        return
    depth, norm = cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.NORM
    blocks, reason = read_architecture(cfg.MODEL.RESNETS).stages()[-1].blocks, ""
    if blocks != _THEIR_BLOCKS:
        reason = (
            f"builds a res5 of {_THEIR_BLOCKS} blocks for every MODEL.RESNETS.DEPTH, and that of "
            f"DEPTH = {depth} has {blocks}"
        )
    elif norm == "FrozenStatisticsBN":
        reason = f"cannot build MODEL.RESNETS.NORM = {norm!r}"
    if reason:
        ours = ResNeXtRes5ROIHeads.__name__
        remedy = f"write {ours}" if name == Res5ROIHeads.__name__ else f"derive it from {ours}"
        raise ValueError(f"MODEL.ROI_HEADS.NAME = {name!r} {reason}; {remedy}")


@BACKBONE_REGISTRY.register()
def build_resnext_backbone(cfg: Any, input_shape: ShapeSpec) -> ResNeXtBackbone:
    """Build the backbone that ``MODEL.RESNETS`` and ``MODEL.BACKBONE.FREEZE_AT`` describe.

    Raises:
        ValueError: a value is not honored, such as DEPTH 34; see ``refuse_other_res5``.
    """
    cfg = convert_cfg(cfg)
    check_backbone(cfg, norms=NORMS)
    refuse_other_res5(cfg)
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


@BACKBONE_REGISTRY.register()
def build_retinanet_resnext_fpn_p5_backbone(cfg: Any, input_shape: ShapeSpec) -> FPN:
    """Build a ResNeXt under an FPN with p6 computed from p5, as torchvision's RetinaNet has it."""
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    top_block = LastLevelP6P7(channels, channels, in_feature="p5")
    return _build_fpn(cfg, build_resnext_backbone(cfg, input_shape), top_block)


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
        cfg = convert_cfg(cfg)
        check_backbone(cfg, norms=NORMS)
        check_c4_head(cfg)
        resnets = cfg.MODEL.RESNETS
        architecture = read_architecture(resnets)
        stage = make_stage(
            architecture, "res5", norm=resnets.NORM, stride_in_1x1=resnets.STRIDE_IN_1X1
        )
        return stage, architecture.stages()[-1].out_channels


@ROI_HEADS_REGISTRY.register()
class ResNeXtSharedRes5ROIHeads(ResNeXtRes5ROIHeads):
    """Compute what ResNeXtRes5ROIHeads does, but once an image what its regions share of res5.

    Keys and losses are the same, within rounding; masks work. ``resnext_det.shared_res5`` tells
    what is shared, and when. In ``torch.jit.script`` it is the exact head.
    """

    def find_grid(self) -> RegionGrid | None:
        """Find which cells of a region are cut; None where RoIPool, which is not linear, cuts."""
        (pooler,) = self.pooler.level_poolers
        if type(pooler) is not ROIAlign or len(set(pooler.output_size)) != 1:
            return None
        return RegionGrid(
            *(pooler.output_size[0], pooler.spatial_scale),
            *(pooler.sampling_ratio, pooler.aligned),
        )

    def _shared_roi_transform(self, features: list[Tensor], boxes: list[Boxes]) -> Tensor:
        if not torch.jit.is_scripting():
            return self._cut_and_run(features, boxes)
        return self.res5(self.pooler(features, boxes))

    @torch.jit.unused
    def _cut_and_run(self, features: list[Tensor], boxes: list[Boxes]) -> Tensor:
        grid = self.find_grid()
        if grid is None:
            return self.res5(self.pooler(features, boxes))
        regions = convert_boxes_to_pooler_format(boxes)
        return run_res5(self.res5, features[0], regions, grid)


SHARED_HEADS[ResNeXtRes5ROIHeads] = ResNeXtSharedRes5ROIHeads
