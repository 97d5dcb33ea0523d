"""The head of a region: its layers, its class logits and box deltas, losses and detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import clip_boxes_to_image

from resnext_det.detection.portable.boxes import (
    BoxTransform,
    compute_box_loss,
    suppress_overlaps,
)
from resnext_det.detection.portable.sampling import SampledRegions
from resnext_det.instances import Boxes, Instances
from resnext_det.layers import ConvNorm


class BoxHead(nn.Sequential):
    """Map pooled regions (R, C, H, W) to vectors: detectron2's FastRCNNConvFCHead.

    The 3x3 convolutions ``conv1`` ... come first, then the fully connected layers ``fc1`` ...,
    each with ReLU.

    Attributes:
        out_features: values per region.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        resolution: int,
        conv_dims: Sequence[int],
        fc_dims: Sequence[int],
        norm: str = "",
    ) -> None:
        super().__init__()
        convolutions, layers = [], []
        channels = in_channels
        for index, dim in enumerate(conv_dims, start=1):
            convolutions.append(
                ConvNorm(channels, dim, kernel_size=3, padding=1, norm=norm, activation=nn.ReLU())
            )
            self.add_module(f"conv{index}", convolutions[-1])
            channels = dim
        size = channels * resolution**2
        if fc_dims:
            self.add_module("flatten", nn.Flatten())
        for index, dim in enumerate(fc_dims, start=1):
            layers.append(nn.Linear(size, dim))
            self.add_module(f"fc{index}", layers[-1])
            self.add_module(f"fc_relu{index}", nn.ReLU())
            size = dim
        self.out_features = size
        # After all are made, as in detectron2, so that one seed gives the same weights there.
        for convolution in convolutions:
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
        for layer in layers:
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)


@dataclass(frozen=True)
class BoxPredictorSettings:
    """Keys of ``MODEL.ROI_BOX_HEAD``, ``MODEL.ROI_HEADS`` and ``TEST``."""

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
    """Predict classes and boxes from region vectors, by two linear layers (Fast R-CNN).

    There are K classes, and the background comes last.

    Args:
        in_features: values per region.
        settings: K, thresholds and loss weights.
    """

    def __init__(self, in_features: int, settings: BoxPredictorSettings) -> None:
        super().__init__()
        self.settings = settings
        self.transform = BoxTransform(settings.bbox_reg_weights)
        box_sets = 1 if settings.cls_agnostic_bbox_reg else settings.num_classes
        self.cls_score = nn.Linear(in_features, settings.num_classes + 1)
        self.bbox_pred = nn.Linear(in_features, 4 * box_sets)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map features (R, in_features) to logits (R, K + 1) and deltas (R, 4 * K).

        Class-agnostic deltas are (R, 4).
        """
        return self.cls_score(features), self.bbox_pred(features)

    def compute_losses(
        self, logits: Tensor, deltas: Tensor, sampled: SampledRegions
    ) -> dict[str, Tensor]:
        """Compute ``loss_cls``, a mean over regions, and ``loss_box_reg``.

        ``loss_box_reg`` is the sum over objects, divided by the number of all regions.
        """
        settings, num_classes = self.settings, self.settings.num_classes
        classes, count = sampled.classes, max(sampled.classes.numel(), 1)
        # The mean over no region is not a number; a sum over none is 0 and keeps the graph.
        loss_cls = F.cross_entropy(logits, classes, reduction="sum") / count
        objects = sampled.find_objects(num_classes)
        if settings.cls_agnostic_bbox_reg:
            object_deltas = deltas[objects]
        else:
            object_deltas = deltas.unflatten(1, (num_classes, 4))[objects, classes[objects]]
        loss_box_reg = compute_box_loss(
            sampled.regions[objects, 1:],
            object_deltas,
            sampled.truth[objects],
            transform=self.transform,
            loss_type=settings.bbox_reg_loss_type,
            smooth_l1_beta=settings.smooth_l1_beta,
        )
        return {
            "loss_cls": loss_cls,
            "loss_box_reg": loss_box_reg / count * settings.bbox_reg_loss_weight,
        }

    def detect(
        self, boxes: Tensor, scores: Tensor, proposals: Sequence[Instances]
    ) -> list[Instances]:
        """Turn what ``decode`` gives for ``proposals`` into detections, best first, per image.

        Returns:
            per image ``pred_boxes`` in pixels of the resized image, ``scores`` and
            ``pred_classes``.
        """
        counts = [len(proposal) for proposal in proposals]
        detections = []
        for one, image_boxes, image_scores in zip(
            proposals, boxes.split(counts), scores.split(counts)
        ):
            found, best, classes = self.suppress(image_boxes, image_scores, one.image_size)
            detections.append(
                Instances(
                    one.image_size, pred_boxes=Boxes(found), scores=best, pred_classes=classes
                )
            )
        return detections

    def decode(self, logits: Tensor, deltas: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Decode the predictions for ``regions`` (R, 4).

        Returns:
            boxes (R, 4 * K), or (R, 4) where class-agnostic, and scores (R, K + 1).
        """
        return self.transform.decode(deltas, regions), F.softmax(logits, dim=-1)

    def suppress(
        self, boxes: Tensor, scores: Tensor, image_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Choose the detections of one image among what ``decode`` gives.

        Returns:
            boxes (D, 4), scores (D,) and classes (D,), best first.
        """
        finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores).all(dim=1)
        boxes, scores = boxes[finite], scores[finite][:, :-1]
        boxes = clip_boxes_to_image(boxes.unflatten(1, (-1, 4)), image_size)  # (R, K or 1, 4)
        region, label = (scores > self.settings.score_thresh_test).nonzero().unbind(dim=1)
        boxes = boxes[region, torch.zeros_like(label) if boxes.shape[1] == 1 else label]
        scores = scores[region, label]
        kept = suppress_overlaps(boxes.float(), scores, label, self.settings.nms_thresh_test)
        if self.settings.detections_per_image >= 0:
            kept = kept[: self.settings.detections_per_image]
        return boxes[kept], scores[kept], label[kept]
