"""detectron2's new baseline: Mask R-CNN from random weights, 100 epochs, large-scale jitter."""

from .base import backbone as _backbone
from .base import load_parts

model, dataloader, optimizer, lr_multiplier, train = load_parts(
    "new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py"
)
model.backbone.bottom_up = _backbone
# From random weights every norm is trained, over the images of all GPUs, and nothing is frozen.
model.backbone.bottom_up.norm = "SyncBN"
model.backbone.bottom_up.freeze_at = 0
# The norms of detectron2's heads, by name: so the tool can write the configuration to a file.
model.roi_heads.box_head.conv_norm = model.roi_heads.mask_head.conv_norm = "naiveSyncBN_N"
train.init_checkpoint = ""
train.output_dir = "output/lazy/mask_rcnn_X50_32x4d_FPN_100ep_LSJ"
