"""Classify and refine regions in stages, each at a higher IoU: Cascade R-CNN (arXiv 1712.00726).

Names and numbers are those of detectron2's ``CascadeROIHeads``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from resnext_det.detection.portable.boxes import join_boxes
from resnext_det.detection.portable.roi_heads import StandardROIHeads
from resnext_det.detection.portable.sampling import SampledRegions, label_boxes
from resnext_det.instances import Instances


class CascadeROIHeads(StandardROIHeads):
    """Run box heads one after another, each on the boxes that the one before it predicts.

    Args:
        head: the box heads of the stages, an ``nn.ModuleList``.
        box_predictor: the predictors of the stages, an ``nn.ModuleList`` of class-agnostic ones.
        stage_ious: the IoU of each stage from which a region is an object; that of the first
            stage is the threshold of ``sampling``.
        arguments: those of ``ROIHeads``.
    """

    box_head: nn.ModuleList

    def __init__(self, *, stage_ious: Sequence[float], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.stage_ious = tuple(stage_ious)

    def compute_box_losses(
        self, maps: Sequence[Tensor], sampled: SampledRegions, targets: Sequence[Instances]
    ) -> dict[str, Tensor]:
        """Compute the losses of every stage: ``loss_cls_stage0``, ``loss_box_reg_stage0`` ...

        Stage 0 has the sampled regions; a later one all boxes of the stage before it, clipped to
        their image and without those that are empty then.

        Raises:
            FloatingPointError: a predicted box is not finite.
        """
        losses: dict[str, Tensor] = {}
        for stage, predictor in enumerate(self.box_predictor):
            logits, deltas = self.run_stage(stage, maps, sampled.regions)
            found = predictor.compute_losses(logits, deltas, sampled)
            losses |= {f"{name}_stage{stage}": loss for name, loss in found.items()}
            if stage + 1 < len(self.box_predictor):
                boxes = predictor.transform.decode(deltas.detach(), sampled.regions[:, 1:])
                _refuse_divergence(boxes)
                threshold = self.stage_ious[stage + 1]
                sampled = label_boxes(
                    boxes, sampled.regions, targets, threshold, self.sampling.num_classes
                )
        return losses

    def detect_boxes(
        self, maps: Sequence[Tensor], proposals: Sequence[Instances]
    ) -> list[Instances]:
        """Detect among the proposals of every image, with the mean of the stages' scores."""
        boxes = [proposal.proposal_boxes.tensor for proposal in proposals]
        decoded, scores = self.decode(maps, boxes, [one.image_size for one in proposals])
        return self.box_predictor[-1].detect(decoded, scores, proposals)

    def decode(
        self,
        maps: Sequence[Tensor],
        boxes: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> tuple[Tensor, Tensor]:
        """Refine the boxes (Ri, 4) of each of N images by all stages.

        Returns:
            the boxes of the last stage (sum of Ri, 4), not clipped, and the mean of the stages'
            scores (sum of Ri, K + 1).
        """
        # Not len(), which has to be a number in a graph that is traced.
        counts, all_scores = [one.shape[0] for one in boxes], []
        for stage, predictor in enumerate(self.box_predictor):
            regions = join_boxes(boxes)
            logits, deltas = self.run_stage(stage, maps, regions)
            decoded, scores = predictor.decode(logits, deltas, regions[:, 1:])
            all_scores.append(scores)
            # None is dropped, empty or not, as the scores of all stages are added up.
            boxes = [
                clip_boxes_to_image(one, size)
                for one, size in zip(decoded.split(counts), image_sizes)
            ]
        return decoded, sum(all_scores) * (1.0 / len(all_scores))

    def run_stage(
        self, stage: int, maps: Sequence[Tensor], regions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predict logits (R, K + 1) and deltas (R, 4) of regions (R, 5) by one stage.

        In training the gradient that the maps get is divided by the number of stages.
        """
        cut = self.pooler.pool(maps, regions)
        if self.training:
            cut = _ScaleGradient.apply(cut, 1.0 / len(self.box_predictor))
        return self.box_predictor[stage](self.box_head[stage](cut).flatten(1))


class _ScaleGradient(torch.autograd.Function):
    """Give a tensor back as it is, and scale its gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.scale, None


def _refuse_divergence(boxes: Tensor) -> None:
    """Refuse boxes that are not finite; a graph of torch.compile cannot raise, and goes on."""
    if not torch.compiler.is_compiling() and not torch.isfinite(boxes).all():
        # The training loop adds the iteration, the images and the remedy.
        raise FloatingPointError("a stage of the cascade predicts boxes that are not finite")
