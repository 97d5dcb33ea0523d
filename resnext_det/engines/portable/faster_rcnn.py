"""Faster R-CNN over torchvision's operators: the parts in their order, from images to detections or losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from resnext_det.engines.portable.boxes import larger_than
from resnext_det.engines.portable.roi_heads import ROIHeads
from resnext_det.engines.portable.rpn import RPN
from resnext_det.instances import Boxes, Instances


class GeneralizedRCNN(nn.Module):
    """Backbone features -> region proposals -> classes and boxes of the regions.

    It bears detectron2's parameter names and computes detectron2's numbers: checkpoints move between the two untouched.

    Args:
        backbone: images (N, C, H, W) -> {name: feature map}.
        proposal_generator: the RPN.
        roi_heads: the per-region part.
        pixel_mean, pixel_std: one number a channel, on the scale 0-255, in the images' channel order.
        size_divisibility: the batch is padded to multiples of it; 0 pads to the largest image only.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        backbone: nn.Module,
        proposal_generator: RPN,
        roi_heads: ROIHeads,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int = 0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads
        self.size_divisibility = size_divisibility
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the model is; the samples may be elsewhere."""
        return self.pixel_mean.device

    def forward(self, samples: Sequence[dict[str, Any]]) -> Any:
        """Losses in training, detections in inference.

        Args:
            samples: one dict an image, as detectron2's: ``image`` (C, H, W) on the scale 0-255 in the model's channel order; in
                training ``instances`` with ``gt_boxes`` and ``gt_classes``; in inference ``height`` and ``width``, the size in
                which the boxes are wanted (the image's own where they are absent).

        Returns:
            in training {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}; in inference one {"instances": Instances}
            an image, with ``pred_boxes``, ``scores`` and ``pred_classes``, best first.

        Raises:
            ValueError: there is no image; one has another number of channels than the model; ``instances`` are missing in training.
            FloatingPointError: training has diverged.
        """
        images, image_sizes = self.preprocess(samples)
        targets = self._targets(samples) if self.training else None
        features = self.backbone(images)
        proposals, proposal_losses = self.proposal_generator(image_sizes, features, targets)
        detections, detection_losses = self.roi_heads(features, proposals, targets)
        if self.training:
            return {**detection_losses, **proposal_losses}
        return [
            {
                "instances": _in_original_size(
                    found, sample.get("height", size[0]), sample.get("width", size[1])
                )
            }
            for found, sample, size in zip(detections, samples, image_sizes)
        ]

    def preprocess(self, samples: Sequence[dict[str, Any]]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Normalise, pad at the right and the bottom with zeros, batch -> images (N, C, H, W) and their sizes before padding."""
        if not samples:
            raise ValueError("the batch holds no image; give one or more")
        channels = len(self.pixel_mean)
        for sample in samples:
            if sample["image"].dim() != 3 or len(sample["image"]) != channels:
                raise ValueError(
                    f"image {sample.get('file_name', '')} has the shape {tuple(sample['image'].shape)}; give ({channels}, H, W), as "
                    "MODEL.PIXEL_MEAN has a number for each channel"
                )
        images = [(sample["image"].to(self.device) - self.pixel_mean) / self.pixel_std for sample in samples]
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        unit = max(self.size_divisibility, 1)
        height, width = (-(-max(side) // unit) * unit for side in zip(*sizes))
        batch = images[0].new_zeros(len(images), channels, height, width)
        for slot, image in zip(batch, images):
            slot[:, : image.shape[1], : image.shape[2]].copy_(image)
        return batch, sizes

    def _targets(self, samples: Sequence[dict[str, Any]]) -> list[Any]:
        missing = [sample.get("file_name", "an image") for sample in samples if "instances" not in sample]
        if missing:
            raise ValueError(
                f"training needs 'instances' with the ground truth, which {missing[0]} lacks; map it with is_train=True"
            )
        return [sample["instances"].to(self.device) for sample in samples]


def _in_original_size(found: Instances, height: int, width: int) -> Instances:
    """Scale boxes from the resized image to (height, width), clip them, drop the empty ones."""
    scale_x, scale_y = width / found.image_size[1], height / found.image_size[0]
    boxes = found.pred_boxes.tensor.clone()
    boxes[:, 0::2] *= scale_x
    boxes[:, 1::2] *= scale_y
    boxes = clip_boxes_to_image(boxes, (height, width))
    kept = larger_than(boxes)
    return Instances(
        (height, width),
        pred_boxes=Boxes(boxes[kept]),
        scores=found.scores[kept],
        pred_classes=found.pred_classes[kept],
    )
