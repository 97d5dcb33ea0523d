"""Masks of regions are pasted into the image as detectron2 pastes them, and as worked out."""

from __future__ import annotations

import pytest
import torch

from resnext_det.detection.portable.pasting import paste_masks


def draw_masks() -> tuple[torch.Tensor, torch.Tensor]:
    """Draw smooth masks and their boxes, small, large and across the border."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(40, 2, generator=generator) * torch.tensor([120.0, 80.0]) - 10
    sides = torch.exp(torch.rand(40, 2, generator=generator) * 5)
    boxes = torch.cat([corners, corners + 12 + sides], dim=1)
    boxes[0] = torch.tensor([3.0, 4.0, 5.0, 9.0])
    masks = torch.rand(40, 1, 4, 4, generator=generator)
    return torch.nn.functional.interpolate(masks, (28, 28), mode="bilinear"), boxes


@pytest.mark.detectron2
@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_pixels_are_detectron2s(threshold: float) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.layers import paste_masks_in_image

    masks, boxes = draw_masks()
    found = paste_masks(masks, boxes, (87, 123), threshold)
    expected = paste_masks_in_image(masks[:, 0], boxes, (87, 123), threshold)
    assert found.dtype == torch.bool and torch.equal(found, expected)
    assert 0.02 < found.float().mean() < 0.9
    assert paste_masks(masks[:0, 0], boxes[:0], (7, 5)).shape == (0, 7, 5)


def test_a_mask_of_two_halves() -> None:
    """The left half of a box of 8 x 4 pixels belongs to it; of one beyond the image nothing does.

    Values fall to 0 around the border: the corners have 0.47, and what touches the half 0.375.
    """
    mask = torch.zeros(2, 2)
    mask[:, 0] = 1.0
    far = torch.tensor([[20.0, 1.0, 28.0, 5.0]])
    boxes = torch.cat([torch.tensor([[2.0, 1.0, 10.0, 5.0]]), far])
    found = paste_masks(mask.expand(2, 2, 2), boxes, (6, 12), 0.4)
    expected = torch.zeros(2, 6, 12, dtype=torch.bool)
    expected[0, 1:5, 2:6] = True
    assert torch.equal(found, expected)


def test_a_graph_marks_the_same_pixels() -> None:
    masks, boxes = draw_masks()
    compiled = torch.compile(paste_masks, backend="eager", fullgraph=True)
    found, expected = compiled(masks, boxes, (87, 123)), paste_masks(masks, boxes, (87, 123))
    assert (found != expected).float().mean() < 1e-4
