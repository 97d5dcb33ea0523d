"""Pad images to a batch and scale results back: what every portable detector shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from resnext_det.detection.portable.boxes import find_larger
from resnext_det.detection.portable.pasting import paste_masks
from resnext_det.instances import Boxes, Instances


def restore_size(found: Instances, sample: dict[str, Any], field: str) -> Instances:
    """Scale boxes to the sample's ``height`` and ``width``, clip them, and drop the empty ones.

    Masks of the boxes, ``pred_masks`` (N, 1, S, S), become masks of the image, bool (N, height,
    width).

    Args:
        found: boxes and other fields in pixels of the resized image.
        sample: where ``height`` and ``width`` are absent, the size stays.
        field: the name of the boxes: ``pred_boxes`` or ``proposal_boxes``.
    """
    old_height, old_width = found.image_size
    height, width = sample.get("height", old_height), sample.get("width", old_width)
    boxes = found.get(field).tensor.clone()
    boxes[:, 0::2] *= width / old_width
    boxes[:, 1::2] *= height / old_height
    boxes = clip_boxes_to_image(boxes, (height, width))
    fields = {**found.get_fields(), field: Boxes(boxes)}
    restored = Instances((height, width), **fields)[find_larger(boxes)]
    if not restored.has("pred_masks"):
        return restored
    fields = restored.get_fields()
    masks = paste_masks(fields["pred_masks"], fields[field].tensor, (height, width))
    return Instances((height, width), **{**fields, "pred_masks": masks})


class Detector(nn.Module):
    """Hold the backbone of a detector and the numbers that normalize its images.

    Args:
        backbone: images (N, C, H, W) -> {name: feature map}.
        pixel_mean, pixel_std: one number per channel, on the scale 0-255, in the images' channel
            order.
        size_divisibility: the batch is padded to multiples of it; 0 pads to the largest image.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        backbone: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int = 0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.size_divisibility = size_divisibility
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """The model's device; samples may be elsewhere."""
        return self.pixel_mean.device

    def preprocess(self, samples: Sequence[dict[str, Any]]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Normalize the images, pad them with zeros at the right and the bottom, and stack them.

        Returns:
            images (N, C, H, W), and their (height, width) before padding.

        Raises:
            ValueError: there is no image; one has another number of channels than the model.
        """
        if not samples:
            raise ValueError("the batch holds no image; give one or more")
        channels = len(self.pixel_mean)
        for sample in samples:
            if sample["image"].dim() != 3 or len(sample["image"]) != channels:
                raise ValueError(
                    f"image {sample.get('file_name', '')} has the shape "
                    f"{tuple(sample['image'].shape)}; give ({channels}, H, W), as MODEL.PIXEL_MEAN "
                    "has a number for each channel"
                )
        images = [
            (sample["image"].to(self.device) - self.pixel_mean) / self.pixel_std
            for sample in samples
        ]
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        unit = max(self.size_divisibility, 1)
        height, width = (-(-max(side) // unit) * unit for side in zip(*sizes))
        batch = images[0].new_zeros(len(images), channels, height, width)
        for slot, image in zip(batch, images):
            slot[:, : image.shape[1], : image.shape[2]].copy_(image)
        return batch, sizes

    def get_targets(self, samples: Sequence[dict[str, Any]]) -> list[Instances]:
        """Get the ground truth of every sample, on the model's device."""
        why = "training needs 'instances' with the ground truth"
        return self._get(samples, "instances", why, "map it with is_train=True")

    def _get(
        self, samples: Sequence[dict[str, Any]], key: str, why: str, remedy: str
    ) -> list[Instances]:
        """Move an entry of every sample to the model's device; refuse samples that lack it."""
        missing = [sample.get("file_name", "an image") for sample in samples if key not in sample]
        if missing:
            raise ValueError(f"{why}, which {missing[0]} lacks; {remedy}")
        return [sample[key].to(self.device) for sample in samples]
