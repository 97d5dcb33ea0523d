"""Make the portable detector one function that a graph can hold, from an image to detections."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnext_det.deploy.resizing import (
    compute_resized_size,
    name_size,
    resize_image,
    shrinks_tall_images_by_rows,
)
from resnext_det.detection.portable.boxes import find_larger
from resnext_det.detection.portable.cascade import CascadeROIHeads
from resnext_det.detection.portable.detector import Detector
from resnext_det.detection.portable.mask_head import compute_mask_probabilities
from resnext_det.detection.portable.retinanet import RetinaNet
from resnext_det.layers import ConvNorm, freeze_norms
from resnext_det.runtimes.folded import fold_norm


class DetectorGraph(nn.Module):
    """Detect on one image as ``Predictor`` does, in operations that ``torch.export`` can trace.

    The detector given is not changed: its norms are folded into the convolutions of a copy.

    Args:
        model: a portable detector of one step, with its weights.
        min_size, max_size: ``INPUT.MIN_SIZE_TEST`` and ``INPUT.MAX_SIZE_TEST``; a ``min_size`` of
            0 leaves the image as it is.
        image_format: ``INPUT.FORMAT``, the order of the channels that the detector was trained on.
    """

    def __init__(self, model: Detector, *, min_size: int, max_size: int, image_format: str) -> None:
        super().__init__()
        self.model: Any = fold_norms(copy.deepcopy(model).cpu().eval()).requires_grad_(False)
        self.min_size = min_size
        self.max_size = max_size
        self.image_format = image_format
        self.tall_by_rows = shrinks_tall_images_by_rows()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Detect on an image, uint8 (H, W, 3), channels in the order RGB.

        Returns:
            boxes (N, 4) in the image's pixels, scores (N,) and classes (N,), best first, and, with
            a mask head, the probabilities (N, S, S) of the cells that each box is cut into.
        """
        height, width = image.shape[:2]
        pixels, (resized_height, resized_width) = self.prepare(image)
        features = self.model.backbone(pixels)
        boxes, scores, classes = self.detect(features, resized_height, resized_width)
        masks = self.compute_masks(features, boxes, classes)
        scale = torch.tensor([width / resized_width, height / resized_height]).repeat(2)
        boxes = clip_boxes(boxes * scale, height, width)
        kept = find_larger(boxes)
        return tuple(field[kept] for field in (boxes, scores, classes, *masks))

    def prepare(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Resize, normalize and pad an image.

        Returns:
            (1, C, H', W'), and (height, width) before it was padded.
        """
        height, width = image.shape[:2]
        if self.min_size:
            height, width = compute_resized_size(height, width, self.min_size, self.max_size)
            height, width = name_size(height), name_size(width)
            image = resize_image(image, height, width, tall_by_rows=self.tall_by_rows)
        if self.image_format == "BGR":
            image = image.flip(2)
        pixels = (image.permute(2, 0, 1) - self.model.pixel_mean) / self.model.pixel_std
        unit = max(self.model.size_divisibility, 1)
        padded_height, padded_width = (
            name_size((side + unit - 1) // unit) * unit for side in (height, width)
        )
        right, bottom = padded_width - width, padded_height - height
        return F.pad(pixels, (0, right, 0, bottom))[None], (height, width)

    def detect(
        self, features: Mapping[str, Tensor], height: int, width: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Detect on the maps of a resized image: boxes, in its pixels, scores and classes."""
        if isinstance(self.model, RetinaNet):
            return self._detect_at_anchors(features, (height, width))
        rpn, heads = self.model.proposal_generator, self.model.roi_heads
        maps = [features[name] for name in rpn.in_features]
        boxes, logits, levels = rpn.decode_best(rpn.anchor_generator(maps), *rpn.rpn_head(maps))
        proposals, _ = rpn.suppress(boxes[0], logits[0], levels, (height, width))
        maps = [features[name] for name in heads.in_features]
        predictor, size = heads.box_predictor, (height, width)
        if isinstance(heads, CascadeROIHeads):
            found = heads.decode(maps, [proposals], [size])
            return predictor[-1].suppress(*found, size)
        regions = F.pad(proposals, (1, 0))  # all of image 0
        vectors = heads.cut_and_compute(maps, regions)
        return predictor.suppress(*predictor.decode(*predictor(vectors), proposals), size)

    def compute_masks(
        self, features: Mapping[str, Tensor], boxes: Tensor, classes: Tensor
    ) -> tuple[Tensor, ...]:
        """Compute the masks of what ``detect`` found, see ``forward``; none without a head."""
        heads = getattr(self.model, "roi_heads", None)
        if heads is None or heads.mask_head is None:
            return ()
        maps = [features[name] for name in heads.in_features]
        # One region more, as a program of torch asserts that there is one, and often none is found.
        regions = torch.cat([F.pad(boxes, (1, 0)), torch.tensor([[0.0, 0.0, 0.0, 16.0, 16.0]])])
        logits = heads.mask_head(heads.cut_for_masks(maps, regions)).narrow(0, 0, boxes.shape[0])
        return (compute_mask_probabilities(logits, classes)[:, 0],)

    def _detect_at_anchors(
        self, features: Mapping[str, Tensor], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        maps = [features[name] for name in self.model.head_in_features]
        logits, deltas = self.model.predict(maps)
        anchors = self.model.anchor_generator(maps)
        return self.model.detect(
            anchors, [level[0] for level in logits], [level[0] for level in deltas], size
        )


def fold_norms(model: nn.Module) -> nn.Module:
    """Multiply the norms of a model in evaluation mode into its convolutions, in place."""
    freeze_norms(model)
    for layer in model.modules():
        if isinstance(layer, ConvNorm):
            fold_norm(layer)
    return model


def clip_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """Clip boxes (N, 4), x0, y0, x1, y1, to an image of this height and width in pixels."""
    corners = boxes.unflatten(1, (2, 2))
    x, y = corners[..., 0].clamp(0, width), corners[..., 1].clamp(0, height)
    return torch.stack((x, y), dim=2).flatten(1)
