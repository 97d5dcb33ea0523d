"""Build the portable detector that a configuration describes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fvcore.common.config import CfgNode
from torch import nn

from resnext_det.config import check
from resnext_det.config.backbone import read_architecture, read_backbone_arguments
from resnext_det.config.detection import get_own
from resnext_det.config.names import (
    CASCADE_HEAD,
    EXACT_HEADS,
    FAST_CASCADE_HEAD,
    P6_FROM_P5_BACKBONE,
    SHARED_C4_HEAD,
    SPARSE_RPN_HEAD,
    TORCHVISION_ANCHORS,
)
from resnext_det.config.parts import list_parts_in_use, uses_c4_head, uses_fpn, uses_p6_and_p7
from resnext_det.config.rules import read_settings
from resnext_det.detection.portable.box_head import BoxHead, BoxPredictor, BoxPredictorSettings
from resnext_det.detection.portable.boxes import AnchorGenerator
from resnext_det.detection.portable.cascade import CascadeROIHeads
from resnext_det.detection.portable.detector import Detector
from resnext_det.detection.portable.faster_rcnn import FasterRCNN
from resnext_det.detection.portable.fpn import FPN, LastLevelP6P7
from resnext_det.detection.portable.mask_head import MaskHead
from resnext_det.detection.portable.retinanet import RetinaNet, RetinaNetSettings
from resnext_det.detection.portable.retinanet_head import RetinaNetHead
from resnext_det.detection.portable.roi_heads import (
    Res5ROIHeads,
    ROIHeads,
    SharedRes5ROIHeads,
    StandardROIHeads,
)
from resnext_det.detection.portable.roi_pooler import ROIPooler
from resnext_det.detection.portable.rpn import RPN, RPNHead, RPNSettings
from resnext_det.detection.portable.sampling import RegionSampling
from resnext_det.detection.portable.torchvision_anchors import TorchvisionAnchorGenerator
from resnext_det.resnext import ResNeXt, make_stage


def build_detector(cfg: CfgNode) -> Detector:
    """Build the detector that ``cfg.MODEL`` describes, with random weights, on the CPU.

    Returns:
        Faster R-CNN, and with ``MASK_ON`` Mask R-CNN; without an RPN, Fast R-CNN; for
        ``ProposalNetwork`` the RPN alone; or RetinaNet.

    Raises:
        ValueError: a key has a value that this engine does not honor.
    """
    check(cfg)
    backbone, parts = _build_backbone(cfg), list_parts_in_use(cfg)
    if "RETINANET" in parts:
        return _build_retinanet(cfg, backbone)
    return FasterRCNN(
        **_collect_common_arguments(cfg, backbone),
        proposal_generator=_build_rpn(cfg, backbone) if "RPN" in parts else None,
        roi_heads=_build_roi_heads(cfg, backbone) if "ROI_HEADS" in parts else None,
    )


def _collect_common_arguments(cfg: CfgNode, backbone: ResNeXt | FPN) -> dict[str, Any]:
    """Collect the arguments of ``Detector``."""
    return {
        "backbone": backbone,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "size_divisibility": backbone.size_divisibility if isinstance(backbone, FPN) else 0,
    }


def _build_backbone(cfg: CfgNode) -> ResNeXt | FPN:
    bottom_up = ResNeXt(**read_backbone_arguments(cfg), in_channels=len(cfg.MODEL.PIXEL_MEAN))
    bottom_up.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)
    if not uses_fpn(cfg):
        return bottom_up
    fpn, top_block = cfg.MODEL.FPN, None
    if uses_p6_and_p7(cfg):
        top_block = LastLevelP6P7(bottom_up.out_channels["res5"], fpn.OUT_CHANNELS)
    if cfg.MODEL.BACKBONE.NAME == P6_FROM_P5_BACKBONE:
        top_block = LastLevelP6P7(fpn.OUT_CHANNELS, fpn.OUT_CHANNELS, in_feature="p5")
    return FPN(
        bottom_up,
        in_features=fpn.IN_FEATURES,
        out_channels=fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        fuse_type=fpn.FUSE_TYPE,
        top_block=top_block,
    )


def _build_retinanet(cfg: CfgNode, backbone: ResNeXt | FPN) -> RetinaNet:
    retinanet = cfg.MODEL.RETINANET
    generator = _build_anchor_generator(cfg, backbone, "RETINANET")
    head = RetinaNetHead(
        in_channels=_find_channels(cfg, backbone, "RETINANET"),
        num_convs=retinanet.NUM_CONVS,
        anchors_per_cell=generator.anchors_per_cell,
        num_classes=retinanet.NUM_CLASSES,
        prior_prob=retinanet.PRIOR_PROB,
        norm=retinanet.NORM,
        levels=len(retinanet.IN_FEATURES),
    )
    return RetinaNet(
        **_collect_common_arguments(cfg, backbone),
        head=head,
        head_in_features=retinanet.IN_FEATURES,
        anchor_generator=generator,
        settings=read_settings(
            RetinaNetSettings, retinanet, detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE
        ),
        as_torchvision=get_own(cfg, "MODEL.RETINANET.AS_TORCHVISION"),
    )


def _build_anchor_generator(cfg: CfgNode, backbone: ResNeXt | FPN, part: str) -> AnchorGenerator:
    """Build the anchors of the feature maps that a part takes."""
    anchors = cfg.MODEL.ANCHOR_GENERATOR
    arguments: dict[str, Any] = {
        "sizes": anchors.SIZES,
        "aspect_ratios": anchors.ASPECT_RATIOS,
        "strides": [backbone.out_strides[name] for name in cfg.MODEL[part].IN_FEATURES],
    }
    if anchors.NAME == TORCHVISION_ANCHORS:
        return TorchvisionAnchorGenerator(**arguments)
    return AnchorGenerator(**arguments, offset=anchors.OFFSET)


def _build_rpn(cfg: CfgNode, backbone: ResNeXt | FPN) -> RPN:
    rpn, generator = cfg.MODEL.RPN, _build_anchor_generator(cfg, backbone, "RPN")
    head = RPNHead(
        in_channels=_find_channels(cfg, backbone, "RPN"),
        anchors_per_cell=generator.anchors_per_cell,
        conv_dims=rpn.CONV_DIMS,
        sparse=rpn.HEAD_NAME == SPARSE_RPN_HEAD,
    )
    settings = read_settings(RPNSettings, rpn, min_size=cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE)
    return RPN(
        in_features=rpn.IN_FEATURES, head=head, anchor_generator=generator, settings=settings
    )


def _build_roi_heads(cfg: CfgNode, backbone: ResNeXt | FPN) -> ROIHeads:
    heads, box = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD
    kind: type[ROIHeads]
    head: nn.Module
    predictor: nn.Module
    options: dict[str, Any] = {}
    if uses_c4_head(cfg):
        kind, resnets = Res5ROIHeads, cfg.MODEL.RESNETS
        if heads.NAME == SHARED_C4_HEAD:
            kind = SharedRes5ROIHeads
        architecture, stride = read_architecture(resnets), resnets.STRIDE_IN_1X1
        head = make_stage(architecture, "res5", norm=resnets.NORM, stride_in_1x1=stride)
        features = architecture.stages()[-1].out_channels
        predictor = _build_predictor(cfg, features, box.BBOX_REG_WEIGHTS)
    elif heads.NAME in (CASCADE_HEAD, FAST_CASCADE_HEAD):
        kind, cascade = CascadeROIHeads, cfg.MODEL.ROI_BOX_CASCADE_HEAD
        stages = [_build_box_head(cfg, backbone, each) for each in cascade.BBOX_REG_WEIGHTS]
        head, predictor = (nn.ModuleList(parts) for parts in zip(*stages))
        options["stage_ious"] = cascade.IOUS
    else:
        kind = StandardROIHeads
        head, predictor = _build_box_head(cfg, backbone, box.BBOX_REG_WEIGHTS)
    options |= {
        "in_features": heads.IN_FEATURES,
        "sampling": read_settings(RegionSampling, heads),
        "pooler": _build_pooler(cfg, backbone, "ROI_BOX_HEAD"),
        "head": head,
        "box_predictor": predictor,  # made before the mask head, as in detectron2
    }
    if cfg.MODEL.MASK_ON:
        if not uses_c4_head(cfg):
            features = _find_channels(cfg, backbone, "ROI_HEADS")
            options["mask_pooler"] = _build_pooler(cfg, backbone, "ROI_MASK_HEAD")
        options["mask_head"] = _build_mask_head(cfg, features)
    return kind(**options)


def _build_pooler(cfg: CfgNode, backbone: ResNeXt | FPN, head: str) -> ROIPooler:
    """Build the pooler of a head: "ROI_BOX_HEAD" or "ROI_MASK_HEAD"."""
    node, heads = cfg.MODEL[head], cfg.MODEL.ROI_HEADS
    return ROIPooler(
        resolution=node.POOLER_RESOLUTION,
        strides=[backbone.out_strides[name] for name in heads.IN_FEATURES],
        sampling_ratio=node.POOLER_SAMPLING_RATIO,
        pooler_type=node.POOLER_TYPE,
        by_matrices=heads.NAME in EXACT_HEADS,
    )


def _build_mask_head(cfg: CfgNode, channels: int) -> MaskHead:
    mask = cfg.MODEL.ROI_MASK_HEAD
    return MaskHead(
        in_channels=channels,
        conv_dim=mask.CONV_DIM,
        num_conv=mask.NUM_CONV,
        num_classes=1 if mask.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        norm=mask.NORM,
    )


def _build_box_head(
    cfg: CfgNode, backbone: ResNeXt | FPN, weights: Sequence[float]
) -> tuple[BoxHead, BoxPredictor]:
    """Build a box head, and after it its predictor, so that one seed gives detectron2's weights.

    Args:
        weights: of the deltas, see ``BoxTransform``.
    """
    box = cfg.MODEL.ROI_BOX_HEAD
    head = BoxHead(
        in_channels=_find_channels(cfg, backbone, "ROI_HEADS"),
        resolution=box.POOLER_RESOLUTION,
        conv_dims=[box.CONV_DIM] * box.NUM_CONV,
        fc_dims=[box.FC_DIM] * box.NUM_FC,
        norm=box.NORM,
    )
    return head, _build_predictor(cfg, head.out_features, weights)


def _build_predictor(cfg: CfgNode, features: int, weights: Sequence[float]) -> BoxPredictor:
    heads = cfg.MODEL.ROI_HEADS
    settings = read_settings(
        BoxPredictorSettings,
        cfg.MODEL.ROI_BOX_HEAD,
        bbox_reg_weights=tuple(weights),
        num_classes=heads.NUM_CLASSES,
        score_thresh_test=heads.SCORE_THRESH_TEST,
        nms_thresh_test=heads.NMS_THRESH_TEST,
        detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
    )
    return BoxPredictor(features, settings)


def _find_channels(cfg: CfgNode, backbone: ResNeXt | FPN, part: str) -> int:
    """Find the width of a part's feature maps; refuse maps of several widths."""
    names = cfg.MODEL[part].IN_FEATURES
    channels = {name: backbone.out_channels[name] for name in names}
    if len(set(channels.values())) > 1:
        raise ValueError(
            f"MODEL.{part}.IN_FEATURES = {names} have {channels} channels, and one head serves "
            "them all; choose maps of one width"
        )
    return channels[names[0]]
