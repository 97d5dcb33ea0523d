"""Compute with boxes: anchors, deltas, matching to ground truth, sampling, regression loss.

All of it computes detectron2's numbers, in detectron2's order of operations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import (
    batched_nms,
    box_iou,
    complete_box_iou_loss,
    distance_box_iou_loss,
    generalized_box_iou_loss,
)

# The largest predicted scaling of a side: from 16 to 1000 pixels.
_LARGEST_LOG_SCALE = math.log(1000.0 / 16)


def make_cell_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
    """Make the anchors of one cell, centered on the origin, one for each size and ratio.

    Args:
        sizes: square roots of the areas, in pixels.
        aspect_ratios: height / width.

    Returns:
        (sizes x ratios, 4): x0, y0, x1, y1; all ratios of the first size come first.
    """
    boxes = []
    for size in sizes:
        for ratio in aspect_ratios:
            width = math.sqrt(size**2.0 / ratio)
            height = ratio * width
            boxes.append([-width / 2.0, -height / 2.0, width / 2.0, height / 2.0])
    return torch.tensor(boxes)


class AnchorGenerator(torch.nn.Module):
    """Place anchors on every cell of every feature map.

    They are those of one cell, shifted by (index + offset) * stride.

    Args:
        sizes, aspect_ratios: one list per level, or one list for all; see ``make_cell_anchors``.
        strides: pixels of the image between neighboring cells, one per level.
        offset: from the image's corner to the center of the first cell, in cells, in [0, 1).
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
            cell = self.make_cell(level_sizes, level_ratios)
            self.register_buffer(f"cell{level}", cell, persistent=False)
        self.anchors_per_cell = len(sizes[0]) * len(aspect_ratios[0])

    def make_cell(self, sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
        """Make the anchors of one cell, see ``make_cell_anchors``."""
        return make_cell_anchors(sizes, aspect_ratios)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map features (N, C, Hi, Wi) to anchors (Hi * Wi * A, 4), per level.

        Anchors are in pixels of the padded image.
        """
        anchors = []
        for level, (feature, stride) in enumerate(zip(features, self.strides)):
            cell: Tensor = getattr(self, f"cell{level}")
            first, kind, device = self.offset * stride, torch.float32, cell.device
            ys, xs = (
                torch.arange(first, side * stride, step=stride, dtype=kind, device=device)
                for side in feature.shape[-2:]
            )
            anchors.append(shift_anchors(cell, xs, ys))
        return anchors


def shift_anchors(cell: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Place the anchors of one cell, (A, 4), at every x (W,) of every y (H,): (H * W * A, 4)."""
    grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
    shifts = torch.stack((grid_x, grid_y, grid_x, grid_y), dim=-1).reshape(-1, 1, 4)
    return (shifts + cell.view(1, -1, 4)).reshape(-1, 4)


class BoxTransform:
    """Convert between boxes and deltas (dx, dy, dw, dh), which say how a target differs from a box.

    With weights (wx, wy, ww, wh): dx = wx * (shift of the center / width),
    dw = ww * log(ratio of the widths); dy and dh likewise with heights.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = tuple(weights)

    def encode(self, boxes: Tensor, targets: Tensor) -> Tensor:
        """Compute the deltas (N, 4) that turn ``boxes`` (N, 4) into ``targets`` (N, 4)."""
        widths, heights, center_x, center_y = _to_center_form(boxes)
        target_widths, target_heights, target_x, target_y = _to_center_form(targets)
        weight_x, weight_y, weight_w, weight_h = self.weights
        dx = weight_x * (target_x - center_x) / widths
        dy = weight_y * (target_y - center_y) / heights
        dw = weight_w * torch.log(target_widths / widths)
        dh = weight_h * torch.log(target_heights / heights)
        return torch.stack((dx, dy, dw, dh), dim=1)

    def decode(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Apply ``deltas`` (N, k * 4) to ``boxes`` (N, 4), in float32: k boxes each, (N, k * 4)."""
        deltas = deltas.float()
        widths, heights, center_x, center_y = (
            part[:, None] for part in _to_center_form(boxes.to(deltas.dtype))
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


def _to_center_form(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute widths, heights and the x and y of the centers."""
    widths = boxes[:, 2] - boxes[:, 0]
    heights = boxes[:, 3] - boxes[:, 1]
    return widths, heights, boxes[:, 0] + 0.5 * widths, boxes[:, 1] + 0.5 * heights


def match_candidates(
    truth: Tensor,
    candidates: Tensor,
    *,
    thresholds: Sequence[float],
    labels: Sequence[int],
    allow_low_quality_matches: bool,
) -> tuple[Tensor, Tensor]:
    """Match every candidate to the ground truth that it overlaps most.

    Args:
        truth: boxes (G, 4).
        candidates: boxes (R, 4).
        thresholds: rising, from 0 up; a candidate gets ``labels[i]`` where its best IoU lies in
            [thresholds[i - 1], thresholds[i]).
        labels: 1 object, 0 background, -1 ignored; one more than thresholds.
        allow_low_quality_matches: a candidate with a ground truth's best IoU is an object too.

    Returns:
        the index of the ground truth and the label of every candidate, each (R,); without ground
        truth, index 0 and ``labels[0]``.
    """
    # A last row, which no candidate prefers to a real one, spares a branch on whether there is any.
    overlaps = box_iou(F.pad(truth, (0, 0, 0, 1)), candidates)
    overlaps[-1] = -1.0
    best, matches = overlaps.max(dim=0)
    assigned = torch.ones_like(matches, dtype=torch.int8)
    bounds = [-math.inf, *thresholds, math.inf]
    for label, low, high in zip(labels, bounds[:-1], bounds[1:]):
        assigned[(best >= low) & (best < high)] = label
    if allow_low_quality_matches:
        overlaps = overlaps[:-1]
        best_of_truth = overlaps.max(dim=1).values
        assigned[(overlaps == best_of_truth[:, None]).any(dim=0)] = 1
    return matches, assigned


def take_boxes(truth: Tensor, matches: Tensor) -> Tensor:
    """Take the ground-truth boxes (G, 4) that candidates match, by what ``match_candidates`` gives.

    Returns:
        (R, 4); without ground truth, zeros: all match its index 0 then.
    """
    return F.pad(truth, (0, 0, 0, 1))[matches]


def take_classes(classes: Tensor, matches: Tensor, labels: Tensor, background: int) -> Tensor:
    """Take the classes (G,) of the objects that candidates match, or the background's number.

    Args:
        matches, labels: what ``match_candidates`` gives.

    Returns:
        (R,); ignored candidates have the class of what they match.
    """
    # Without ground truth all match its index 0, which has to be there, and are background.
    taken = F.pad(classes, (0, 1), value=background)[matches]
    taken[labels == 0] = background
    return taken


def sample_labels(
    labels: Tensor, *, count: int, positive_fraction: float, background: int
) -> tuple[Tensor, Tensor]:
    """Draw at most ``count`` candidates, at most ``positive_fraction`` of them objects.

    Candidates with the label -1 are never drawn. The draws are two ``torch.randperm``, over the
    objects and then over the background, as in detectron2.

    Returns:
        the indices of objects and those of background.
    """
    positive = ((labels != -1) & (labels != background)).nonzero().flatten()
    negative = (labels == background).nonzero().flatten()
    num_positive = min(positive.numel(), int(count * positive_fraction))
    num_negative = min(negative.numel(), count - num_positive)
    chosen_positive = torch.randperm(positive.numel(), device=positive.device)[:num_positive]
    chosen_negative = torch.randperm(negative.numel(), device=negative.device)[:num_negative]
    return positive[chosen_positive], negative[chosen_negative]


def compute_box_loss(
    boxes: Tensor,
    deltas: Tensor,
    targets: Tensor,
    *,
    transform: BoxTransform,
    loss_type: str,
    smooth_l1_beta: float,
) -> Tensor:
    """Sum the loss between predicted ``deltas`` (N, 4) of ``boxes`` (N, 4) and ``targets`` (N, 4).

    Args:
        loss_type: ``smooth_l1`` (on deltas; a beta below 1e-5 is L1), or ``giou``, ``diou``,
            ``ciou`` (on boxes).
    """
    if loss_type == "smooth_l1":
        # torch's own smooth_l1_loss has gradients that differ from detectron2's in the last bit.
        distance = (deltas - transform.encode(boxes, targets)).abs()
        if smooth_l1_beta >= 1e-5:
            squared = 0.5 * distance**2 / smooth_l1_beta
            linear = distance - 0.5 * smooth_l1_beta
            distance = torch.where(distance < smooth_l1_beta, squared, linear)
        return distance.sum()
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


def find_larger(boxes: Tensor, side: float = 0.0) -> Tensor:
    """Mark the boxes (N, 4) with both sides longer than ``side`` pixels: a mask (N,)."""
    return (boxes[:, 2] - boxes[:, 0] > side) & (boxes[:, 3] - boxes[:, 1] > side)


def suppress_overlaps(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Suppress boxes that overlap a better one of their group: torchvision's ``batched_nms``.

    While ``torch.compile`` or ``torch.export`` traces, one operator stands for it, which computes
    the same: torchvision's function branches on the number of boxes, and no graph can follow.

    Args:
        boxes: (N, 4).
        scores: (N,).
        groups: of the boxes, such as their classes, int64 (N,).
        threshold: the IoU above which a box is suppressed.

    Returns:
        the indices of the boxes that are kept, best first.
    """
    if torch.compiler.is_compiling():
        return torch.ops.resnext_det.suppress_overlaps(boxes, scores, groups, threshold)
    return batched_nms(boxes, scores, groups, threshold)


@torch.library.custom_op("resnext_det::suppress_overlaps", mutates_args=())
def _suppress_overlaps(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    return batched_nms(boxes, scores, groups, threshold)


@_suppress_overlaps.register_fake
def _(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    count = torch.library.get_ctx().new_dynamic_size()
    return groups.new_empty(count)


def join_boxes(boxes: Sequence[Tensor]) -> Tensor:
    """Join the boxes (Ri, 4) of each of N images to regions (R, 5), each with its image's index."""
    numbered = [F.pad(one, (1, 0), value=float(index)) for index, one in enumerate(boxes)]
    return torch.cat(numbered)
