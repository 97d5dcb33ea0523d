"""The RPN alone: step one of the paper's protocol, in which RPN and Fast R-CNN share no features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from resnext_det.engines.portable.meta_architecture import MetaArchitecture, in_original_size
from resnext_det.engines.portable.rpn import RPN


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
