"""Faster R-CNN over torchvision's operators: the parts in their order, from images to detections or losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from resnext_det.engines.portable.meta_architecture import MetaArchitecture, in_original_size
from resnext_det.engines.portable.roi_heads import ROIHeads
from resnext_det.engines.portable.rpn import RPN


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
