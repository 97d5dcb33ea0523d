"""Masks as polygons and bitmaps: against detectron2's, and against pixels counted by hand."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from resnext_det.instances import Instances
from resnext_det.masks import BitMasks, PolygonMasks, rasterize_polygons

TRIANGLE = np.array([2.25, 1.5, 14.75, 3.0, 6.5, 11.25])
SQUARE = np.array([1.0, 1, 4, 1, 4, 4, 1, 4])
ABOVE = np.array([-8.0, -6, -2, -6, -2, -1])
POLYGONS = [[TRIANGLE], [SQUARE, TRIANGLE + 3], [], [SQUARE + 6.5], [ABOVE]]
BOXES = torch.tensor(
    [[2.0, 1, 15, 12], [0.3, 0.7, 17.9, 14.2], [0, 0, 5, 5], [7, 7, 7.05, 11], [-9, -7, 3, 2]]
)
INDICES = [
    *(0, -1, 2, slice(1, 3)),
    torch.tensor([2, 0, 0]),
    torch.tensor([True, False, True, False, True]),
    torch.tensor([], dtype=torch.int64),
]


def make_bitmaps() -> torch.Tensor:
    bitmaps = [rasterize_polygons(parts, 16, 20) for parts in POLYGONS]
    return torch.from_numpy(np.stack(bitmaps))


def make_ours(kind: str) -> Any:
    return PolygonMasks(POLYGONS) if kind == "polygons" else BitMasks(make_bitmaps())


def make_theirs(kind: str) -> Any:
    masks = pytest.importorskip("detectron2.structures", reason="detectron2 is not installed")
    return masks.PolygonMasks(POLYGONS) if kind == "polygons" else masks.BitMasks(make_bitmaps())


def contents(masks: Any) -> Any:
    if hasattr(masks, "tensor"):
        return masks.tensor.tolist()
    return [[part.tolist() for part in parts] for parts in masks.polygons]


@pytest.mark.detectron2
@pytest.mark.parametrize("size", [1, 14, 28])
@pytest.mark.parametrize("kind", ["polygons", "bitmaps"])
def test_masks_are_cut_out_and_resized_as_by_detectron2(kind: str, size: int) -> None:
    ours, theirs = make_ours(kind), make_theirs(kind)
    random = torch.Generator().manual_seed(0)
    corners = torch.rand(40, 2, 2, generator=random) * torch.tensor([20.0, 16.0])
    boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    owners = torch.arange(40) % 5
    for own_index, own_boxes in ((slice(None), BOXES), (owners, boxes)):
        cut = ours[own_index].crop_and_resize(own_boxes, size)
        assert cut.dtype == torch.bool
        assert cut.equal(theirs[own_index].crop_and_resize(own_boxes, size))
    nothing = torch.tensor([], dtype=torch.int64)
    assert ours[nothing].crop_and_resize(BOXES[:0], size).shape == (0, size, size)


@pytest.mark.detectron2
def test_bitmaps_of_noise_are_cut_out_as_by_detectron2() -> None:
    """Each pixel counts, and boxes of all sizes lie in the image, across its border and beyond."""
    masks = pytest.importorskip("detectron2.structures", reason="detectron2 is not installed")
    random = torch.Generator().manual_seed(0)
    noise = torch.rand(300, 40, 56, generator=random) > 0.4
    corners = torch.rand(300, 2, generator=random) * torch.tensor([76.0, 60.0]) - 10
    sides = torch.exp(torch.rand(300, 2, generator=random) * 6 - 2)
    boxes = torch.cat([corners, corners + sides], dim=1)
    boxes[0] = torch.tensor([0.0, 0.0, 56.0, 40.0])
    found = BitMasks(noise).crop_and_resize(boxes, 7)
    assert found.equal(masks.BitMasks(noise).crop_and_resize(boxes, 7))
    assert 0.1 < found.float().mean() < 0.9


@pytest.mark.detectron2
@pytest.mark.parametrize("kind", ["polygons", "bitmaps"])
def test_boxes_and_empty_masks_are_those_of_detectron2(kind: str) -> None:
    ours, theirs = make_ours(kind), make_theirs(kind)
    assert len(ours) == len(theirs)
    assert ours.nonempty().equal(theirs.nonempty())
    assert ours.get_bounding_boxes().tensor.equal(theirs.get_bounding_boxes().tensor)


@pytest.mark.detectron2
@pytest.mark.parametrize("kind", ["polygons", "bitmaps"])
@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_masks_are_selected_as_from_detectron2s(kind: str, index: Any) -> None:
    ours, theirs = make_ours(kind)[index], make_theirs(kind)[index]
    assert contents(ours) == contents(theirs)
    assert type(ours).__name__ == type(theirs).__name__


@pytest.mark.parametrize("kind", ["polygons", "bitmaps"])
def test_masks_are_a_field_of_instances(kind: str) -> None:
    masks = make_ours(kind)
    instances = Instances((16, 20), gt_masks=masks, numbers=torch.arange(5))
    chosen = instances[torch.tensor([False, True, False, True, False])].to("cpu")
    assert contents(chosen.gt_masks) == contents(masks[torch.tensor([1, 3])])
    assert contents(instances[-1].gt_masks) == contents(masks[4])
    for copied in (copy.deepcopy(masks), pickle.loads(pickle.dumps(masks))):
        assert contents(copied) == contents(masks)


def test_a_square_of_whole_pixels_is_filled_exactly() -> None:
    filled = rasterize_polygons([SQUARE], 6, 7)
    expected = np.zeros((6, 7), bool)
    expected[1:4, 1:4] = True
    assert (filled == expected).all()
    cut = PolygonMasks([[SQUARE]]).crop_and_resize(torch.tensor([[0.0, 0, 6, 6]]), 12)
    assert cut.nonzero().tolist() == [[0, y, x] for y in range(2, 8) for x in range(2, 8)]
    assert BitMasks(filled[None]).get_bounding_boxes().tensor.tolist() == [[1, 1, 4, 4]]


def test_what_is_no_mask_is_refused() -> None:
    for wrong in (SQUARE[:4], SQUARE[:7], SQUARE.reshape(-1, 2)):
        with pytest.raises(ValueError, match="three points or more"):
            PolygonMasks([[wrong]])
    with pytest.raises(ValueError, match=r"shape \(4, 4\); give \(masks, height, width\)"):
        BitMasks(torch.zeros(4, 4))
    for kind in ("polygons", "bitmaps"):
        with pytest.raises(ValueError, match="2 boxes for 5 masks"):
            make_ours(kind).crop_and_resize(BOXES[:2], 14)
