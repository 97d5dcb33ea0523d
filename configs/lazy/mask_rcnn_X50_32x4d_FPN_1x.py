"""Mask R-CNN on FPN: detectron2's mask_rcnn_R_50_FPN_1x with a ResNeXt and its weights."""

from .base import backbone as _backbone
from .base import load_parts

model, dataloader, optimizer, lr_multiplier, train = load_parts(
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py"
)
model.backbone.bottom_up = _backbone
train.output_dir = "output/lazy/mask_rcnn_X50_32x4d_FPN_1x"
