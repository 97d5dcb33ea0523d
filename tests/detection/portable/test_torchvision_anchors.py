"""Anchors of torchvision's detectors, against its own."""

from __future__ import annotations

import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from resnext_det.detection.portable.torchvision_anchors import TorchvisionAnchorGenerator

SIZES = [[size, int(size * 2 ** (1 / 3)), int(size * 2 ** (2 / 3))] for size in (32, 64, 128, 256)]
RATIOS = [[0.5, 1.0, 2.0]]


def test_anchors_are_torchvisions() -> None:
    """Also where the coarse maps do not divide the image, as at MLPerf's 800 pixels."""
    theirs = AnchorGenerator(tuple(map(tuple, SIZES)), ((0.5, 1.0, 2.0),) * 4)
    ours = TorchvisionAnchorGenerator(sizes=SIZES, aspect_ratios=RATIOS, strides=[8, 16, 32, 64])
    assert ours.anchors_per_cell == 9
    for height, width in ((800, 800), (96, 352), (32, 64)):
        sides = [(-(-height // 2**level), -(-width // 2**level)) for level in (3, 4, 5, 6)]
        maps = [torch.zeros(1, 1, *side) for side in sides]
        images = ImageList(torch.zeros(1, 3, height, width), [(height, width)])
        (expected,) = theirs(images, maps)
        found = ours(maps)
        assert [len(level) for level in found] == [9 * h * w for h, w in sides]
        assert torch.equal(torch.cat(found), expected)
