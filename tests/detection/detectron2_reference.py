"""Build the real detectron2 from our configuration: what the portable engine must equal."""

from __future__ import annotations

from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from resnext_det.config.rules import get_value, list_keys
from resnext_det.instances import Boxes, Instances
from resnext_det.masks import BitMasks, PolygonMasks


def copy_cfg_to_detectron2(cfg: CfgNode) -> Any:
    """Copy the values of our configuration to detectron2's own."""
    from detectron2.config import get_cfg

    theirs = get_cfg()
    for key in list_keys(cfg):
        theirs.merge_from_list([key, get_value(cfg, key)])
    return theirs


def build_detectron2_detector(cfg: CfgNode) -> nn.Module:
    """Build detectron2's own model, with our residual stages."""
    from resnext_det.detection.detectron2.engine import build_detector

    theirs = copy_cfg_to_detectron2(cfg)
    theirs.MODEL.BACKBONE.NAME = cfg.MODEL.BACKBONE.NAME.replace("build_resnet_", "build_resnext_")
    return build_detector(theirs)


def copy_samples_to_detectron2(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Copy samples with detectron2's own Instances and Boxes."""
    from detectron2 import structures

    def copy_field(field: Any) -> Any:
        if isinstance(field, PolygonMasks):
            return structures.PolygonMasks(field.polygons)
        if isinstance(field, BitMasks):
            return structures.BitMasks(field.tensor.clone())
        if isinstance(field, Boxes):
            return structures.Boxes(field.tensor.clone())
        return field.clone()

    def copy(value: Any) -> Any:
        if not isinstance(value, Instances):
            return value
        fields = {name: copy_field(field) for name, field in value.get_fields().items()}
        return structures.Instances(value.image_size, **fields)

    return [{key: copy(value) for key, value in sample.items()} for sample in samples]


def assert_same_instances(ours: Any, theirs: Any) -> None:
    """Compare every field of our and detectron2's instances, to the last bit."""
    assert ours.image_size == theirs.image_size
    assert ours.get_fields().keys() == theirs.get_fields().keys()
    for name, value in theirs.get_fields().items():
        mine = ours.get(name)
        assert torch.equal(getattr(mine, "tensor", mine), getattr(value, "tensor", value)), name


def randomize(model: nn.Module, seed: int = 0) -> None:
    """Set random weights that keep activations near 1 and spread the outputs of the heads."""
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
            elif "mask_head.predictor.weight" in name:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
            elif "bbox_pred.weight" in name or "anchor_deltas.weight" in name:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.02)


def move_points(model: nn.Module, seed: int = 0) -> None:
    """Draw the convolutions that say where is sampled, so that points move by about a pixel."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "conv2_offset" in name:
                scale = 1.0 if name.endswith("bias") else 0.3 * parameter[0].numel() ** -0.5
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
