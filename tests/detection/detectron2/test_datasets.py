"""Our samples as detectron2's: what its models take, without a copy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resnext_det.instances import Boxes, Instances
from resnext_det.masks import BitMasks, PolygonMasks

pytestmark = pytest.mark.detectron2
structures = pytest.importorskip("detectron2.structures", reason="detectron2 is not installed")

from resnext_det.detection.detectron2.datasets import convert_sample  # noqa: E402


@pytest.mark.parametrize("kind", [PolygonMasks, BitMasks])
def test_boxes_and_masks_become_detectron2s(kind: type) -> None:
    polygons = PolygonMasks([[np.array([1, 2.0, 9, 3, 4, 12])], []])
    masks = polygons if kind is PolygonMasks else BitMasks(torch.rand(2, 10, 8) > 0.5)
    boxes = torch.tensor([[1.0, 2, 3, 4], [0, 0, 8, 8]])
    ours = Instances((10, 8), gt_boxes=Boxes(boxes), gt_classes=torch.arange(2), gt_masks=masks)
    found = convert_sample({"instances": ours, "image_id": 1})["instances"]
    assert type(found) is structures.Instances
    assert type(found.gt_masks) is getattr(structures, kind.__name__)
    assert found.gt_boxes.tensor is boxes
    cut = [each.crop_and_resize(boxes, 14) for each in (masks, found.gt_masks)]
    assert torch.equal(*cut)
