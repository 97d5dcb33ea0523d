"""Faster R-CNN on C4: what configs/modern/faster_rcnn_X50_32x4d_C4_1x.yaml says."""

from detectron2.config import LazyCall as L

from resnext_det.detection.detectron2.backbone import ResNeXtSharedRes5ROIHeads, make_stage

from .base import backbone as _backbone
from .base import load_parts

model, dataloader, optimizer, lr_multiplier, train = load_parts(
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.py"
)
model.backbone = _backbone
model.backbone.out_features = ["res4"]
model.roi_heads._target_ = ResNeXtSharedRes5ROIHeads
model.roi_heads.res5 = L(make_stage)(
    architecture="${...backbone.architecture}",
    name="res5",
    norm="${...backbone.norm}",
    out_channels=2048,  # the box predictor of detectron2's file reads it here
)
model.roi_heads.pop("mask_head")  # without this line and the next, it is Mask R-CNN
dataloader.train.mapper.use_instance_mask = False
train.output_dir = "output/lazy/faster_rcnn_X50_32x4d_C4_1x"
