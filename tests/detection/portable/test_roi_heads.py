"""Regions are cut out of feature maps as by torchvision's MultiScaleRoIAlign."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign, roi_align

from resnext_det.detection.portable.roi_pooler import ROIPooler
from tests.detection.portable.test_boxes import random_boxes


def pyramid(size: int = 256, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, 3, size // stride, size // stride, generator=generator).to(dtype)
        for stride in (4, 8, 16, 32)
    ]


def test_levels_and_order_are_torchvisions() -> None:
    """Unaligned, as torchvision's pooler is; sizes from 1 to 1000 pixels reach all four levels."""
    boxes = [random_boxes(60, seed=1, size=20), random_boxes(60, seed=2, size=2000)]
    ours = ROIPooler(resolution=5, strides=(4, 8, 16, 32), sampling_ratio=2, pooler_type="ROIAlign")
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], 5, 2)
    maps = pyramid()
    expected = theirs({str(i): feature for i, feature in enumerate(maps)}, boxes, [(256, 256)] * 2)
    assert torch.equal(ours(maps, boxes), expected)
    assert ours._assign_levels(torch.cat(boxes)).unique().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("side", "level"), [(1, 0), (111, 0), (112, 1), (223, 1), (224, 2), (448, 3), (4000, 3)]
)
def test_a_region_of_224_pixels_belongs_to_level_4(side: int, level: int) -> None:
    pooler = ROIPooler(
        resolution=2, strides=(4, 8, 16, 32), sampling_ratio=0, pooler_type="ROIAlignV2"
    )
    assert pooler._assign_levels(
        torch.tensor([[10.0, 10.0, 10.0 + side, 10.0 + side]])
    ).tolist() == [level]


@pytest.mark.parametrize(
    ("pooler_type", "expected"),
    [("ROIAlignV2", [9.5, 13.5]), ("ROIAlign", [10.0, 14.0]), ("ROIPool", [12, 16])],
)
def test_what_is_cut_out_of_a_ramp(pooler_type: str, expected: list[float]) -> None:
    """Pixel x holds x (its center x + 0.5); a region of [8, 16) has the cells [8, 12), [12, 16)."""
    ramp = torch.arange(32.0).expand(1, 1, 32, 32)
    pooler = ROIPooler(resolution=2, strides=(1,), sampling_ratio=0, pooler_type=pooler_type)
    pooled = pooler([ramp], [torch.tensor([[8.0, 8.0, 16.0, 16.0]])])
    assert pooled.shape == (1, 1, 2, 2)
    assert pooled[0, 0, 0].tolist() == expected


def test_without_regions() -> None:
    for strides in ((4, 8, 16, 32), (16,)):
        pooler = ROIPooler(
            resolution=7, strides=strides, sampling_ratio=0, pooler_type="ROIAlignV2"
        )
        maps = pyramid()[: len(strides)]
        assert pooler(maps, [torch.zeros(0, 4), torch.zeros(0, 4)]).shape == (0, 3, 7, 7)
        one = pooler(maps, [torch.zeros(0, 4), torch.tensor([[0.0, 0.0, 50.0, 50.0]])])
        other = roi_align(
            maps[0], torch.tensor([[1, 0, 0, 50.0, 50.0]]), 7, 1 / strides[0], 0, True
        )
        assert torch.equal(one, other)


def test_boxes_stay_exact_where_maps_are_bfloat16() -> None:
    """Rounded to bfloat16 a corner at 1001 pixels would be at 1000."""
    pooler = ROIPooler(
        resolution=3, strides=(4, 8, 16, 32), sampling_ratio=0, pooler_type="ROIAlignV2"
    )
    boxes = [torch.tensor([[900.3, 901.7, 930.2, 960.9]]), random_boxes(5, size=500)]
    maps = pyramid(1024, torch.bfloat16)
    pooled = pooler(maps, boxes)
    assert pooled.dtype == torch.bfloat16
    expected = pooler([feature.float() for feature in maps], boxes)
    assert torch.equal(pooled, expected.to(torch.bfloat16))


def test_what_cannot_be_pooled() -> None:
    for strides in ((4, 16), (8, 4), (4, 6)):
        words = r"neighboring powers of 2.*MODEL\.ROI_HEADS\.IN_FEATURES"
        with pytest.raises(ValueError, match=words):
            ROIPooler(resolution=2, strides=strides, sampling_ratio=0, pooler_type="ROIAlignV2")
    with pytest.raises(ValueError, match="'ROIWarp' is unknown; choose ROIAlignV2"):
        ROIPooler(resolution=2, strides=(4,), sampling_ratio=0, pooler_type="ROIWarp")
