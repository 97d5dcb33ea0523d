"""Configure what the examples share: ResNeXt-50 (32x4d), and the images its weights expect.

An example is run by detectron2's own tool, tools/lazyconfig_train_net.py:

    python tools/lazyconfig_train_net.py --config-file configs/lazy/mask_rcnn_X50_32x4d_FPN_1x.py
"""

from typing import Any

from detectron2 import model_zoo
from detectron2.config import LazyCall as L

from resnext_det.detection.detectron2.backbone import ResNeXtBackbone

backbone = L(ResNeXtBackbone)(
    architecture="X-50-32x4d",
    norm="FrozenBN",
    out_features=["res2", "res3", "res4", "res5"],
    freeze_at=2,
)


def load_parts(name: str) -> list[Any]:
    """Load (model, dataloader, optimizer, lr_multiplier, train) of detectron2, for RGB images."""
    config = model_zoo.get_config(name)
    config.model.input_format = config.dataloader.train.mapper.image_format = "RGB"
    config.model.pixel_mean = [123.675, 116.28, 103.53]
    config.model.pixel_std = [58.395, 57.12, 57.375]
    # Downloaded once. Instead: a file that tools/convert_weights.py wrote, of the same images.
    config.train.init_checkpoint = "resnext://mmpretrain/X-50-32x4d"
    return [config[key] for key in ("model", "dataloader", "optimizer", "lr_multiplier", "train")]
