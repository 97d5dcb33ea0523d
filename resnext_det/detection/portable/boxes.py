"""Arithmetic of boxes: anchors, box deltas, matching to ground truth, sampling, the regression loss.

Everything here computes detectron2's numbers, in its order of operations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

# A predicted side is at most what turns a box of 16 pixels into one of 1000.
_LARGEST_LOG_SCALE = math.log(1000.0 / 16)


def cell_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
    """Anchors around the origin, of shape (sizes x ratios, 4), size-major; ratio is height / width, size the root of the area."""
    boxes = []
    for size in sizes:
        for ratio in aspect_ratios:
            width = math.sqrt(size**2.0 / ratio)
            height = ratio * width
            boxes.append([-width / 2.0, -height / 2.0, width / 2.0, height / 2.0])
    return torch.tensor(boxes)


class AnchorGenerator(torch.nn.Module):
    """Anchors of every cell of every feature map: a cell's anchors, shifted by (index + offset) * stride.

    Args:
        sizes, aspect_ratios: one list a level, or one list in all; see ``cell_anchors``.
        strides: pixels of the image between neighbouring cells, one a level.
        offset: of the first cell's centre from the image's corner, in cells, in [0, 1).
    """

    def __init__(
        self,
        *,
        sizes: Sequence[Sequence[float]],
        aspect_ratios: Sequence[Sequence[float]],
        strides: Sequence[int],
        offset: float,
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.offset = offset
        levels = len(self.strides)
        sizes = list(sizes) * levels if len(sizes) == 1 else sizes
        aspect_ratios = list(aspect_ratios) * levels if len(aspect_ratios) == 1 else aspect_ratios
        for level, (level_sizes, level_ratios) in enumerate(zip(sizes, aspect_ratios)):
            self.register_buffer(
                f"cell{level}", cell_anchors(level_sizes, level_ratios), persistent=False
            )
        self.anchors_per_cell = len(sizes[0]) * len(aspect_ratios[0])

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Features (N, C, Hi, Wi) of every level -> anchors (Hi * Wi * A, 4) of every level, in pixels of the padded image."""
        anchors = []
        for level, (feature, stride) in enumerate(zip(features, self.strides)):
            cell: Tensor = getattr(self, f"cell{level}")
            height, width = feature.shape[-2:]
            first = self.offset * stride
            xs = torch.arange(
                first, width * stride, step=stride, dtype=torch.float32, device=cell.device
            )
            ys = torch.arange(
                first, height * stride, step=stride, dtype=torch.float32, device=cell.device
            )
            grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
            shifts = torch.stack((grid_x, grid_y, grid_x, grid_y), dim=-1).reshape(-1, 1, 4)
            anchors.append((shifts + cell.view(1, -1, 4)).reshape(-1, 4))
        return anchors


class BoxTransform:
    """Between boxes and deltas (dx, dy, dw, dh): dx = wx * (shift of the centre / width), dw = ww * log(ratio of the widths)."""

    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = tuple(weights)

    def encode(self, boxes: Tensor, targets: Tensor) -> Tensor:
        """The deltas (N, 4) that turn ``boxes`` (N, 4) into ``targets`` (N, 4)."""
        widths, heights, center_x, center_y = _center_form(boxes)
        target_widths, target_heights, target_x, target_y = _center_form(targets)
        weight_x, weight_y, weight_w, weight_h = self.weights
        dx = weight_x * (target_x - center_x) / widths
        dy = weight_y * (target_y - center_y) / heights
        dw = weight_w * torch.log(target_widths / widths)
        dh = weight_h * torch.log(target_heights / heights)
        return torch.stack((dx, dy, dw, dh), dim=1)

    def decode(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Boxes (N, k * 4) that ``deltas`` (N, k * 4) make of ``boxes`` (N, 4), in float32 whatever came in."""
        deltas = deltas.float()
        widths, heights, center_x, center_y = (
            part[:, None] for part in _center_form(boxes.to(deltas.dtype))
        )
        weight_x, weight_y, weight_w, weight_h = self.weights
        dx = deltas[:, 0::4] / weight_x
        dy = deltas[:, 1::4] / weight_y
        dw = torch.clamp(deltas[:, 2::4] / weight_w, max=_LARGEST_LOG_SCALE)
        dh = torch.clamp(deltas[:, 3::4] / weight_h, max=_LARGEST_LOG_SCALE)
        new_x, new_y = dx * widths + center_x, dy * heights + center_y
        half_width, half_height = 0.5 * (torch.exp(dw) * widths), 0.5 * (torch.exp(dh) * heights)
        corners = (new_x - half_width, new_y - half_height, new_x + half_width, new_y + half_height)
        return torch.stack(corners, dim=-1).reshape(deltas.shape)


def _center_form(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    widths = boxes[:, 2] - boxes[:, 0]
    heights = boxes[:, 3] - boxes[:, 1]
    return widths, heights, boxes[:, 0] + 0.5 * widths, boxes[:, 1] + 0.5 * heights


def match(
    overlaps: Tensor,
    *,
    thresholds: Sequence[float],
    labels: Sequence[int],
    allow_low_quality_matches: bool,
) -> tuple[Tensor, Tensor]:
    """Match every candidate to the ground truth that it overlaps most.

    Args:
        overlaps: IoU of shape (ground truths, candidates).
        thresholds: rising; ``labels[i]`` is given where the best IoU lies in [thresholds[i - 1], thresholds[i]).
        labels: 1 object, 0 background, -1 ignored; one more than thresholds.
        allow_low_quality_matches: every candidate that ties for a ground truth's best IoU is an object too.

    Returns:
        (index of the ground truth, label) of every candidate; without ground truth, index 0 and ``labels[0]``.
    """
    candidates = overlaps.shape[1]
    if overlaps.numel() == 0:
        return (
            torch.zeros(candidates, dtype=torch.int64, device=overlaps.device),
            torch.full((candidates,), labels[0], dtype=torch.int8, device=overlaps.device),
        )
    best, matches = overlaps.max(dim=0)
    assigned = torch.ones_like(matches, dtype=torch.int8)
    bounds = [-math.inf, *thresholds, math.inf]
    for label, low, high in zip(labels, bounds[:-1], bounds[1:]):
        assigned[(best >= low) & (best < high)] = label
    if allow_low_quality_matches:
        best_of_truth = overlaps.max(dim=1).values
        assigned[(overlaps == best_of_truth[:, None]).any(dim=0)] = 1
    return matches, assigned


def sample_labels(
    labels: Tensor, *, count: int, positive_fraction: float, background: int
) -> tuple[Tensor, Tensor]:
    """Draw at most ``count`` candidates, at most ``positive_fraction`` of them objects; -1 is never drawn.

    Two ``randperm``, over the objects, then over the background, as in detectron2.

    Returns:
        (indices of objects, indices of background).
    """
    positive = ((labels != -1) & (labels != background)).nonzero().flatten()
    negative = (labels == background).nonzero().flatten()
    num_positive = min(positive.numel(), int(count * positive_fraction))
    num_negative = min(negative.numel(), count - num_positive)
    chosen_positive = torch.randperm(positive.numel(), device=positive.device)[:num_positive]
    chosen_negative = torch.randperm(negative.numel(), device=negative.device)[:num_negative]
    return positive[chosen_positive], negative[chosen_negative]


def box_regression_loss(
    boxes: Tensor,
    deltas: Tensor,
    targets: Tensor,
    *,
    transform: BoxTransform,
    loss_type: str,
    smooth_l1_beta: float,
) -> Tensor:
    """Sum over N boxes of the loss between predicted ``deltas`` (N, 4) and ``targets`` (N, 4).

    Args:
        loss_type: ``smooth_l1`` (on deltas; a beta below 1e-5 is L1), or ``giou``, ``diou``, ``ciou`` (on boxes).
    """
    if loss_type == "smooth_l1":
        return _smooth_l1(deltas - transform.encode(boxes, targets), smooth_l1_beta).sum()
    losses = {
        "giou": generalized_box_iou_loss,
        "diou": distance_box_iou_loss,
        "ciou": complete_box_iou_loss,
    }
    if loss_type not in losses:
        raise ValueError(
            f"box regression loss {loss_type!r} is unknown; choose smooth_l1, {', '.join(losses)}"
        )
    return losses[loss_type](transform.decode(deltas, boxes), targets, reduction="sum")


def _smooth_l1(errors: Tensor, beta: float) -> Tensor:
    # Written out because the gradients of torch's own smooth_l1_loss differ from detectron2's in the last bit.
    distance = errors.abs()
    if beta < 1e-5:
        return distance
    return torch.where(distance < beta, 0.5 * distance**2 / beta, distance - 0.5 * beta)


def larger_than(boxes: Tensor, side: float = 0.0) -> Tensor:
    """A mask over boxes (N, 4): both sides are longer than ``side`` pixels."""
    return (boxes[:, 2] - boxes[:, 0] > side) & (boxes[:, 3] - boxes[:, 1] > side)
