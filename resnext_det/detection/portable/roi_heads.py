"""Sample regions to train on, cut them out of feature maps, and compute their classes and boxes.

``Res5ROIHeads`` is the C4 detector of the ResNeXt paper (section 5.4), ``SharedRes5ROIHeads`` the
same made faster, and ``StandardROIHeads`` that of DC5 and FPN. Names and numbers are detectron2's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align, roi_pool

from resnext_det.detection.portable.box_head import BoxPredictor, SampledRegions
from resnext_det.detection.portable.boxes import match_candidates, sample_labels
from resnext_det.instances import Instances
from resnext_det.roi_align import RegionGrid, align_regions, join_regions
from resnext_det.shared_res5 import SHARED_HEADS, run_res5

# A region of 224 x 224 pixels, ImageNet's, is cut out of level 4 (FPN, equation 1).
_CANONICAL_SIZE = 224
_CANONICAL_LEVEL = 4

_IGNORED = -100  # F.cross_entropy leaves this class out

_POOLER_TYPES = ("ROIAlignV2", "ROIAlign", "ROIPool")


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
    boxes, classes, truth = zip(*chosen)
    fields = join_boxes(boxes), torch.cat(classes), torch.cat(truth)
    return SampledRegions(*(_copy(*fields) if torch.compiler.is_compiling() else fields))


@torch.library.custom_op("resnext_det::copy_regions", mutates_args=())
def _copy(regions: Tensor, classes: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Copy sampled regions in a graph of torch.compile, for which their number is then one unknown.

    It is a sum of several as they come; inductor's backward graph (torch 2.14) knows only the sum,
    but asks for each of them. A batch norm asks whether there is any region: where there is none,
    one is given that no loss counts.
    """
    if len(classes):
        return regions.clone(), classes.clone(), truth.clone()
    return regions.new_zeros(1, 5), classes.new_full((1,), _IGNORED), truth.new_zeros(1, 4)


@_copy.register_fake
def _(regions: Tensor, classes: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    count = torch.library.get_ctx().new_dynamic_size(min=1)
    return regions.new_empty(count, 5), classes.new_empty(count), truth.new_empty(count, 4)


@torch.library.custom_op("resnext_det::keep_one", mutates_args=())
def _keep_one(regions: Tensor) -> Tensor:
    """Copy regions (R, 5) in a graph; where there is none, give one, so that a norm has values."""
    return regions.clone() if len(regions) else regions.new_zeros(1, 5)


@_keep_one.register_fake
def _(regions: Tensor) -> Tensor:
    return regions.new_empty(torch.library.get_ctx().new_dynamic_size(min=1), 5)


def _sample_in_image(
    boxes: Tensor, target: Instances, settings: RegionSampling
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose regions of one image: boxes (R, 4), classes (R,), ground-truth boxes (R, 4)."""
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
    # Without ground truth all match its index 0, which has to be there, and are background.
    classes = F.pad(target.gt_classes, (0, 1), value=settings.num_classes)[matches]
    classes[labels == 0] = settings.num_classes
    classes[(labels == -1) & (matches < truth.shape[0])] = -1
    chosen = torch.cat(
        sample_labels(
            classes,
            count=settings.batch_size_per_image,
            positive_fraction=settings.positive_fraction,
            background=settings.num_classes,
        )
    )
    return boxes[chosen], classes[chosen], F.pad(truth, (0, 0, 0, 1))[matches[chosen]]


def join_boxes(boxes: Sequence[Tensor]) -> Tensor:
    """Join the boxes (Ri, 4) of each of N images to regions (R, 5), each with its image's index."""
    numbered = [F.pad(one, (1, 0), value=float(index)) for index, one in enumerate(boxes)]
    return torch.cat(numbered)


class ROIPooler(nn.Module):
    """Cut every region out of the feature map that fits its size.

    Args:
        resolution: side of the result in cells.
        strides: of the feature maps, in pixels: neighboring powers of 2, finest first.
        sampling_ratio: samples per cell and axis in RoIAlign; 0 adapts it to the region's size.
        pooler_type: ``ROIAlignV2`` (Mask R-CNN's, with half-pixel offsets right), ``ROIAlign``
            (Detectron 1's) or ``ROIPool`` (Fast R-CNN's).
        by_matrices: compute RoIAlign as matrix products on a CPU, see ``resnext_det.roi_align``.

    Raises:
        ValueError: another type; maps that are no neighbors.
    """

    def __init__(
        self,
        *,
        resolution: int,
        strides: Sequence[int],
        sampling_ratio: int,
        pooler_type: str,
        by_matrices: bool = False,
    ) -> None:
        super().__init__()
        if pooler_type not in _POOLER_TYPES:
            raise ValueError(
                f"pooler type {pooler_type!r} is unknown; choose {', '.join(_POOLER_TYPES)}"
            )
        levels = [math.log2(stride) for stride in strides]
        if levels != [int(levels[0]) + index for index in range(len(levels))]:
            raise ValueError(
                f"the feature maps of regions have the strides {tuple(strides)}, which are not "
                "neighboring powers of 2, finest first; write neighbors in "
                "MODEL.ROI_HEADS.IN_FEATURES, such as ['p2', 'p3', 'p4', 'p5']"
            )
        self.resolution = resolution
        self.strides = tuple(strides)
        self.sampling_ratio = sampling_ratio
        self.pooler_type = pooler_type
        self.by_matrices = by_matrices
        self.first_level = int(levels[0])

    def forward(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Cut the boxes (Ri, 4) of each of N images, in pixels, out of maps (N, C, Hi, Wi).

        Returns:
            (sum of Ri, C, resolution, resolution).
        """
        return self.pool(features, join_boxes(boxes))

    def pool(self, features: Sequence[Tensor], regions: Tensor) -> Tensor:
        """Cut regions (R, 5), each the index of an image and a box, as ``forward`` does."""
        if len(features) == 1:
            return self._pool(features[0], regions, self.strides[0])
        levels = self._assign_levels(regions[:, 1:])
        cuts, places = [], []
        for level, (feature, stride) in enumerate(zip(features, self.strides)):
            places.append((levels == level).nonzero().flatten())
            cuts.append(self._pool(feature, regions[places[-1]], stride))
        # Not len(), which has to be a number in a graph that is traced.
        return join_regions(regions.shape[0], cuts, places)

    def _assign_levels(self, boxes: Tensor) -> Tensor:
        """Choose the index of the map that each box (R, 4) is cut out of."""
        sizes = torch.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
        levels = torch.floor(_CANONICAL_LEVEL + torch.log2(sizes / _CANONICAL_SIZE + 1e-8))
        last_level = self.first_level + len(self.strides) - 1
        return levels.clamp(self.first_level, last_level).to(torch.int64) - self.first_level

    def _pool(self, feature: Tensor, regions: Tensor, stride: int) -> Tensor:
        aligned = self.pooler_type == "ROIAlignV2"
        if self.by_matrices and feature.device.type == "cpu":
            grid = RegionGrid(self.resolution, 1.0 / stride, self.sampling_ratio, aligned)
            return align_regions(feature, regions, grid)
        # Rounding boxes to bfloat16 would move them by pixels, so the map goes to the boxes' type.
        exact, scale = feature.to(regions.dtype), 1.0 / stride
        if self.pooler_type == "ROIPool":
            pooled = roi_pool(exact, regions, self.resolution, scale)
        else:
            pooled = roi_align(exact, regions, self.resolution, scale, self.sampling_ratio, aligned)
        return pooled.to(feature.dtype)


class ROIHeads(nn.Module):
    """Sample regions in training, cut them out, compute their features, and predict.

    Args:
        in_features: names of the feature maps.
        sampling: which regions are trained on.
        pooler: cuts regions out of the feature maps.
        head: computes the features of cut regions.
        box_predictor: predicts classes and boxes from the features.
    """

    head_name: str
    """The name of ``head`` in detectron2's parameter names."""

    def __init__(
        self,
        *,
        in_features: Sequence[str],
        sampling: RegionSampling,
        pooler: ROIPooler,
        head: nn.Module,
        box_predictor: BoxPredictor,
    ) -> None:
        super().__init__()
        self.in_features = tuple(in_features)
        self.sampling = sampling
        self.pooler = pooler
        self.add_module(self.head_name, head)
        self.box_predictor = box_predictor

    def compute_vectors(self, regions: Tensor) -> Tensor:
        """Map cut regions (R, C, resolution, resolution) to vectors (R, D)."""
        raise NotImplementedError

    def cut_and_compute(self, maps: Sequence[Tensor], regions: Tensor) -> Tensor:
        """Cut regions (R, 5), see ``join_boxes``, out of the maps, and compute vectors (R, D)."""
        return self.compute_vectors(self.pooler.pool(maps, regions))

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: Sequence[Instances],
        targets: Sequence[Instances] | None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Compute the losses in training, and the detections of every image in inference.

        Returns:
            ([], losses) or (detections, {}).
        """
        maps = [features[name] for name in self.in_features]
        if self.training:
            assert targets is not None
            sampled = sample_regions(proposals, targets, self.sampling)
            return [], self.compute_box_losses(maps, sampled, targets)
        return self.detect_boxes(maps, proposals), {}

    def compute_box_losses(
        self, maps: Sequence[Tensor], sampled: SampledRegions, targets: Sequence[Instances]
    ) -> dict[str, Tensor]:
        """Compute the losses of classes and boxes for the regions that are trained on."""
        logits, deltas = self.predict(maps, sampled.regions)
        return self.box_predictor.compute_losses(logits, deltas, sampled)

    def detect_boxes(
        self, maps: Sequence[Tensor], proposals: Sequence[Instances]
    ) -> list[Instances]:
        """Detect among the proposals of every image; see ``BoxPredictor.detect``."""
        regions = join_boxes([proposal.proposal_boxes.tensor for proposal in proposals])
        if torch.compiler.is_compiling():
            found = self.predict(maps, _keep_one(regions))
            logits, deltas = (values[: len(regions)] for values in found)
        else:
            logits, deltas = self.predict(maps, regions)
        return self.box_predictor.detect(logits, deltas, proposals)

    def predict(self, maps: Sequence[Tensor], regions: Tensor) -> tuple[Tensor, Tensor]:
        """Predict logits (R, K + 1) and deltas (R, 4 * K or 4) of regions (R, 5)."""
        return self.box_predictor(self.cut_and_compute(maps, regions))


class Res5ROIHeads(ROIHeads):
    """Cut 14x14 cells out of res4, run res5 with its stride 2 on every region, and average: C4."""

    head_name = "res5"

    def compute_vectors(self, regions: Tensor) -> Tensor:
        return self.get_submodule("res5")(regions).mean(dim=[2, 3])  # (R, 2048)


class SharedRes5ROIHeads(Res5ROIHeads):
    """Compute what Res5ROIHeads does, but once an image what its regions share of res5.

    ``resnext_det.shared_res5`` tells what, and when. Names of parameters are the same.
    """

    def find_grid(self) -> RegionGrid | None:
        """Find which cells of a region are cut; None where RoIPool, which is not linear, cuts."""
        pooler = self.pooler
        if pooler.pooler_type == "ROIPool":
            return None
        aligned = pooler.pooler_type == "ROIAlignV2"
        return RegionGrid(pooler.resolution, 1 / pooler.strides[0], pooler.sampling_ratio, aligned)

    def cut_and_compute(self, maps: Sequence[Tensor], regions: Tensor) -> Tensor:
        grid = self.find_grid()
        if grid is None:
            return super().cut_and_compute(maps, regions)
        return run_res5(self.res5, maps[0], regions, grid).mean(dim=[2, 3])  # type: ignore[arg-type]


SHARED_HEADS[Res5ROIHeads] = SharedRes5ROIHeads


class StandardROIHeads(ROIHeads):
    """Cut 7x7 cells out of the map that fits a region, and run a box head: DC5 and FPN."""

    head_name = "box_head"

    def compute_vectors(self, regions: Tensor) -> Tensor:
        return self.get_submodule("box_head")(regions).flatten(1)
