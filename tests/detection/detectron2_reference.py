"""The real detectron2, set up from our configuration, with our network as its backbone: what the portable engine must equal."""

from __future__ import annotations

from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from resnext_det.config.rules import get_value, list_keys


def detectron2_cfg(cfg: CfgNode) -> Any:
    """detectron2's own configuration with the values of ours."""
    from detectron2.config import get_cfg

    theirs = get_cfg()
    for key in list_keys(cfg):
        theirs.merge_from_list([key, get_value(cfg, key)])
    return theirs


def build_detectron2_detector(cfg: CfgNode) -> nn.Module:
    """detectron2's own meta-architecture, everything in it its own but for the residual stages, which are ours."""
    from resnext_det.detection.detectron2.engine import build_detector

    theirs = detectron2_cfg(cfg)
    theirs.MODEL.BACKBONE.NAME = cfg.MODEL.BACKBONE.NAME.replace("build_resnet_", "build_resnext_")
    return build_detector(theirs)


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
