"""Cut regions out of feature maps, and compute their classes, boxes and masks.

``Res5ROIHeads`` is the C4 detector of the ResNeXt paper (section 5.4), ``SharedRes5ROIHeads`` the
same made faster, and ``StandardROIHeads`` that of DC5 and FPN. Names and numbers are detectron2's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from resnext_det.detection.portable.boxes import join_boxes
from resnext_det.detection.portable.mask_head import (
    MaskHead,
    compute_mask_loss,
    compute_mask_probabilities,
    cut_masks,
)
from resnext_det.detection.portable.roi_pooler import ROIPooler
from resnext_det.detection.portable.sampling import (
    RegionSampling,
    SampledRegions,
    sample_regions,
)
from resnext_det.instances import Instances
from resnext_det.roi_align import RegionGrid, arrange_for_convolutions
from resnext_det.shared_res5 import SHARED_HEADS, run_res5


@torch.library.custom_op("resnext_det::keep_one", mutates_args=())
def _keep_one(regions: Tensor) -> Tensor:
    """Copy regions (R, 5) in a graph; where there is none, give one, so that a norm has values."""
    return regions.clone() if len(regions) else regions.new_zeros(1, 5)


@_keep_one.register_fake
def _(regions: Tensor) -> Tensor:
    return regions.new_empty(torch.library.get_ctx().new_dynamic_size(min=1), 5)


class ROIHeads(nn.Module):
    """Sample regions in training, cut them out, compute their features, and predict.

    Args:
        in_features: names of the feature maps.
        sampling: which regions are trained on.
        pooler: cuts regions out of the feature maps.
        head: computes the features of cut regions.
        box_predictor: predicts classes and boxes from the features.
        mask_head: computes masks of regions; None for boxes alone.
    """

    head_name: str
    """The name of ``head`` in detectron2's parameter names."""

    box_predictor: Any
    """A ``BoxPredictor``; of a cascade an ``nn.ModuleList`` of them."""

    def __init__(
        self,
        *,
        in_features: Sequence[str],
        sampling: RegionSampling,
        pooler: ROIPooler,
        head: nn.Module,
        box_predictor: nn.Module,
        mask_head: MaskHead | None = None,
    ) -> None:
        super().__init__()
        self.in_features = tuple(in_features)
        self.sampling = sampling
        self.pooler = pooler
        self.add_module(self.head_name, head)
        self.box_predictor = box_predictor
        self.mask_head = mask_head

    def cut_and_compute(self, maps: Sequence[Tensor], regions: Tensor) -> Tensor:
        """Cut regions (R, 5), see ``join_boxes``, out of the maps, and compute vectors (R, D)."""
        raise NotImplementedError

    def cut_for_masks(self, maps: Sequence[Tensor], regions: Tensor) -> Tensor:
        """Cut regions (R, 5) out of the maps, and compute what the mask head takes."""
        raise NotImplementedError

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
            return [], self.compute_losses(maps, sampled, targets)
        found = self.detect_boxes(maps, proposals)
        return found if self.mask_head is None else self.detect_masks(maps, found), {}

    def compute_losses(
        self, maps: Sequence[Tensor], sampled: SampledRegions, targets: Sequence[Instances]
    ) -> dict[str, Tensor]:
        """Compute the losses of the regions that are trained on, of masks too where they are."""
        losses = self.compute_box_losses(maps, sampled, targets)
        if self.mask_head is not None:
            objects = sampled.find_objects(self.sampling.num_classes)
            features = self.cut_for_masks(maps, sampled.regions[objects])
            losses |= self.compute_mask_losses(features, objects, sampled, targets)
        return losses

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
        boxes, scores = self.box_predictor.decode(logits, deltas, regions[:, 1:])
        return self.box_predictor.detect(boxes, scores, proposals)

    def predict(self, maps: Sequence[Tensor], regions: Tensor) -> tuple[Tensor, Tensor]:
        """Predict logits (R, K + 1) and deltas (R, 4 * K or 4) of regions (R, 5)."""
        return self.box_predictor(self.cut_and_compute(maps, regions))

    def compute_mask_losses(
        self,
        features: Tensor,
        objects: Tensor,
        sampled: SampledRegions,
        targets: Sequence[Instances],
    ) -> dict[str, Tensor]:
        """Compute ``loss_mask`` of the sampled regions that are objects.

        Args:
            features: of these (P, ...), as ``cut_for_masks`` gives.
            objects: their indices (P,) among the sampled regions.
            targets: per image ``gt_masks``.
        """
        assert self.mask_head is not None
        logits = self.mask_head(features)
        regions, matches = sampled.regions[objects], sampled.matches[objects]
        truth = cut_masks(targets, regions, matches, logits.shape[-1])
        return {"loss_mask": compute_mask_loss(logits, sampled.classes[objects], truth)}

    def detect_masks(self, maps: Sequence[Tensor], found: Sequence[Instances]) -> list[Instances]:
        """Add ``pred_masks`` (N, 1, S, S) to what ``detect_boxes`` gives: probabilities."""
        assert self.mask_head is not None
        regions = join_boxes([one.pred_boxes.tensor for one in found])
        classes = torch.cat([one.pred_classes for one in found])
        if torch.compiler.is_compiling():
            logits = self.mask_head(self.cut_for_masks(maps, _keep_one(regions)))[: len(regions)]
        else:
            logits = self.mask_head(self.cut_for_masks(maps, regions))
        masks = compute_mask_probabilities(logits, classes).split([len(one) for one in found])
        return [
            Instances(one.image_size, **one.get_fields(), pred_masks=mask)
            for one, mask in zip(found, masks)
        ]


class Res5ROIHeads(ROIHeads):
    """Cut 14x14 cells out of res4, run res5 with its stride 2 on every region, and average: C4.

    The mask head takes res5's maps before they are averaged. In training they are computed once.
    """

    head_name = "res5"

    def cut_for_masks(self, maps: Sequence[Tensor], regions: Tensor) -> Tensor:
        return self.get_submodule("res5")(self.pooler.pool(maps, regions))  # (R, 2048, 7, 7)

    def cut_and_compute(self, maps: Sequence[Tensor], regions: Tensor) -> Tensor:
        return self.cut_for_masks(maps, regions).mean(dim=[2, 3])

    def compute_losses(
        self, maps: Sequence[Tensor], sampled: SampledRegions, targets: Sequence[Instances]
    ) -> dict[str, Tensor]:
        if self.mask_head is None:
            return self.compute_box_losses(maps, sampled, targets)
        features = self.cut_for_masks(maps, sampled.regions)
        logits, deltas = self.box_predictor(features.mean(dim=[2, 3]))
        losses = self.box_predictor.compute_losses(logits, deltas, sampled)
        objects = sampled.find_objects(self.sampling.num_classes)
        return losses | self.compute_mask_losses(features[objects], objects, sampled, targets)


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

    def cut_for_masks(self, maps: Sequence[Tensor], regions: Tensor) -> Tensor:
        grid = self.find_grid()
        if grid is None:
            return super().cut_for_masks(maps, regions)
        return run_res5(self.res5, maps[0], regions, grid)  # type: ignore[arg-type]


SHARED_HEADS[Res5ROIHeads] = SharedRes5ROIHeads


class StandardROIHeads(ROIHeads):
    """Cut 7x7 cells out of the map that fits a region, and run a box head: DC5 and FPN.

    Args:
        mask_pooler: cuts regions out for the mask head; None without one.
        options: of ``ROIHeads``.
    """

    head_name = "box_head"

    def __init__(self, *, mask_pooler: ROIPooler | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.mask_pooler = mask_pooler

    def cut_and_compute(self, maps: Sequence[Tensor], regions: Tensor) -> Tensor:
        return self.get_submodule("box_head")(self.pooler.pool(maps, regions)).flatten(1)

    def cut_for_masks(self, maps: Sequence[Tensor], regions: Tensor) -> Tensor:
        assert self.mask_pooler is not None
        cut = self.mask_pooler.pool(maps, regions)
        return arrange_for_convolutions(cut) if self.mask_pooler.by_matrices else cut
