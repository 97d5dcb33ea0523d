"""Detect by RetinaNet: classes and boxes of every anchor, with detectron2's names and numbers.

It is the detector of Lin et al., "Focal Loss for Dense Object Detection" (arXiv 1708.02002).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from resnext_det.detection.portable.boxes import (
    AnchorGenerator,
    BoxTransform,
    compute_box_loss,
    match_candidates,
    suppress_overlaps,
    take_boxes,
    take_classes,
)
from resnext_det.detection.portable.detector import Detector, restore_size
from resnext_det.detection.portable.focal_loss import sum_focal_loss
from resnext_det.detection.portable.retinanet_head import RetinaNetHead
from resnext_det.instances import Boxes, Instances


@dataclass(frozen=True)
class RetinaNetSettings:
    """Hold keys of ``MODEL.RETINANET``, and ``TEST.DETECTIONS_PER_IMAGE``."""

    num_classes: int
    iou_thresholds: tuple[float, ...]
    iou_labels: tuple[int, ...]
    focal_loss_alpha: float
    focal_loss_gamma: float
    bbox_reg_weights: tuple[float, ...]
    bbox_reg_loss_type: str
    smooth_l1_loss_beta: float
    score_thresh_test: float
    topk_candidates_test: int
    nms_thresh_test: float
    detections_per_image: int


class RetinaNet(Detector):
    """Detect objects at every anchor of a pyramid, without regions.

    Parameters have the names, and results the numbers, of detectron2's ``RetinaNet``.

    Losses are sums over anchors, divided by a moving average of the anchors on objects in a batch
    of this process, which follows the training: ``loss_normalizer``. It is 100 at first and, as in
    detectron2, no part of the model's state.

    Args:
        backbone, pixel_mean, pixel_std, size_divisibility: see ``Detector``.
        head: predicts logits and deltas for every anchor.
        head_in_features: the names of its maps, finest first.
        anchor_generator: of the same maps.
        settings: thresholds, counts and what the losses are.
        as_torchvision: divide each image's losses by its own anchors on objects and take the mean
            over the images, and clip boxes to the image before overlaps are suppressed, not after.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        head: RetinaNetHead,
        head_in_features: Sequence[str],
        anchor_generator: AnchorGenerator,
        settings: RetinaNetSettings,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int = 0,
        as_torchvision: bool = False,
    ) -> None:
        super().__init__(
            backbone=backbone,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            size_divisibility=size_divisibility,
        )
        self.head = head
        self.head_in_features = tuple(head_in_features)
        self.anchor_generator = anchor_generator
        self.settings = settings
        self.transform = BoxTransform(settings.bbox_reg_weights)
        self.as_torchvision = as_torchvision
        self.loss_normalizer = 100.0

    def forward(self, samples: Sequence[dict[str, Any]]) -> Any:
        """Compute the losses in training, and detections in inference.

        Args:
            samples: one dict per image, as detectron2's: ``image`` (C, H, W) on the scale 0-255 in
                the model's channel order; in training ``instances`` with ``gt_boxes`` and
                ``gt_classes``; in inference ``height`` and ``width``, the size in which boxes are
                wanted (the image's own where they are absent).

        Returns:
            in training {"loss_cls", "loss_box_reg"}; in inference one {"instances": Instances} per
            image, with ``pred_boxes``, ``scores`` and ``pred_classes``, best first.

        Raises:
            ValueError: there is no image; one has another number of channels than the model;
                ``instances`` are missing in training.
        """
        images, image_sizes = self.preprocess(samples)
        targets = self.get_targets(samples) if self.training else []
        anchors, logits, deltas = self.predict_all(images)
        if self.training:
            return self.compute_losses(anchors, logits, deltas, targets)
        found = []
        for index, (size, sample) in enumerate(zip(image_sizes, samples)):
            boxes, scores, classes = self.detect(
                anchors,
                [level[index] for level in logits],
                [level[index] for level in deltas],
                size,
            )
            one = Instances(size, pred_boxes=Boxes(boxes), scores=scores, pred_classes=classes)
            found.append({"instances": restore_size(one, sample, "pred_boxes")})
        return found

    def predict_all(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Predict logits and deltas, as ``predict``, from images (N, C, H, W).

        Returns:
            the anchors (Hi * Wi * A, 4) of every level, logits and deltas.
        """
        features = self.backbone(images)
        maps = [features[name] for name in self.head_in_features]
        return self.anchor_generator(maps), *self.predict(maps)

    def predict(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Predict logits (N, Hi * Wi * A, K) and deltas (N, Hi * Wi * A, 4) of every level."""
        logits, deltas = self.head(maps)
        classes = self.settings.num_classes
        return (
            [_list_anchors(level, classes) for level in logits],
            [_list_anchors(level, 4) for level in deltas],
        )

    def compute_losses(
        self,
        anchors: Sequence[Tensor],
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        targets: Sequence[Instances],
    ) -> dict[str, Tensor]:
        """Compute ``loss_cls`` and ``loss_box_reg``, and move the average that divides them.

        The arguments are those of ``sum_losses``.
        """
        return self.divide(*self.sum_losses(anchors, logits, deltas, targets))

    def sum_losses(
        self,
        anchors: Sequence[Tensor],
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        targets: Sequence[Instances],
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Sum ``loss_cls`` and ``loss_box_reg`` over anchors; ``as_torchvision`` divides them too.

        Args:
            anchors: of every level, (Hi * Wi * A, 4).
            logits, deltas: of every level, (N, Hi * Wi * A, K) and (N, Hi * Wi * A, 4).
            targets: the ground truth of every image.

        Returns:
            what ``divide`` takes: the losses, and the number of anchors on objects.
        """
        labels, matched = self.label_anchors(anchors, targets)
        all_anchors, all_deltas = torch.cat(list(anchors)), torch.cat(list(deltas), dim=1)
        count = self._mark_objects(labels).sum()
        if not self.as_torchvision:
            return self._sum_losses(all_anchors, logits, all_deltas, labels, matched), count
        images = []
        of_images = zip(*(level.split(1) for level in logits))
        for level, *parts in zip(of_images, all_deltas.split(1), labels.split(1), matched.split(1)):
            number = self._mark_objects(parts[1]).sum().clamp(min=1)
            sums = self._sum_losses(all_anchors, level, *parts)
            images.append({name: loss / number for name, loss in sums.items()})
        means = {name: torch.stack([one[name] for one in images]).mean() for name in images[0]}
        return means, count

    def divide(self, losses: dict[str, Tensor], count: Tensor) -> dict[str, Tensor]:
        """Divide the losses of ``sum_losses`` by the average of counts, which this count moves."""
        if self.as_torchvision:
            return losses
        normalizer = self._ema_update("loss_normalizer", max(int(count), 1), 100)
        return {name: loss / normalizer for name, loss in losses.items()}

    @torch.no_grad()
    def label_anchors(
        self, anchors: Sequence[Tensor], targets: Sequence[Instances]
    ) -> tuple[Tensor, Tensor]:
        """Give every anchor the class of the object that it overlaps most.

        Args:
            anchors: of every level, (Hi * Wi * A, 4), R in all.
            targets: the ground truth of every image, with ``gt_boxes`` and ``gt_classes``.

        Returns:
            classes (N, R): K is the background, -1 is ignored; and the boxes (N, R, 4) of these
            objects, of no meaning for the background.
        """
        settings, all_anchors = self.settings, torch.cat(list(anchors))
        all_labels, all_matched = [], []
        for target in targets:
            truth: Tensor = target.gt_boxes.tensor
            matches, kinds = match_candidates(
                truth,
                all_anchors,
                thresholds=settings.iou_thresholds,
                labels=settings.iou_labels,
                allow_low_quality_matches=True,
            )
            labels = take_classes(target.gt_classes, matches, kinds, settings.num_classes)
            labels[kinds == -1] = -1
            all_labels.append(labels)
            all_matched.append(take_boxes(truth, matches))
        return torch.stack(all_labels), torch.stack(all_matched)

    @property
    def num_classes(self) -> int:
        """Tell the number of classes."""
        return self.settings.num_classes

    def _mark_objects(self, labels: Tensor) -> Tensor:
        """Mark the anchors on objects among the labels of ``label_anchors``."""
        return (labels >= 0) & (labels != self.settings.num_classes)

    def _ema_update(
        self, name: str, value: float, initial_value: float, momentum: float = 0.9
    ) -> float:
        """Move an average, an attribute of this name, by a value, and return it.

        It is called as in detectron2, so that what exchanges it serves both engines: a batch that
        is computed in parts, and the losses of single images, which no average divides.
        """
        average = getattr(self, name, initial_value) * momentum + value * (1 - momentum)
        setattr(self, name, average)
        return average

    def _sum_losses(
        self,
        anchors: Tensor,
        logits: Sequence[Tensor],
        deltas: Tensor,
        labels: Tensor,
        matched: Tensor,
    ) -> dict[str, Tensor]:
        """Sum the losses of the anchors (R, 4) over images.

        Args:
            logits: of every level, (N, Ri, K).
            deltas, labels, matched: of all anchors, (N, R, 4), (N, R) and (N, R, 4).
        """
        settings, objects = self.settings, self._mark_objects(labels)
        loss_cls = sum_focal_loss(
            logits,
            labels,
            alpha=settings.focal_loss_alpha,
            gamma=settings.focal_loss_gamma,
        )
        loss_box_reg = compute_box_loss(
            anchors.expand(len(labels), -1, -1)[objects],
            deltas[objects],
            matched[objects],
            transform=self.transform,
            loss_type=settings.bbox_reg_loss_type,
            smooth_l1_beta=settings.smooth_l1_loss_beta,
        )
        return {"loss_cls": loss_cls, "loss_box_reg": loss_box_reg}

    def detect(
        self,
        anchors: Sequence[Tensor],
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        image_size: tuple[int, int] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Turn the predictions for one image into detections.

        Args:
            anchors: (Hi * Wi * A, 4) of every level.
            logits, deltas: (Hi * Wi * A, K) and (Hi * Wi * A, 4) of every level.
            image_size: (height, width) before padding; needed ``as_torchvision`` alone.

        Returns:
            boxes (D, 4) in pixels of the resized image, scores (D,) and classes (D,), best first.
        """
        settings = self.settings
        found = [self._decode_best(*level) for level in zip(anchors, logits, deltas)]
        boxes, scores, classes = (torch.cat(parts) for parts in zip(*found))
        if self.as_torchvision:
            assert image_size is not None
            boxes = clip_boxes_to_image(boxes, image_size)
        kept = suppress_overlaps(boxes.float(), scores, classes, settings.nms_thresh_test)
        kept = kept[: settings.detections_per_image]
        return boxes[kept], scores[kept], classes[kept]

    def _decode_best(
        self, anchors: Tensor, logits: Tensor, deltas: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode the best scores of a level: boxes, scores and classes."""
        settings = self.settings
        scores = logits.sigmoid()
        places, classes = (scores > settings.score_thresh_test).nonzero().unbind(dim=1)
        scores = scores[places, classes]
        scores, best = scores.topk(torch.sym_min(scores.shape[0], settings.topk_candidates_test))
        places, classes = places[best], classes[best]
        return self.transform.decode(deltas[places], anchors[places]), scores, classes


def _list_anchors(level: Tensor, values: int) -> Tensor:
    """List the predictions of a level anchor by anchor: (N, A * v, H, W) to (N, H * W * A, v)."""
    return level.unflatten(1, (-1, values)).permute(0, 3, 4, 1, 2).flatten(1, 3)
