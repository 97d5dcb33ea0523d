"""Per-region computation: which regions are trained on, what is cut out of the features, and the box heads.

``Res5ROIHeads`` is the C4 detector of the paper (section 5.4): the fifth stage runs on every region. ``StandardROIHeads`` is
that of DC5 and FPN: a head of fully connected layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from resnext_det.detection.portable.box_predictor import BoxPredictor
from resnext_det.detection.portable.boxes import match, sample_labels
from resnext_det.detection.portable.poolers import ROIPooler
from resnext_det.instances import Boxes, Instances
from resnext_det.layers import ConvNorm

# Ground truth that joins the proposals is as sure as a float32 logit can say: P(object) = 1 - 1e-10.
_CERTAIN_LOGIT = math.log((1.0 - 1e-10) / (1 - (1.0 - 1e-10)))


@dataclass(frozen=True)
class RegionSampling:
    """What ``MODEL.ROI_HEADS`` says of the regions to train on, under its own names."""

    num_classes: int
    iou_thresholds: tuple[float, ...]
    iou_labels: tuple[int, ...]
    batch_size_per_image: int
    positive_fraction: float
    proposal_append_gt: bool


@torch.no_grad()
def sample_regions(
    proposals: Sequence[Instances], targets: Sequence[Instances], settings: RegionSampling
) -> list[Instances]:
    """Choose the regions to train on and label them.

    Args:
        proposals: per image ``proposal_boxes`` and ``objectness_logits``.
        targets: per image ``gt_boxes`` and ``gt_classes``.
        settings: counts and thresholds.

    Returns:
        per image ``proposal_boxes``, ``gt_classes`` (``num_classes`` is the background) and ``gt_boxes`` (of no meaning for the
        background); objects come first.
    """
    sampled = []
    for proposal, target in zip(proposals, targets):
        boxes: Tensor = proposal.proposal_boxes.tensor
        truth: Tensor = target.gt_boxes.tensor
        if settings.proposal_append_gt:
            boxes = torch.cat([boxes, truth])
        matches, labels = match(
            box_iou(truth, boxes),
            thresholds=settings.iou_thresholds,
            labels=settings.iou_labels,
            allow_low_quality_matches=False,
        )
        if len(truth):
            classes = target.gt_classes[matches]
            classes[labels == 0] = settings.num_classes
            classes[labels == -1] = -1
        else:
            classes = torch.full_like(matches, settings.num_classes)
        chosen = torch.cat(
            sample_labels(
                classes,
                count=settings.batch_size_per_image,
                positive_fraction=settings.positive_fraction,
                background=settings.num_classes,
            )
        )
        matched = truth[matches[chosen]] if len(truth) else boxes[chosen]
        sampled.append(
            Instances(
                proposal.image_size,
                proposal_boxes=Boxes(boxes[chosen]),
                gt_classes=classes[chosen],
                gt_boxes=Boxes(matched),
            )
        )
    return sampled


class ROIHeads(nn.Module):
    """The common course: sample regions in training, cut them out, compute their features, predict.

    Args:
        in_features: names of the feature maps.
        sampling: which regions are trained on.
    """

    box_predictor: BoxPredictor

    def __init__(self, *, in_features: Sequence[str], sampling: RegionSampling) -> None:
        super().__init__()
        self.in_features = tuple(in_features)
        self.sampling = sampling

    def region_features(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Maps (N, C, Hi, Wi) and N tensors of boxes (Ri, 4) -> a vector for every region, (sum of Ri, D)."""
        raise NotImplementedError

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: Sequence[Instances],
        targets: Sequence[Instances] | None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """In training ([], losses); in inference (detections of every image, {})."""
        if self.training:
            assert targets is not None
            proposals = sample_regions(proposals, targets, self.sampling)
        maps = [features[name] for name in self.in_features]
        vectors = self.region_features(
            maps, [proposal.proposal_boxes.tensor for proposal in proposals]
        )
        logits, deltas = self.box_predictor(vectors)
        if self.training:
            return [], self.box_predictor.losses(logits, deltas, proposals)
        return self.box_predictor.detect(logits, deltas, proposals), {}


class Res5ROIHeads(ROIHeads):
    """C4: cut 14x14 out of res4, run res5 with its stride 2 on every region, average."""

    def __init__(
        self,
        *,
        in_features: Sequence[str],
        sampling: RegionSampling,
        pooler: ROIPooler,
        res5: nn.Module,
        box_predictor: BoxPredictor,
    ) -> None:
        super().__init__(in_features=in_features, sampling=sampling)
        self.pooler = pooler
        self.res5 = res5
        self.box_predictor = box_predictor

    def region_features(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        regions = self.pooler(features, boxes)  # (R, 1024, 14, 14)
        return self.res5(regions.to(memory_format=torch.channels_last)).mean(
            dim=[2, 3]
        )  # (R, 2048)


class BoxHead(nn.Sequential):
    """3x3 convolutions ``conv1`` ..., then fully connected layers ``fc1`` ..., each with ReLU (detectron2's FastRCNNConvFCHead)."""

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


class StandardROIHeads(ROIHeads):
    """DC5 and FPN: cut 7x7 out of the fitting level, then a box head."""

    def __init__(
        self,
        *,
        in_features: Sequence[str],
        sampling: RegionSampling,
        pooler: ROIPooler,
        box_head: BoxHead,
        box_predictor: BoxPredictor,
    ) -> None:
        super().__init__(in_features=in_features, sampling=sampling)
        self.box_pooler = pooler
        self.box_head = box_head
        self.box_predictor = box_predictor

    def region_features(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        return self.box_head(self.box_pooler(features, boxes)).flatten(1)
