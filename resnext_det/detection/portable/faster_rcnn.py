"""Faster and Mask R-CNN over torchvision's operators, from images to detections or losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from resnext_det.detection.portable.detector import Detector, restore_size
from resnext_det.detection.portable.roi_heads import ROIHeads
from resnext_det.detection.portable.rpn import RPN
from resnext_det.instances import Instances


class FasterRCNN(Detector):
    """Detect objects: backbone, region proposals, then classes, boxes and masks of the regions.

    With a mask head in ``roi_heads`` it is Mask R-CNN.

    Parameters have the names, and results the numbers, of detectron2's ``GeneralizedRCNN``, and
    without ``roi_heads`` of its ``ProposalNetwork``: checkpoints fit both.

    Args:
        backbone, pixel_mean, pixel_std, size_divisibility: see ``Detector``.
        proposal_generator: the RPN; None where proposals come with the samples (Fast R-CNN).
        roi_heads: None for an RPN alone, whose results are the proposals.
    """

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
        super().__init__(
            backbone=backbone,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            size_divisibility=size_divisibility,
        )
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads

    def forward(self, samples: Sequence[dict[str, Any]]) -> Any:
        """Compute the losses in training, and detections or proposals in inference.

        Args:
            samples: one dict per image, as detectron2's: ``image`` (C, H, W) on the scale 0-255 in
                the model's channel order; in training ``instances`` with ``gt_boxes`` and
                ``gt_classes``, and with a mask head ``gt_masks``; in inference ``height`` and
                ``width``, the size in which boxes and masks are wanted (the image's own where they
                are absent); without an RPN ``proposals`` with ``proposal_boxes`` and
                ``objectness_logits``, in pixels of ``image``.

        Returns:
            in training {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"},
            those of the parts that the model has; in inference one {"instances": Instances} per
            image, with ``pred_boxes``, ``scores`` and ``pred_classes``, and with a mask head
            ``pred_masks``, bool (N, height, width), or without ``roi_heads`` {"proposals":
            Instances}, with ``proposal_boxes`` and ``objectness_logits``; best first.

        Raises:
            ValueError: there is no image; one has another number of channels than the model;
                ``instances`` are missing in training, or masks of theirs with a mask head; or
                ``proposals`` without an RPN.
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

    def get_targets(self, samples: Sequence[dict[str, Any]]) -> list[Instances]:
        """Get the ground truth of every sample, on the model's device; with a mask head, masks."""
        targets = super().get_targets(samples)
        if self.roi_heads is not None and self.roi_heads.mask_head is not None:
            for sample, one in zip(samples, targets):
                if len(one) and not one.has("gt_masks"):
                    raise ValueError(
                        "training a mask head needs 'gt_masks' of the objects, which "
                        f"{sample.get('file_name', 'an image')} lacks; map it with masks, or write "
                        "MODEL.MASK_ON False"
                    )
        return targets

    def get_proposals(self, samples: Sequence[dict[str, Any]]) -> list[Instances]:
        """Get the proposals of every sample, on the model's device, where no RPN makes them."""
        why = "MODEL.PROPOSAL_GENERATOR.NAME = 'PrecomputedProposals' needs 'proposals'"
        remedy = "name their file in DATASETS.PROPOSAL_FILES_*, or give a configuration with an RPN"
        return self._get(samples, "proposals", why, remedy)
