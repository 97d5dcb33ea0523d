"""Sample the regions to train on among the proposals of a batch, as detectron2 does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from resnext_det.detection.portable.boxes import (
    find_larger,
    join_boxes,
    match_candidates,
    sample_labels,
    take_boxes,
    take_classes,
)
from resnext_det.instances import Instances

_IGNORED = -100  # torch's cross_entropy leaves this class out


@dataclass(frozen=True)
class SampledRegions:
    """The regions of a batch to train on.

    Attributes:
        regions: (R, 5): the index of the image, and the box in pixels.
        classes: (R,); ``num_classes`` is the background.
        truth: the ground-truth boxes (R, 4), of no meaning for the background.
        matches: (R,): which object of its image each region is, of no meaning for the background.
    """

    regions: Tensor
    classes: Tensor
    truth: Tensor
    matches: Tensor

    def find_objects(self, num_classes: int) -> Tensor:
        """Find the indices of the regions that are objects, neither background nor ignored."""
        return ((self.classes >= 0) & (self.classes < num_classes)).nonzero().flatten()


@dataclass(frozen=True)
class RegionSampling:
    """Keys of ``MODEL.ROI_HEADS`` that choose the regions to train on."""

    num_classes: int
    iou_thresholds: tuple[float, ...]
    iou_labels: tuple[int, ...]
    batch_size_per_image: int
    positive_fraction: float
    proposal_append_gt: bool


@torch.no_grad()
def sample_regions(
    proposals: Sequence[Instances], targets: Sequence[Instances], settings: RegionSampling
) -> SampledRegions:
    """Choose the regions to train on and label them.

    Args:
        proposals: per image ``proposal_boxes``.
        targets: per image ``gt_boxes`` and ``gt_classes``.
        settings: counts and thresholds.

    Returns:
        the regions image by image, objects before background.
    """
    chosen = [
        _sample_in_image(proposal.proposal_boxes.tensor, target, settings)
        for proposal, target in zip(proposals, targets)
    ]
    return _join(chosen)


@torch.no_grad()
def label_boxes(
    boxes: Tensor,
    regions: Tensor,
    targets: Sequence[Instances],
    threshold: float,
    num_classes: int,
) -> SampledRegions:
    """Label all boxes that a stage of a cascade predicts, for the next stage to train on.

    They are clipped to their image, and those that are empty then are dropped.

    Args:
        boxes: (R, 4).
        regions: (R, 5), of which they were predicted, image by image.
        targets: per image ``gt_boxes`` and ``gt_classes``.
        threshold: the IoU from which a box is an object.
        num_classes: the number that stands for the background.
    """
    chosen = []
    for index, target in enumerate(targets):
        inside = clip_boxes_to_image(boxes[regions[:, 0] == index], target.image_size)
        inside, truth = inside[find_larger(inside)], target.gt_boxes.tensor
        matches, labels = match_candidates(
            truth,
            inside,
            thresholds=(threshold,),
            labels=(0, 1),
            allow_low_quality_matches=False,
        )
        classes = take_classes(target.gt_classes, matches, labels, num_classes)
        chosen.append((inside, classes, take_boxes(truth, matches), matches))
    return _join(chosen)


def _join(chosen: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]]) -> SampledRegions:
    """Join the regions of images: per image boxes and the other fields of ``SampledRegions``."""
    boxes, *others = zip(*chosen)
    fields = join_boxes(boxes), *map(torch.cat, others)
    return SampledRegions(*(_copy(*fields) if torch.compiler.is_compiling() else fields))


@torch.library.custom_op("resnext_det::copy_regions", mutates_args=())
def _copy(
    regions: Tensor, classes: Tensor, truth: Tensor, matches: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Copy sampled regions in a graph of torch.compile, for which their number is then one unknown.

    It is a sum of several as they come; inductor's backward graph (torch 2.14) knows only the sum,
    but asks for each of them. A batch norm asks whether there is any region: where there is none,
    one is given that no loss counts.
    """
    if len(classes):
        return regions.clone(), classes.clone(), truth.clone(), matches.clone()
    ignored = classes.new_full((1,), _IGNORED)
    return regions.new_zeros(1, 5), ignored, truth.new_zeros(1, 4), matches.new_zeros(1)


@_copy.register_fake
def _(
    regions: Tensor, classes: Tensor, truth: Tensor, matches: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    count = torch.library.get_ctx().new_dynamic_size(min=1)
    others = classes.new_empty(count), truth.new_empty(count, 4), matches.new_empty(count)
    return regions.new_empty(count, 5), *others


def _sample_in_image(
    boxes: Tensor, target: Instances, settings: RegionSampling
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Choose regions of one image.

    Returns:
        boxes (R, 4), classes (R,), ground-truth boxes (R, 4), and of which object they are (R,).
    """
    truth: Tensor = target.gt_boxes.tensor
    if settings.proposal_append_gt:
        boxes = torch.cat([boxes, truth])
    matches, labels = match_candidates(
        truth,
        boxes,
        thresholds=settings.iou_thresholds,
        labels=settings.iou_labels,
        allow_low_quality_matches=False,
    )
    classes = take_classes(target.gt_classes, matches, labels, settings.num_classes)
    classes[(labels == -1) & (matches < truth.shape[0])] = -1
    chosen = torch.cat(
        sample_labels(
            classes,
            count=settings.batch_size_per_image,
            positive_fraction=settings.positive_fraction,
            background=settings.num_classes,
        )
    )
    matches = matches[chosen]
    return boxes[chosen], classes[chosen], take_boxes(truth, matches), matches
