"""Put our builders in place of detectron2's own: a plugin of pytest for detectron2's own tests.

With ``REPLACE_BUILDERS=0`` everything else is done, and detectron2's builders stay.

What the tests would download is drawn: an image, and weights that give detections.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from detectron2 import model_zoo
from detectron2.modeling import BACKBONE_REGISTRY, ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import Res5ROIHeads
from detectron2.utils import testing
from torch import nn

import resnext_det  # noqa: F401

_OURS = {
    "build_resnet_backbone": "build_resnext_backbone",
    "build_resnet_fpn_backbone": "build_resnext_fpn_backbone",
    "build_retinanet_resnet_fpn_backbone": "build_retinanet_resnext_fpn_backbone",
}


def _replace_builders() -> None:
    for own, ours in _OURS.items():
        replaced, builder = BACKBONE_REGISTRY.get(own), BACKBONE_REGISTRY.get(ours)
        BACKBONE_REGISTRY._obj_map[own] = builder
        for name, module in list(sys.modules.items()):
            if name.startswith("detectron2.") and getattr(module, own, None) is replaced:
                setattr(module, own, builder)
    head = ROI_HEADS_REGISTRY.get("ResNeXtRes5ROIHeads")
    assert issubclass(head, Res5ROIHeads)
    ROI_HEADS_REGISTRY._obj_map["Res5ROIHeads"] = head


def _get_random_model(path: str, trained: bool = False, device: str | None = None) -> nn.Module:
    torch.manual_seed(0)
    model = testing.get_model_no_weights(path)
    if trained:
        _randomize(model)
    return model


def _randomize(model: nn.Module) -> None:
    """Draw weights that keep activations near 1; every detection counts, of few proposals."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("norm.weight"):
                nn.init.uniform_(value, 0.3, 0.6)
            elif "cls_score.weight" in name or "objectness_logits.weight" in name:
                nn.init.normal_(value, std=0.05)
    for module in model.modules():
        if hasattr(module, "test_score_thresh"):
            module.test_score_thresh = 0.0
        if hasattr(module, "post_nms_topk"):
            module.post_nms_topk = {True: 20, False: 20}  # C4 runs res5 on each


def _draw_image(tensor: bool = True) -> Any:
    image = torch.randint(0, 255, (3, 160, 224), generator=torch.Generator().manual_seed(0))
    image = image.to(torch.uint8)
    return image if tensor else image.permute(1, 2, 0).numpy()


model_zoo.get = _get_random_model
testing.get_sample_coco_image = _draw_image
if os.environ["REPLACE_BUILDERS"] == "1":
    _replace_builders()
