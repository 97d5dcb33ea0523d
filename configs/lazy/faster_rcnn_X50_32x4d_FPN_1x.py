"""Faster R-CNN on FPN: what configs/modern/faster_rcnn_X50_32x4d_FPN_1x.yaml says."""

from .mask_rcnn_X50_32x4d_FPN_1x import dataloader, lr_multiplier, model, optimizer, train  # noqa: F401

for key in ("mask_in_features", "mask_pooler", "mask_head"):
    model.roi_heads.pop(key)
dataloader.train.mapper.use_instance_mask = False
train.output_dir = "output/lazy/faster_rcnn_X50_32x4d_FPN_1x"
