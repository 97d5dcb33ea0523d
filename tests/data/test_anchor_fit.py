"""The best anchor of every box against torchvision's IoU with every anchor that the RPN lays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from resnext_det.data.anchor_fit import AnchorGrid, fit_anchors, suggest_anchors
from resnext_det.detection.portable.boxes import AnchorGenerator

C4 = AnchorGrid([[32, 64, 128, 256]], [[0.5, 1.0, 2.0]], (16,))
FPN = AnchorGrid([[8], [16], [32], [64], [128]], [[0.5, 1.0, 2.0]], (4, 8, 16, 32, 64), padding=32)
SHIFTED = AnchorGrid([[20, 30], [50, 70]], [[1.0], [3.0]], (8, 16), offset=0.5)


def draw_boxes(count: int, height: int, width: int) -> np.ndarray:
    random = np.random.RandomState(0)
    sides = np.exp(random.uniform(np.log(2), np.log([width, height]), (count, 2)))
    corners = random.uniform(-0.1, 1, (count, 2)) * [width, height]
    return np.hstack([corners, corners + sides]).clip(0, [width, height, width, height])


@pytest.mark.parametrize("grid", [C4, FPN, SHIFTED])
@pytest.mark.parametrize("size", [(100, 163), (256, 96)])
def test_no_anchor_of_the_image_fits_better(grid: AnchorGrid, size: tuple[int, int]) -> None:
    height, width = size
    boxes = draw_boxes(60, height, width)
    ious, choices = fit_anchors(boxes, np.array([size] * len(boxes)), grid)
    padded = [-(-side // grid.padding) * grid.padding for side in size]
    generator = AnchorGenerator(
        sizes=grid.sizes,
        aspect_ratios=grid.aspect_ratios,
        strides=grid.strides,
        offset=grid.offset,
    )
    maps = [torch.zeros(1, 1, *(-(-side // stride) for side in padded)) for stride in grid.strides]
    anchors = torch.cat(generator(maps)).double()
    every = box_iou(torch.from_numpy(boxes), anchors).nan_to_num()
    np.testing.assert_allclose(ious, every.amax(dim=1), atol=1e-5)
    chosen = grid.list_shapes()[choices]
    best = anchors[every.argmax(dim=1)]
    sides = (best[:, 2:] - best[:, :2]).numpy()
    clear = (every.topk(2).values.diff().abs() > 1e-5).flatten().numpy()
    np.testing.assert_allclose(chosen[clear, :2], sides[clear], rtol=1e-5)


def test_smaller_anchors_are_suggested_for_small_boxes() -> None:
    random = np.random.RandomState(0)
    low = random.uniform(0, 600, (500, 2))
    boxes = np.hstack([low, low + random.uniform(9, 14, (500, 1)) * [1, 3]])
    sizes = np.full((500, 2), 640)
    grid = AnchorGrid([[32], [64], [128]], [[0.5, 1.0, 2.0]], (4, 8, 16), padding=32)
    best, present, share = suggest_anchors(boxes, sizes, grid)
    assert present == (fit_anchors(boxes, sizes, grid)[0] >= 0.5).mean() < 0.3
    assert share == (fit_anchors(boxes, sizes, best)[0] >= 0.5).mean() >= 0.95
    assert best.strides == grid.strides and max(map(max, best.sizes)) < 128
    fitting, unchanged, same = suggest_anchors(boxes, sizes, best)
    assert same >= unchanged == share
    assert len(fitting.aspect_ratios[0]) == 3


def test_no_boxes_have_no_best_anchor() -> None:
    none, sizes = np.empty((0, 4)), np.empty((0, 2), int)
    assert [len(part) for part in fit_anchors(none, sizes, FPN)] == [0, 0]
    grid, present, share = suggest_anchors(none, sizes, FPN)
    assert grid is FPN and np.isnan([present, share]).all()
