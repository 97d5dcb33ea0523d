"""From a configuration to a detector: the one place of this engine that reads the model's keys."""

from __future__ import annotations

from typing import Any

from fvcore.common.config import CfgNode

from resnext_det.config import check
from resnext_det.config.backbone import read_architecture, read_backbone_arguments
from resnext_det.config.checks import uses_fpn
from resnext_det.detection.portable.box_predictor import BoxPredictor, BoxPredictorSettings
from resnext_det.detection.portable.boxes import AnchorGenerator
from resnext_det.detection.portable.faster_rcnn import GeneralizedRCNN, ProposalNetwork
from resnext_det.detection.portable.fpn import FPN
from resnext_det.detection.portable.poolers import ROIPooler
from resnext_det.detection.portable.roi_heads import (
    BoxHead,
    RegionSampling,
    Res5ROIHeads,
    ROIHeads,
    StandardROIHeads,
)
from resnext_det.detection.portable.rpn import RPN, RPNHead, RPNSettings
from resnext_det.resnext import ResNeXt, make_stage


def build_detector(cfg: CfgNode) -> GeneralizedRCNN | ProposalNetwork:
    """The detector that ``cfg.MODEL`` describes, with random weights, on the CPU.

    Returns:
        Faster R-CNN; without an RPN, Fast R-CNN; the RPN alone.

    Raises:
        ValueError: a key has a value that this engine does not honour.
    """
    check(cfg)
    backbone = _build_backbone(cfg)
    images: dict[str, Any] = {
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "size_divisibility": backbone.size_divisibility if isinstance(backbone, FPN) else 0,
    }
    rpn = _build_rpn(cfg, backbone) if cfg.MODEL.PROPOSAL_GENERATOR.NAME == "RPN" else None
    if cfg.MODEL.META_ARCHITECTURE == "ProposalNetwork":
        assert rpn is not None
        return ProposalNetwork(backbone=backbone, proposal_generator=rpn, **images)
    heads = _build_roi_heads(cfg, backbone)
    return GeneralizedRCNN(backbone=backbone, proposal_generator=rpn, roi_heads=heads, **images)


def _build_backbone(cfg: CfgNode) -> ResNeXt | FPN:
    bottom_up = ResNeXt(**read_backbone_arguments(cfg), in_channels=len(cfg.MODEL.PIXEL_MEAN))
    bottom_up.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)
    if not uses_fpn(cfg):
        return bottom_up
    fpn = cfg.MODEL.FPN
    return FPN(
        bottom_up,
        in_features=fpn.IN_FEATURES,
        out_channels=fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        fuse_type=fpn.FUSE_TYPE,
    )


def _build_rpn(cfg: CfgNode, backbone: ResNeXt | FPN) -> RPN:
    rpn, anchors = cfg.MODEL.RPN, cfg.MODEL.ANCHOR_GENERATOR
    generator = AnchorGenerator(
        sizes=anchors.SIZES,
        aspect_ratios=anchors.ASPECT_RATIOS,
        strides=[backbone.out_strides[name] for name in rpn.IN_FEATURES],
        offset=anchors.OFFSET,
    )
    head = RPNHead(
        in_channels=_common_channels(backbone, rpn.IN_FEATURES, "MODEL.RPN.IN_FEATURES"),
        anchors_per_cell=generator.anchors_per_cell,
        conv_dims=rpn.CONV_DIMS,
    )
    settings = RPNSettings(
        iou_thresholds=tuple(rpn.IOU_THRESHOLDS),
        iou_labels=tuple(rpn.IOU_LABELS),
        batch_size_per_image=rpn.BATCH_SIZE_PER_IMAGE,
        positive_fraction=rpn.POSITIVE_FRACTION,
        pre_nms_topk_train=rpn.PRE_NMS_TOPK_TRAIN,
        pre_nms_topk_test=rpn.PRE_NMS_TOPK_TEST,
        post_nms_topk_train=rpn.POST_NMS_TOPK_TRAIN,
        post_nms_topk_test=rpn.POST_NMS_TOPK_TEST,
        nms_thresh=rpn.NMS_THRESH,
        min_size=cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
        boundary_thresh=rpn.BOUNDARY_THRESH,
        bbox_reg_weights=tuple(rpn.BBOX_REG_WEIGHTS),
        bbox_reg_loss_type=rpn.BBOX_REG_LOSS_TYPE,
        bbox_reg_loss_weight=rpn.BBOX_REG_LOSS_WEIGHT,
        smooth_l1_beta=rpn.SMOOTH_L1_BETA,
        loss_weight=rpn.LOSS_WEIGHT,
    )
    return RPN(
        in_features=rpn.IN_FEATURES, head=head, anchor_generator=generator, settings=settings
    )


def _build_roi_heads(cfg: CfgNode, backbone: ResNeXt | FPN) -> ROIHeads:
    heads, box = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD
    sampling = RegionSampling(
        num_classes=heads.NUM_CLASSES,
        iou_thresholds=tuple(heads.IOU_THRESHOLDS),
        iou_labels=tuple(heads.IOU_LABELS),
        batch_size_per_image=heads.BATCH_SIZE_PER_IMAGE,
        positive_fraction=heads.POSITIVE_FRACTION,
        proposal_append_gt=heads.PROPOSAL_APPEND_GT,
    )
    pooler = ROIPooler(
        resolution=box.POOLER_RESOLUTION,
        strides=[backbone.out_strides[name] for name in heads.IN_FEATURES],
        sampling_ratio=box.POOLER_SAMPLING_RATIO,
        pooler_type=box.POOLER_TYPE,
    )
    channels = _common_channels(backbone, heads.IN_FEATURES, "MODEL.ROI_HEADS.IN_FEATURES")
    if heads.NAME == "Res5ROIHeads":
        resnets = cfg.MODEL.RESNETS
        architecture = read_architecture(resnets)
        return Res5ROIHeads(
            in_features=heads.IN_FEATURES,
            sampling=sampling,
            pooler=pooler,
            res5=make_stage(
                architecture, "res5", norm=resnets.NORM, stride_in_1x1=resnets.STRIDE_IN_1X1
            ),
            box_predictor=_build_box_predictor(cfg, architecture.stages()[-1].out_channels),
        )
    head = BoxHead(
        in_channels=channels,
        resolution=box.POOLER_RESOLUTION,
        conv_dims=[box.CONV_DIM] * box.NUM_CONV,
        fc_dims=[box.FC_DIM] * box.NUM_FC,
        norm=box.NORM,
    )
    return StandardROIHeads(
        in_features=heads.IN_FEATURES,
        sampling=sampling,
        pooler=pooler,
        box_head=head,
        box_predictor=_build_box_predictor(cfg, head.out_features),
    )


def _build_box_predictor(cfg: CfgNode, in_features: int) -> BoxPredictor:
    heads, box = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD
    settings = BoxPredictorSettings(
        num_classes=heads.NUM_CLASSES,
        cls_agnostic_bbox_reg=box.CLS_AGNOSTIC_BBOX_REG,
        bbox_reg_weights=tuple(box.BBOX_REG_WEIGHTS),
        bbox_reg_loss_type=box.BBOX_REG_LOSS_TYPE,
        bbox_reg_loss_weight=box.BBOX_REG_LOSS_WEIGHT,
        smooth_l1_beta=box.SMOOTH_L1_BETA,
        score_thresh_test=heads.SCORE_THRESH_TEST,
        nms_thresh_test=heads.NMS_THRESH_TEST,
        detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
    )
    return BoxPredictor(in_features, settings)


def _common_channels(backbone: ResNeXt | FPN, names: list[str], key: str) -> int:
    channels = {name: backbone.out_channels[name] for name in names}
    if len(set(channels.values())) > 1:
        raise ValueError(
            f"{key} = {names} have {channels} channels, and one head serves them all; choose maps of one width"
        )
    return next(iter(channels.values()))
