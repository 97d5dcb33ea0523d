"""Faster R-CNN over torchvision's operators, from images to detections or losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from resnext_det.detection.portable.boxes import find_larger
from resnext_det.detection.portable.roi_heads import ROIHeads
from resnext_det.detection.portable.rpn import RPN
from resnext_det.instances import Boxes, Instances


def restore_size(found: Instances, sample: dict[str, Any], field: str) -> Instances:
    """Scale boxes to the sample's ``height`` and ``width``, clip them, and drop the empty ones.

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
    return Instances((height, width), **fields)[find_larger(boxes)]


class FasterRCNN(nn.Module):
    """Detect objects: backbone, region proposals, then classes and boxes of the regions.

    Parameters have the names, and results the numbers, of detectron2's ``GeneralizedRCNN``, and
    without ``roi_heads`` of its ``ProposalNetwork``: checkpoints fit both.

    Args:
        backbone: images (N, C, H, W) -> {name: feature map}.
        proposal_generator: the RPN; None where proposals come with the samples (Fast R-CNN).
        roi_heads: None for an RPN alone, whose results are the proposals.
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
        proposal_generator: RPN | None,
        roi_heads: ROIHeads | None,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int = 0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads
        self.size_divisibility = size_divisibility
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """The model's device; samples may be elsewhere."""
        return self.pixel_mean.device

    def forward(self, samples: Sequence[dict[str, Any]]) -> Any:
        """Compute the losses in training, and detections or proposals in inference.

        Args:
            samples: one dict per image, as detectron2's: ``image`` (C, H, W) on the scale 0-255 in
                the model's channel order; in training ``instances`` with ``gt_boxes`` and
                ``gt_classes``; in inference ``height`` and ``width``, the size in which boxes are
                wanted (the image's own where they are absent); without an RPN ``proposals`` with
                ``proposal_boxes`` and ``objectness_logits``, in pixels of ``image``.

        Returns:
            in training {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}, those of the
            parts that the model has; in inference one {"instances": Instances} per image, with
            ``pred_boxes``, ``scores`` and ``pred_classes``, or without ``roi_heads``
            {"proposals": Instances}, with ``proposal_boxes`` and ``objectness_logits``; best first.

        Raises:
            ValueError: there is no image; one has another number of channels than the model;
                ``instances`` are missing in training, or ``proposals`` without an RPN.
            FloatingPointError: training has diverged.
        """
        images, image_sizes = self.preprocess(samples)
        targets = self.get_targets(samples) if self.training else None
        proposals = self.get_proposals(samples) if self.proposal_generator is None else []
        found, losses = self.compute(images, image_sizes, targets, proposals)
        if self.training:
            return losses
        key, field = ("instances", "pred_boxes")
        if self.roi_heads is None:
            key, field = ("proposals", "proposal_boxes")
        return [{key: restore_size(one, sample, field)} for one, sample in zip(found, samples)]

    def compute(
        self,
        images: Tensor,
        image_sizes: Sequence[tuple[int, int]],
        targets: Sequence[Instances] | None,
        proposals: Sequence[Instances],
    ) -> tuple[Sequence[Instances], dict[str, Tensor]]:
        """Compute from what ``preprocess``, ``get_targets`` and ``get_proposals`` give.

        Returns:
            in inference what is found, in pixels of the images; and in training the losses.
        """
        features = self.backbone(images)
        found, losses = proposals, {}
        if self.proposal_generator is not None:
            wanted = self.roi_heads is not None or not self.training
            found, losses = self.proposal_generator(
                image_sizes, features, targets, with_proposals=wanted
            )
        if self.roi_heads is not None:
            found, head_losses = self.roi_heads(features, found, targets)
            losses = {**head_losses, **losses}
        return found, losses

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

    def get_proposals(self, samples: Sequence[dict[str, Any]]) -> list[Instances]:
        """Get the proposals of every sample, on the model's device, where no RPN makes them."""
        why = "MODEL.PROPOSAL_GENERATOR.NAME = 'PrecomputedProposals' needs 'proposals'"
        remedy = "name their file in DATASETS.PROPOSAL_FILES_*, or give a configuration with an RPN"
        return self._get(samples, "proposals", why, remedy)

    def _get(
        self, samples: Sequence[dict[str, Any]], key: str, why: str, remedy: str
    ) -> list[Instances]:
        """Move an entry of every sample to the model's device; refuse samples that lack it."""
        missing = [sample.get("file_name", "an image") for sample in samples if key not in sample]
        if missing:
            raise ValueError(f"{why}, which {missing[0]} lacks; {remedy}")
        return [sample[key].to(self.device) for sample in samples]
