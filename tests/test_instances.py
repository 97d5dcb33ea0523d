"""Boxes and Instances: what they hold, and that detectron2's have the same ways."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

from resnext_det.instances import Boxes, Instances

CORNERS = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 4.0, 3.0], [5.0, 5.0, 9.0, 9.0]])


def ours() -> Instances:
    return Instances((10, 20), pred_boxes=Boxes(CORNERS), scores=torch.tensor([0.9, 0.5, 0.1]))


def theirs() -> Any:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2 import structures

    instances = structures.Instances((10, 20))
    instances.pred_boxes = structures.Boxes(CORNERS)
    instances.scores = torch.tensor([0.9, 0.5, 0.1])
    return instances


@pytest.mark.detectron2
@pytest.mark.parametrize(
    "index",
    [
        0,
        -1,
        2,
        slice(1, None),
        torch.tensor([2, 0]),
        torch.tensor([True, False, True]),
        slice(3, 3),
    ],
    ids=str,
)
def test_indexing_equals_detectron2(index: Any) -> None:
    mine, other = ours()[index], theirs()[index]
    assert len(mine) == len(other)
    assert torch.equal(mine.pred_boxes.tensor, other.pred_boxes.tensor)
    assert torch.equal(mine.scores, other.scores)
    assert mine.image_size == other.image_size == (10, 20)


@pytest.mark.detectron2
def test_fields_equal_detectron2() -> None:
    mine, other = ours(), theirs()
    for instances in (mine, other):
        instances.pred_classes = torch.tensor([1, 2, 3])
        assert instances.has("pred_classes") and not instances.has("gt_boxes")
        assert list(instances.get_fields()) == ["pred_boxes", "scores", "pred_classes"]
        assert torch.equal(instances.get("pred_classes"), instances.pred_classes)
        assert instances[0].pred_classes.tolist() == [1]
        with pytest.raises(AttributeError):
            _ = instances.gt_boxes
        with pytest.raises(NotImplementedError):
            iter(instances)
        with pytest.raises(IndexError):
            _ = instances[3]


def test_fields_have_one_length() -> None:
    instances = ours()
    with pytest.raises(
        ValueError, match="field 'pred_classes' has 2 entries where the others have 3; give 3"
    ):
        instances.pred_classes = torch.zeros(2)
    with pytest.raises(AttributeError, match="no field 'gt_boxes'; there are pred_boxes, scores"):
        _ = instances.gt_boxes


def test_they_are_copied_pickled_and_moved() -> None:
    """Worker processes pickle them."""
    for other in (copy.deepcopy(ours()), pickle.loads(pickle.dumps(ours())), ours().to("cpu")):
        assert other.image_size == (10, 20)
        assert torch.equal(other.pred_boxes.tensor, CORNERS)
        assert len(other) == 3
    moved = ours().to("meta")
    assert moved.scores.device.type == moved.pred_boxes.tensor.device.type == "meta"


def test_no_box_is_a_number_of_boxes() -> None:
    assert Boxes(torch.zeros(0)).tensor.shape == (0, 4)
    assert len(Instances((1, 1))) == 0
    assert len(Instances((1, 1), pred_boxes=Boxes(torch.zeros(0, 4)))) == 0
    with pytest.raises(
        ValueError, match=r"boxes have shape \(2, 3\); give a tensor of shape \(N, 4\)"
    ):
        Boxes(torch.zeros(2, 3))
