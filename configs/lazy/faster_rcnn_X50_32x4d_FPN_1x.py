"""detectron2's LazyConfig: what configs/modern/faster_rcnn_X50_32x4d_FPN_1x.yaml says, in Python.

# detectron2's own tool:
    python tools/lazyconfig_train_net.py --config-file configs/lazy/faster_rcnn_X50_32x4d_FPN_1x.py
"""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L

from resnext_det.detection.detectron2.backbone import ResNeXtBackbone

model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
dataloader = model_zoo.get_config("common/data/coco.py").dataloader
lr_multiplier = model_zoo.get_config("common/coco_schedule.py").lr_multiplier_1x
optimizer = model_zoo.get_config("common/optim.py").SGD
train = model_zoo.get_config("common/train.py").train

model.backbone.bottom_up = L(ResNeXtBackbone)(
    architecture="X-50-32x4d",
    norm="FrozenBN",
    out_features=["res2", "res3", "res4", "res5"],
    freeze_at=2,
)
for key in ("mask_in_features", "mask_pooler", "mask_head"):  # Faster R-CNN, not Mask R-CNN
    model.roi_heads.pop(key)
dataloader.train.mapper.use_instance_mask = False

# ImageNet weights of torchvision's kind: RGB images with these statistics.
model.input_format = "RGB"
model.pixel_mean = [123.675, 116.28, 103.53]
model.pixel_std = [58.395, 57.12, 57.375]
dataloader.train.mapper.image_format = "RGB"

train.init_checkpoint = (
    ""  # a detectron2 file of this network; with frozen norms nothing is learned without one
)
train.output_dir = "output/lazy/faster_rcnn_X50_32x4d_FPN_1x"
