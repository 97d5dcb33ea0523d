"""The real detectron2, set up from our configuration, with our network as its backbone: what the portable engine must equal."""

from __future__ import annotations

from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from resnext_det.config.backbone import architecture_of
from resnext_det.config.checks import uses_fpn, value_of
from resnext_det.config.loading import keys_of
from resnext_det.resnext import ResNeXt, make_stage


def detectron2_cfg(cfg: CfgNode) -> Any:
    """detectron2's own configuration with the values of ours."""
    from detectron2.config import get_cfg

    theirs = get_cfg()
    for key in keys_of(cfg):
        theirs.merge_from_list([key, value_of(cfg, key)])
    return theirs


def build_detectron2_detector(cfg: CfgNode) -> nn.Module:
    """detectron2's GeneralizedRCNN: everything its own, but for the residual stages, which are ours."""
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import Backbone, GeneralizedRCNN, build_proposal_generator, build_roi_heads
    from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool

    class OurBackbone(ResNeXt, Backbone):
        def output_shape(self) -> dict[str, Any]:
            return {
                name: ShapeSpec(channels=self.out_channels[name], stride=self.out_strides[name])
                for name in self.out_features
            }

    resnets = cfg.MODEL.RESNETS
    backbone: Any = OurBackbone(
        architecture_of(cfg),
        norm=resnets.NORM,
        out_features=tuple(resnets.OUT_FEATURES),
        stride_in_1x1=resnets.STRIDE_IN_1X1,
        dilate_res5=resnets.RES5_DILATION == 2,
        in_channels=len(cfg.MODEL.PIXEL_MEAN),
    )
    backbone.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)
    if uses_fpn(cfg):
        fpn = cfg.MODEL.FPN
        backbone = FPN(
            backbone,
            fpn.IN_FEATURES,
            fpn.OUT_CHANNELS,
            norm=fpn.NORM,
            top_block=LastLevelMaxPool(),
            fuse_type=fpn.FUSE_TYPE,
        )
    theirs = detectron2_cfg(cfg)
    model = GeneralizedRCNN(
        backbone=backbone,
        proposal_generator=build_proposal_generator(theirs, backbone.output_shape()),
        roi_heads=build_roi_heads(theirs, backbone.output_shape()),
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
    )
    if cfg.MODEL.ROI_HEADS.NAME == "Res5ROIHeads":
        model.roi_heads.res5 = make_stage(
            architecture_of(cfg), "res5", norm=resnets.NORM, stride_in_1x1=resnets.STRIDE_IN_1X1
        )
    return model


def detectron2_samples(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same samples with detectron2's own Instances and Boxes."""
    from detectron2.structures import Boxes, Instances

    converted = []
    for sample in samples:
        truth = sample["instances"]
        instances = Instances(truth.image_size)
        instances.gt_boxes = Boxes(truth.gt_boxes.tensor.clone())
        instances.gt_classes = truth.gt_classes.clone()
        converted.append({**sample, "instances": instances})
    return converted


def randomize(model: nn.Module, seed: int = 0) -> None:
    """Random weights that make a lively detector: statistics that keep activations near 1, heads that spread their outputs."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("norm.weight"):
                uniform(tensor, 0.3, 0.6)
            elif name.endswith("norm.running_var"):
                uniform(tensor, 0.5, 1.5)
            elif name.endswith(("norm.bias", "running_mean")):
                uniform(tensor, -0.1, 0.1)
            elif "cls_score.weight" in name or "objectness_logits.weight" in name:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.05)
            elif "bbox_pred.weight" in name or "anchor_deltas.weight" in name:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.02)
