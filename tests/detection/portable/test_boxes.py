"""Arithmetic of boxes equals torchvision's, published anchors, and loops by the definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import box_iou

from resnext_det.detection.portable.boxes import (
    AnchorGenerator,
    BoxTransform,
    compute_box_loss,
    find_larger,
    make_cell_anchors,
    match_candidates,
    sample_labels,
)


def random_boxes(count: int, seed: int = 0, size: float = 100) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * size
    return torch.cat(
        [corners, corners + torch.rand(count, 2, generator=generator) * size / 2 + 1], dim=1
    )


def test_cell_anchors_have_the_area_and_the_ratio_that_was_asked_for() -> None:
    sizes, ratios = [32, 100], [0.5, 1.0, 2.0]
    anchors = make_cell_anchors(sizes, ratios)
    width, height = (anchors[:, 2:] - anchors[:, :2]).unbind(dim=1)
    expected = torch.tensor(
        [(size, ratio) for size in sizes for ratio in ratios]
    )  # sizes go slowly
    torch.testing.assert_close((width * height).sqrt(), expected[:, 0])
    torch.testing.assert_close(height / width, expected[:, 1])
    torch.testing.assert_close(anchors[:, :2], -anchors[:, 2:])


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_anchors_stand_on_every_cell(offset: float) -> None:
    generator = AnchorGenerator(
        sizes=[[8.0], [32.0]], aspect_ratios=[[1.0, 2.0]], strides=[4, 16], offset=offset
    )
    maps = [torch.zeros(2, 7, 5, 3), torch.zeros(2, 7, 2, 1)]
    for anchors, feature, stride, size in zip(generator(maps), maps, (4, 16), (8.0, 32.0)):
        expected = [
            [(column + offset) * stride - w / 2, (row + offset) * stride - h / 2]
            + [(column + offset) * stride + w / 2, (row + offset) * stride + h / 2]
            for row in range(feature.shape[2])
            for column in range(feature.shape[3])
            for w, h in [(size, size), (size / math.sqrt(2), size * math.sqrt(2))]
        ]
        torch.testing.assert_close(anchors, torch.tensor(expected))
    assert generator.anchors_per_cell == 2
    assert generator.state_dict() == {}


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_box_deltas_are_torchvisions(weights: tuple[float, float, float, float]) -> None:
    boxes, targets = random_boxes(40), random_boxes(40, seed=1)
    ours, theirs = BoxTransform(weights), BoxCoder(weights)
    deltas = ours.encode(boxes, targets)
    torch.testing.assert_close(deltas, theirs.encode_single(targets, boxes))
    torch.testing.assert_close(ours.decode(deltas, boxes), targets)
    several = torch.cat([deltas, deltas / 2], dim=1)
    torch.testing.assert_close(ours.decode(several, boxes), theirs.decode_single(several, boxes))


def test_decoding_is_bounded_and_in_float32() -> None:
    box = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    decoded = BoxTransform((1, 1, 1, 1)).decode(
        torch.tensor([[0.0, 0.0, 50.0, -50.0]], dtype=torch.bfloat16), box
    )
    assert decoded.dtype == torch.float32
    width, height = (decoded[0, 2:] - decoded[0, :2]).tolist()
    assert width == pytest.approx(1000, rel=1e-5) and height == pytest.approx(0, abs=1e-6)
    assert BoxTransform((1, 1, 1, 1)).decode(torch.zeros(0, 12), torch.zeros(0, 4)).shape == (0, 12)


@pytest.mark.parametrize("low_quality", [False, True])
def test_matching_is_torchvisions(low_quality: bool) -> None:
    truth, boxes = random_boxes(6), random_boxes(300, seed=1)
    matches, labels = match_candidates(
        truth,
        boxes,
        thresholds=(0.2, 0.5),
        labels=(0, -1, 1),
        allow_low_quality_matches=low_quality,
    )
    theirs = Matcher(0.5, 0.2, allow_low_quality_matches=low_quality)(box_iou(truth, boxes))
    expected = torch.where(
        theirs >= 0, 1, torch.where(theirs == Matcher.BELOW_LOW_THRESHOLD, 0, -1)
    )
    assert labels.tolist() == expected.tolist()
    assert set(labels.tolist()) == {-1, 0, 1}
    assert torch.equal(matches[theirs >= 0], theirs[theirs >= 0])


def test_matching_with_nothing_to_match() -> None:
    matches, labels = match_candidates(
        torch.zeros(0, 4),
        random_boxes(5),
        thresholds=(0.3, 0.7),
        labels=(0, -1, 1),
        allow_low_quality_matches=True,
    )
    assert matches.tolist() == labels.tolist() == [0] * 5


@pytest.mark.parametrize(
    ("count", "fraction", "objects", "background"),
    [(10, 0.5, 5, 5), (10, 0.2, 2, 8), (100, 0.5, 8, 24), (12, 1.0, 8, 4), (0, 0.5, 0, 0)],
)
def test_sampling_draws_what_was_asked_for(
    count: int, fraction: float, objects: int, background: int
) -> None:
    labels = torch.tensor([3] * 8 + [9] * 24 + [-1] * 8)[
        torch.randperm(40)
    ]  # class 3, background 9, ignored
    positive, negative = sample_labels(
        labels, count=count, positive_fraction=fraction, background=9
    )
    assert (len(positive), len(negative)) == (objects, background)
    drawn = torch.cat([positive, negative])
    assert len(drawn.unique()) == len(drawn)
    assert set(labels[positive].tolist()) <= {3} and set(labels[negative].tolist()) <= {9}


def test_smooth_l1_is_torchs() -> None:
    boxes, targets = random_boxes(20), random_boxes(20, seed=1)
    transform = BoxTransform((10.0, 10.0, 5.0, 5.0))
    deltas = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    for beta in (0.0, 1 / 9, 1.0):
        loss = compute_box_loss(
            boxes, deltas, targets, transform=transform, loss_type="smooth_l1", smooth_l1_beta=beta
        )
        expected = torch.nn.functional.smooth_l1_loss(
            deltas, transform.encode(boxes, targets), beta=beta, reduction="sum"
        )
        torch.testing.assert_close(loss, expected)
    with pytest.raises(ValueError, match=r"'l2' is unknown; choose smooth_l1, giou"):
        compute_box_loss(
            boxes, deltas, targets, transform=transform, loss_type="l2", smooth_l1_beta=0.0
        )


def test_the_loss_of_no_box_is_0_and_has_a_gradient() -> None:
    for loss_type in ("smooth_l1", "giou", "diou", "ciou"):
        deltas = torch.zeros(0, 4, requires_grad=True)
        loss = compute_box_loss(
            torch.zeros(0, 4),
            deltas,
            torch.zeros(0, 4),
            transform=BoxTransform((1, 1, 1, 1)),
            loss_type=loss_type,
            smooth_l1_beta=0.0,
        )
        loss.backward()
        assert loss.item() == 0.0 and deltas.grad is not None


def test_both_sides_have_to_be_longer() -> None:
    boxes = torch.tensor(
        [[0, 0, 2, 2], [0, 0, 1, 2], [0, 0, 2, 1], [5, 5, 5, 5], [3, 3, 2, 9]], dtype=torch.float32
    )
    assert find_larger(boxes).tolist() == [True, True, True, False, False]
    assert find_larger(boxes, 1.0).tolist() == [True, False, False, False, False]
