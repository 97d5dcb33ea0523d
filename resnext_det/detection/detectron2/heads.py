"""Register heads that compute detectron2's numbers faster, under its names of parameters."""

from __future__ import annotations

from types import FunctionType
from typing import Any

import torch
from detectron2.layers import ROIAlign
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.poolers import (
    ROIPooler,
    assign_boxes_to_levels,
    convert_boxes_to_pooler_format,
)
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY, StandardRPNHead
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from detectron2.structures import Boxes
from torch import Tensor
from torchvision.ops import roi_align

from resnext_det.config.backbone import check_standard_head
from resnext_det.roi_align import (
    RegionGrid,
    align_regions,
    arrange_for_convolutions,
    join_regions,
)
from resnext_det.sparse_rpn import check_convolution, predict_sparsely


class _ROIAlign(ROIAlign):
    """Compute RoIAlign as matrix products on a CPU, but in ``torch.jit.script`` as detectron2."""

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            return self._align(input, rois)
        return roi_align(
            input,
            rois.to(dtype=input.dtype),
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            self.aligned,
        )

    @torch.jit.unused
    def _align(self, features: Tensor, regions: Tensor) -> Tensor:
        if features.device.type != "cpu":
            return super().forward(features, regions)
        size, scale = self.output_size[0], self.spatial_scale
        grid = RegionGrid(size, scale, self.sampling_ratio, self.aligned)
        return align_regions(features, regions, grid)


class _ROIPooler(ROIPooler):
    """Cut regions out of several maps with less memory; in ``torch.jit.script`` as detectron2."""

    # torch.jit.script takes no second function of the name "forward".
    _pool_by_copies = FunctionType(
        *(ROIPooler.forward.__code__, ROIPooler.forward.__globals__, "_pool_by_copies")
    )
    _pool_by_copies.__annotations__ = ROIPooler.forward.__annotations__

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        if not torch.jit.is_scripting():
            return self._pool(x, box_lists)
        return self._pool_by_copies(x, box_lists)

    @torch.jit.unused
    def _pool(self, maps: list[Tensor], boxes: list[Boxes]) -> Tensor:
        if len(maps) == 1 or not boxes or torch.jit.is_tracing():
            return self._pool_by_copies(maps, boxes)
        regions = convert_boxes_to_pooler_format(boxes)
        levels = assign_boxes_to_levels(
            *(boxes, self.min_level, self.max_level, self.canonical_box_size),
            self.canonical_level,
        )
        places = [(levels == level).nonzero().flatten() for level in range(len(maps))]
        cuts = [
            cutter(one, regions[place])
            for cutter, one, place in zip(self.level_poolers, maps, places, strict=True)
        ]
        return join_regions(len(regions), cuts, places)


class _MaskROIPooler(_ROIPooler):
    """Cut regions out for the convolutions of a mask head."""

    @torch.jit.unused
    def _pool(self, maps: list[Tensor], boxes: list[Boxes]) -> Tensor:
        return arrange_for_convolutions(super()._pool(maps, boxes))


class _FasterPoolers(StandardROIHeads):
    """Cut regions out by the faster RoIAlign; the class after this one makes all else."""

    @classmethod
    def _init_box_head(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        check_standard_head(cfg)
        made = super()._init_box_head(cfg, input_shape)
        _exchange_pooler(made["box_pooler"], _ROIPooler)
        return made

    @classmethod
    def _init_mask_head(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        made = super()._init_mask_head(cfg, input_shape)
        if made:
            _exchange_pooler(made["mask_pooler"], _MaskROIPooler)
        return made


@ROI_HEADS_REGISTRY.register()
class ResNeXtStandardROIHeads(_FasterPoolers):
    """Compute what StandardROIHeads does, with a RoIAlign of boxes and masks that is faster.

    ``resnext_det.roi_align`` tells how. Losses are the same, within rounding.
    """


@ROI_HEADS_REGISTRY.register()
class ResNeXtCascadeROIHeads(_FasterPoolers, CascadeROIHeads):
    """Compute what CascadeROIHeads does, with a RoIAlign of boxes and masks that is faster.

    ``resnext_det.roi_align`` tells how. Losses are the same, within rounding.
    """


def _exchange_pooler(pooler: ROIPooler, kind: type[_ROIPooler]) -> None:
    """Make a pooler, in place, one of a kind, with the RoIAlign that computes matrix products."""
    pooler.__class__ = kind
    for index, one in enumerate(pooler.level_poolers):
        pooler.level_poolers[index] = _ROIAlign(
            *(one.output_size, one.spatial_scale, one.sampling_ratio, one.aligned)
        )


@RPN_HEAD_REGISTRY.register()
class ResNeXtSparseRPNHead(StandardRPNHead):
    """Predict what StandardRPNHead does, and compute the gradients of the sampled cells alone.

    ``resnext_det.sparse_rpn`` tells how. In ``torch.jit.script`` it is detectron2's head.

    Raises:
        ValueError: MODEL.RPN.CONV_DIMS asks for several convolutions.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        check_convolution(self.conv)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits: list[Tensor] = []
        deltas: list[Tensor] = []
        for feature in features:
            if not torch.jit.is_scripting():
                layers = (self.conv, self.objectness_logits, self.anchor_deltas)
                predicted = predict_sparsely(feature, *layers)
            else:
                hidden = self.conv(feature)
                predicted = (self.objectness_logits(hidden), self.anchor_deltas(hidden))
            logits.append(predicted[0])
            deltas.append(predicted[1])
        return logits, deltas
