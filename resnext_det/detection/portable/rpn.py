"""The region proposal network (Faster R-CNN, section 3.1), with detectron2's names and numbers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import clip_boxes_to_image

from resnext_det.detection.portable.boxes import (
    AnchorGenerator,
    BoxTransform,
    compute_box_loss,
    find_larger,
    match_candidates,
    sample_labels,
    suppress_overlaps,
    take_boxes,
)
from resnext_det.instances import Boxes, Instances
from resnext_det.layers import ConvNorm
from resnext_det.sparse_rpn import check_convolution, predict_sparsely


class RPNHead(nn.Module):
    """Predict A objectness logits and A * 4 box deltas per cell: 3x3 convolutions, then two 1x1.

    Args:
        in_channels: of every feature map.
        anchors_per_cell: A.
        conv_dims: channels of the 3x3 convolutions; -1 keeps the number. One makes the child
            ``conv``, several ``conv.conv0`` ...
        sparse: compute the gradients of the cells alone that have one, see ``sparse_rpn``.

    Raises:
        ValueError: ``sparse`` with several convolutions.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        anchors_per_cell: int,
        conv_dims: Sequence[int] = (-1,),
        sparse: bool = False,
    ) -> None:
        super().__init__()
        convolutions, channels = OrderedDict[str, nn.Module](), in_channels
        options: dict[str, Any] = {"kernel_size": 3, "padding": 1, "norm": ""}
        for index, dim in enumerate(conv_dims):
            previous, channels = channels, channels if dim == -1 else dim
            layer = ConvNorm(previous, channels, **options, activation=nn.ReLU())
            convolutions[f"conv{index}"] = layer
        self.conv = layer if len(convolutions) == 1 else nn.Sequential(convolutions)
        self.objectness_logits = nn.Conv2d(channels, anchors_per_cell, kernel_size=1)
        self.anchor_deltas = nn.Conv2d(channels, anchors_per_cell * 4, kernel_size=1)
        self.sparse = sparse
        if sparse:
            check_convolution(self.conv)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Map features (N, C, Hi, Wi) to logits (N, Hi * Wi * A) and deltas (N, Hi * Wi * A, 4)."""
        logits, deltas = [], []
        for feature in features:
            if self.sparse:
                layers = (self.conv, self.objectness_logits, self.anchor_deltas)
                objectness, level = predict_sparsely(feature, *layers)  # type: ignore[arg-type]
            else:
                hidden = self.conv(feature)
                objectness, level = self.objectness_logits(hidden), self.anchor_deltas(hidden)
            # (N, A, H, W) -> (N, H, W, A) -> (N, H * W * A)
            logits.append(objectness.permute(0, 2, 3, 1).flatten(1))
            # (N, A * 4, H, W) -> (N, H, W, A, 4) -> (N, H * W * A, 4)
            deltas.append(level.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, -2))
        return logits, deltas


@dataclass(frozen=True)
class RPNSettings:
    """Keys of ``MODEL.RPN``; ``min_size`` is of ``MODEL.PROPOSAL_GENERATOR``."""

    iou_thresholds: tuple[float, ...]
    iou_labels: tuple[int, ...]
    batch_size_per_image: int
    positive_fraction: float
    pre_nms_topk_train: int
    pre_nms_topk_test: int
    post_nms_topk_train: int
    post_nms_topk_test: int
    nms_thresh: float
    min_size: float
    boundary_thresh: float
    bbox_reg_weights: tuple[float, ...]
    bbox_reg_loss_type: str
    bbox_reg_loss_weight: float
    smooth_l1_beta: float
    loss_weight: float


class RPN(nn.Module):
    """Propose regions that may hold an object.

    Args:
        in_features: names of the feature maps.
        head: predicts logits and deltas for every anchor.
        anchor_generator: of the same feature maps.
        settings: thresholds, counts and loss weights.
    """

    def __init__(
        self,
        *,
        in_features: Sequence[str],
        head: RPNHead,
        anchor_generator: AnchorGenerator,
        settings: RPNSettings,
    ) -> None:
        super().__init__()
        self.in_features = tuple(in_features)
        self.rpn_head = head
        self.anchor_generator = anchor_generator
        self.settings = settings
        self.transform = BoxTransform(settings.bbox_reg_weights)

    def forward(
        self,
        image_sizes: Sequence[tuple[int, int]],
        features: dict[str, Tensor],
        targets: Sequence[Instances] | None,
        *,
        with_proposals: bool = True,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Propose regions, and in training compute the losses.

        Args:
            image_sizes: (height, width) of every image before padding.
            features: name -> (N, C, H, W).
            targets: ground truth of every image; needed in training.
            with_proposals: False leaves the proposals out, where only the losses are wanted.

        Returns:
            per image ``proposal_boxes`` and ``objectness_logits``, best first; and
            ``loss_rpn_cls`` and ``loss_rpn_loc``.

        Raises:
            FloatingPointError: a prediction is not finite in training.
        """
        maps = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(maps)
        logits, deltas = self.rpn_head(maps)
        losses: dict[str, Tensor] = {}
        if self.training:
            assert targets is not None
            all_anchors = torch.cat(anchors)
            labels, matched = self._label_anchors(all_anchors, image_sizes, targets)
            losses = self._compute_losses(
                all_anchors, torch.cat(logits, dim=1), torch.cat(deltas, dim=1), labels, matched
            )
        if not with_proposals:
            return [], losses
        with torch.no_grad():
            boxes, scores, levels = self.decode_best(anchors, logits, deltas)
        if self.training:
            losses = _refuse_divergence(boxes, scores, losses)
        return self._propose(boxes, scores, levels, image_sizes), losses

    @torch.no_grad()
    def _label_anchors(
        self, anchors: Tensor, image_sizes: Sequence[tuple[int, int]], targets: Sequence[Instances]
    ) -> tuple[Tensor, Tensor]:
        """Sample anchors and label them: 1 object, 0 background, -1 not sampled.

        Returns:
            labels (N, R) and the ground-truth boxes (N, R, 4) that the anchors match.
        """
        settings = self.settings
        all_labels, all_matched = [], []
        for (height, width), target in zip(image_sizes, targets):
            truth: Tensor = target.gt_boxes.tensor
            matches, labels = match_candidates(
                truth,
                anchors,
                thresholds=settings.iou_thresholds,
                labels=settings.iou_labels,
                allow_low_quality_matches=True,
            )
            if settings.boundary_thresh >= 0:
                slack = settings.boundary_thresh
                inside = (anchors[:, :2] >= -slack).all(dim=1)
                inside &= (anchors[:, 2] < width + slack) & (anchors[:, 3] < height + slack)
                labels[~inside] = -1
            positive, negative = sample_labels(
                labels,
                count=settings.batch_size_per_image,
                positive_fraction=settings.positive_fraction,
                background=0,
            )
            sampled = torch.full_like(labels, -1)
            sampled[positive] = 1
            sampled[negative] = 0
            all_labels.append(sampled)
            all_matched.append(take_boxes(truth, matches))
        return torch.stack(all_labels), torch.stack(all_matched)

    def _compute_losses(
        self, anchors: Tensor, logits: Tensor, deltas: Tensor, labels: Tensor, matched: Tensor
    ) -> dict[str, Tensor]:
        settings = self.settings
        positive, sampled = labels == 1, labels >= 0
        localization = compute_box_loss(
            anchors.expand(len(labels), -1, -1)[positive],
            deltas[positive],
            matched[positive],
            transform=self.transform,
            loss_type=settings.bbox_reg_loss_type,
            smooth_l1_beta=settings.smooth_l1_beta,
        )
        classification = F.binary_cross_entropy_with_logits(
            logits[sampled], labels[sampled].to(torch.float32), reduction="sum"
        )
        normalizer = settings.batch_size_per_image * len(labels)
        box_weight = settings.bbox_reg_loss_weight * settings.loss_weight
        return {
            "loss_rpn_cls": classification / normalizer * settings.loss_weight,
            "loss_rpn_loc": localization / normalizer * box_weight,
        }

    @torch.no_grad()
    def _propose(
        self,
        all_boxes: Tensor,
        all_scores: Tensor,
        levels: Tensor,
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Instances]:
        """Per image, suppress within levels what ``decode_best`` gives, and keep the best."""
        proposals = []
        for boxes, scores, size in zip(all_boxes, all_scores, image_sizes):
            boxes, scores = self.suppress(boxes, scores, levels, size)
            proposals.append(Instances(size, proposal_boxes=Boxes(boxes), objectness_logits=scores))
        return proposals

    def decode_best(
        self, anchors: Sequence[Tensor], logits: Sequence[Tensor], deltas: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode the best anchors of every level.

        Returns:
            boxes (N, R, 4), their logits (N, R), and the levels (R,).
        """
        settings = self.settings
        before = settings.pre_nms_topk_train if self.training else settings.pre_nms_topk_test
        scores, boxes, levels = [], [], []
        for level, (anchor, logit, delta) in enumerate(zip(anchors, logits, deltas)):
            top_scores, top = logit.topk(torch.sym_min(before, logit.shape[1]), dim=1)
            # Decoding only what is kept gives the same numbers as decoding every anchor.
            top_deltas = delta.gather(1, top[:, :, None].expand(-1, -1, 4))
            decoded = self.transform.decode(top_deltas.flatten(0, 1), anchor[top].flatten(0, 1))
            scores.append(top_scores)
            boxes.append(decoded.unflatten(0, top.shape))
            levels.append(torch.full((top.shape[1],), level, dtype=torch.int64, device=top.device))
        return torch.cat(boxes, dim=1), torch.cat(scores, dim=1), torch.cat(levels)

    def suppress(
        self, boxes: Tensor, scores: Tensor, levels: Tensor, image_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Choose the proposals of one image among boxes (R, 4): those kept, and their logits."""
        settings = self.settings
        finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores)
        boxes = clip_boxes_to_image(boxes, image_size)
        valid = finite & find_larger(boxes, settings.min_size)
        boxes, scores, levels = boxes[valid], scores[valid], levels[valid]
        after = settings.post_nms_topk_train if self.training else settings.post_nms_topk_test
        kept = suppress_overlaps(boxes.float(), scores, levels, settings.nms_thresh)[:after]
        return boxes[kept], scores[kept]


def draw_anchors(
    rpn: RPN, features: Mapping[str, Tensor], samples: Sequence[Mapping[str, Any]]
) -> None:
    """Draw the anchors of samples from torch's generator, as a training step does; forget them.

    Args:
        features: maps of the size of those of the samples, whose values do not matter.
    """
    targets = [sample["instances"].to(next(iter(features.values())).device) for sample in samples]
    anchors = torch.cat(rpn.anchor_generator([features[name] for name in rpn.in_features]))
    rpn._label_anchors(anchors, [target.image_size for target in targets], targets)


def _refuse_divergence(
    boxes: Tensor, scores: Tensor, losses: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Refuse predictions that are not finite.

    Returns:
        the losses; within a graph of torch.compile, which cannot raise, NaN in their place, which
        the training loop refuses.

    Raises:
        FloatingPointError: a box or score is not finite.
    """
    finite = torch.isfinite(boxes).all() & torch.isfinite(scores).all()
    if torch.compiler.is_compiling():
        return {name: torch.where(finite, loss, torch.nan) for name, loss in losses.items()}
    if not finite:
        # The training loop adds the iteration, the images and the remedy.
        raise FloatingPointError("the RPN predicts boxes or scores that are not finite")
    return losses
