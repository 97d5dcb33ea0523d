"""The two linear outputs of Fast R-CNN: class logits and box deltas, their losses, and the detections they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, clip_boxes_to_image

from resnext_det.detection.portable.boxes import BoxTransform, box_regression_loss
from resnext_det.instances import Boxes, Instances


@dataclass(frozen=True)
class BoxPredictorSettings:
    """What ``MODEL.ROI_BOX_HEAD``, ``MODEL.ROI_HEADS`` and ``TEST`` say of the outputs, under their own names."""

    num_classes: int
    cls_agnostic_bbox_reg: bool
    bbox_reg_weights: tuple[float, ...]
    bbox_reg_loss_type: str
    bbox_reg_loss_weight: float
    smooth_l1_beta: float
    score_thresh_test: float
    nms_thresh_test: float
    detections_per_image: int


class BoxPredictor(nn.Module):
    """scores = W_c x, deltas = W_b x, for K classes and the background, which comes last.

    Args:
        in_features: length of a region's feature vector.
        settings: K, thresholds and loss weights.
    """

    def __init__(self, in_features: int, settings: BoxPredictorSettings) -> None:
        super().__init__()
        self.settings = settings
        self.transform = BoxTransform(settings.bbox_reg_weights)
        self.cls_score = nn.Linear(in_features, settings.num_classes + 1)
        self.bbox_pred = nn.Linear(
            in_features, 4 if settings.cls_agnostic_bbox_reg else 4 * settings.num_classes
        )
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (R, in_features) -> logits (R, K + 1) and deltas (R, 4 * K), or (R, 4) where class-agnostic."""
        return self.cls_score(features), self.bbox_pred(features)

    def losses(
        self, logits: Tensor, deltas: Tensor, regions: Sequence[Instances]
    ) -> dict[str, Tensor]:
        """``loss_cls``: the mean over regions; ``loss_box_reg``: the sum over objects, divided by all regions.

        Args:
            regions: per image ``proposal_boxes``, ``gt_boxes`` and ``gt_classes``, where K is the background.
        """
        num_classes = self.settings.num_classes
        classes = torch.cat([region.gt_classes for region in regions])
        boxes = torch.cat([region.proposal_boxes.tensor for region in regions])
        targets = torch.cat([region.gt_boxes.tensor for region in regions])
        # The mean over no region is not a number; a sum over none is 0 and keeps the graph.
        loss_cls = F.cross_entropy(logits, classes) if classes.numel() else logits.sum() * 0.0
        objects = ((classes >= 0) & (classes < num_classes)).nonzero().flatten()
        if self.settings.cls_agnostic_bbox_reg:
            object_deltas = deltas[objects]
        else:
            object_deltas = deltas.reshape(len(deltas), num_classes, 4)[objects, classes[objects]]
        loss_box_reg = box_regression_loss(
            boxes[objects],
            object_deltas,
            targets[objects],
            transform=self.transform,
            loss_type=self.settings.bbox_reg_loss_type,
            smooth_l1_beta=self.settings.smooth_l1_beta,
        )
        normalizer = max(classes.numel(), 1.0)
        return {
            "loss_cls": loss_cls,
            "loss_box_reg": loss_box_reg / normalizer * self.settings.bbox_reg_loss_weight,
        }

    def detect(
        self, logits: Tensor, deltas: Tensor, proposals: Sequence[Instances]
    ) -> list[Instances]:
        """Per image ``pred_boxes``, ``scores`` and ``pred_classes``, best first, in pixels of the resized image."""
        counts = [len(proposal) for proposal in proposals]
        boxes = self.transform.decode(
            deltas, torch.cat([proposal.proposal_boxes.tensor for proposal in proposals])
        )
        scores = F.softmax(logits, dim=-1)
        return [
            self._detect_in_image(image_boxes, image_scores, proposal.image_size)
            for image_boxes, image_scores, proposal in zip(
                boxes.split(counts), scores.split(counts), proposals
            )
        ]

    def _detect_in_image(
        self, boxes: Tensor, scores: Tensor, image_size: tuple[int, int]
    ) -> Instances:
        finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores).all(dim=1)
        boxes, scores = boxes[finite], scores[finite][:, :-1]
        boxes = clip_boxes_to_image(boxes.unflatten(1, (-1, 4)), image_size)  # (R, K or 1, 4)
        region, label = (scores > self.settings.score_thresh_test).nonzero().unbind(dim=1)
        boxes = boxes[region, torch.zeros_like(label) if boxes.shape[1] == 1 else label]
        scores = scores[region, label]
        kept = batched_nms(boxes.float(), scores, label, self.settings.nms_thresh_test)
        if self.settings.detections_per_image >= 0:
            kept = kept[: self.settings.detections_per_image]
        return Instances(
            image_size, pred_boxes=Boxes(boxes[kept]), scores=scores[kept], pred_classes=label[kept]
        )
