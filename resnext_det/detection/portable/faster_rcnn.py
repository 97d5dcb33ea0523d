"""Faster R-CNN over torchvision's operators: the parts in their order, from images to detections or losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from resnext_det.detection.portable.boxes import larger_than
from resnext_det.detection.portable.roi_heads import ROIHeads
from resnext_det.detection.portable.rpn import RPN
from resnext_det.instances import Boxes, Instances


class MetaArchitecture(nn.Module):
    """A backbone, and what it has to know of images.

    Args:
        backbone: images (N, C, H, W) -> {name: feature map}.
        pixel_mean, pixel_std: one number a channel, on the scale 0-255, in the images' channel order.
        size_divisibility: the batch is padded to multiples of it; 0 pads to the largest image only.
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
        self.register_buffer(
            "pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False
        )
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the model is; the samples may be elsewhere."""
        return self.pixel_mean.device

    def preprocess(self, samples: Sequence[dict[str, Any]]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Normalise, pad at the right and the bottom with zeros, batch -> images (N, C, H, W) and their sizes before padding.

        Raises:
            ValueError: there is no image; one has another number of channels than the model.
        """
        if not samples:
            raise ValueError("the batch holds no image; give one or more")
        channels = len(self.pixel_mean)
        for sample in samples:
            if sample["image"].dim() != 3 or len(sample["image"]) != channels:
                raise ValueError(
                    f"image {sample.get('file_name', '')} has the shape {tuple(sample['image'].shape)}; give ({channels}, H, W), as "
                    "MODEL.PIXEL_MEAN has a number for each channel"
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

    def targets_of(self, samples: Sequence[dict[str, Any]]) -> list[Any]:
        """The ground truth of every sample, where the model is; ValueError where one has none."""
        return self._given(
            samples,
            "instances",
            "training needs {} with the ground truth",
            "map it with is_train=True",
        )

    def proposals_of(self, samples: Sequence[dict[str, Any]]) -> list[Any]:
        """The precomputed proposals of every sample, where the model is; ValueError where one has none."""
        return self._given(
            samples,
            "proposals",
            "MODEL.PROPOSAL_GENERATOR.NAME = 'PrecomputedProposals' needs {}",
            "name their file in DATASETS.PROPOSAL_FILES_*, or give a configuration with an RPN",
        )

    def _given(
        self, samples: Sequence[dict[str, Any]], key: str, why: str, remedy: str
    ) -> list[Any]:
        missing = [sample.get("file_name", "an image") for sample in samples if key not in sample]
        if missing:
            raise ValueError(f"{why.format(repr(key))}, which {missing[0]} lacks; {remedy}")
        return [sample[key].to(self.device) for sample in samples]


def in_original_size(found: Instances, sample: dict[str, Any], field: str) -> Instances:
    """Scale boxes from the resized image to the sample's ``height`` and ``width``, clip them, drop the empty ones.

    Args:
        found: boxes and other fields in pixels of the resized image.
        sample: where ``height`` and ``width`` are absent, the size stays.
        field: the name of the boxes: ``pred_boxes``, ``proposal_boxes``.
    """
    height, width = (
        sample.get("height", found.image_size[0]),
        sample.get("width", found.image_size[1]),
    )
    scale_x, scale_y = width / found.image_size[1], height / found.image_size[0]
    boxes = found.get(field).tensor.clone()
    boxes[:, 0::2] *= scale_x
    boxes[:, 1::2] *= scale_y
    boxes = clip_boxes_to_image(boxes, (height, width))
    fields = {**found.get_fields(), field: Boxes(boxes)}
    return Instances((height, width), **fields)[larger_than(boxes)]


class ProposalNetwork(MetaArchitecture):
    """Backbone features -> region proposals, with the names and the numbers of detectron2's ``ProposalNetwork``.

    Args:
        backbone: images (N, C, H, W) -> {name: feature map}.
        proposal_generator: the RPN.
        pixel_mean, pixel_std, size_divisibility: as ``MetaArchitecture``'s.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        proposal_generator: RPN,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int = 0,
    ) -> None:
        super().__init__(
            backbone=backbone,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            size_divisibility=size_divisibility,
        )
        self.proposal_generator = proposal_generator

    def forward(self, samples: Sequence[dict[str, Any]]) -> Any:
        """Losses in training, proposals in inference.

        Args:
            samples: as ``GeneralizedRCNN``'s; of ``instances`` only ``gt_boxes`` matters.

        Returns:
            in training {"loss_rpn_cls", "loss_rpn_loc"}; in inference one {"proposals": Instances} an image, with ``proposal_boxes`` in
            pixels of the original image, and ``objectness_logits``, best first.

        Raises:
            ValueError: as ``GeneralizedRCNN``.
        """
        images, image_sizes = self.preprocess(samples)
        targets = self.targets_of(samples) if self.training else None
        features = self.backbone(images)
        proposals, losses = self.proposal_generator(
            image_sizes, features, targets, with_proposals=not self.training
        )
        if self.training:
            return losses
        return [
            {"proposals": in_original_size(found, sample, "proposal_boxes")}
            for found, sample in zip(proposals, samples)
        ]


class GeneralizedRCNN(MetaArchitecture):
    """Backbone features -> region proposals -> classes and boxes of the regions.

    It bears detectron2's parameter names and computes detectron2's numbers: checkpoints move between the two untouched.

    Args:
        backbone: images (N, C, H, W) -> {name: feature map}.
        proposal_generator: the RPN; None where proposals come with the samples, which is Fast R-CNN.
        roi_heads: the per-region part.
        pixel_mean, pixel_std, size_divisibility: as ``MetaArchitecture``'s.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        proposal_generator: RPN | None,
        roi_heads: ROIHeads,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int = 0,
    ) -> None:
        super().__init__(
            backbone=backbone,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            size_divisibility=size_divisibility,
        )
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads

    def forward(self, samples: Sequence[dict[str, Any]]) -> Any:
        """Losses in training, detections in inference.

        Args:
            samples: one dict an image, as detectron2's: ``image`` (C, H, W) on the scale 0-255 in the model's channel order; in
                training ``instances`` with ``gt_boxes`` and ``gt_classes``; in inference ``height`` and ``width``, the size in
                which the boxes are wanted (the image's own where they are absent); without an RPN ``proposals`` with
                ``proposal_boxes`` and ``objectness_logits``, in pixels of ``image``.

        Returns:
            in training {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}, without an RPN the last two; in inference one
            {"instances": Instances} an image, with ``pred_boxes``, ``scores`` and ``pred_classes``, best first.

        Raises:
            ValueError: there is no image; one has another number of channels than the model; ``instances`` are missing in training,
                or ``proposals`` without an RPN.
            FloatingPointError: training has diverged.
        """
        images, image_sizes = self.preprocess(samples)
        targets = self.targets_of(samples) if self.training else None
        features = self.backbone(images)
        if self.proposal_generator is None:
            proposals, proposal_losses = self.proposals_of(samples), {}
        else:
            proposals, proposal_losses = self.proposal_generator(image_sizes, features, targets)
        detections, detection_losses = self.roi_heads(features, proposals, targets)
        if self.training:
            return {**detection_losses, **proposal_losses}
        return [
            {"instances": in_original_size(found, sample, "pred_boxes")}
            for found, sample in zip(detections, samples)
        ]
