"""Masks that are pasted without torch are those of the portable engine."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from resnext_det.deploy.pasting import paste_masks
from resnext_det.detection.portable.pasting import paste_masks as paste_in_torch

SIZE = (480, 640)


def test_pixels_are_those_of_the_portable_engine() -> None:
    """But where rounding decides; boxes are from a pixel to the whole image."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(400, 2, generator=generator) * torch.tensor([620.0, 460.0])
    sides = torch.exp(torch.rand(400, 2, generator=generator) * 6)
    ends = torch.minimum(corners + sides, torch.tensor([640.0, 480.0]))
    boxes = torch.cat([corners, ends], dim=1)
    boxes[0] = torch.tensor([0.0, 0.0, 640.0, 480.0])
    coarse = torch.randn(400, 1, 7, 7, generator=generator) * 5
    masks = F.interpolate(coarse, (28, 28), mode="bilinear").sigmoid()
    pixels = different = 0
    for some, places in zip(masks.split(100), boxes.split(100)):
        expected = paste_in_torch(some, places, SIZE).numpy()
        found = paste_masks(some[:, 0].numpy(), places.numpy(), SIZE)
        pixels += int(expected.sum())
        different += int((found != expected).sum())
    assert pixels > 500_000 and different <= 1
    assert paste_masks(masks[:0, 0].numpy(), boxes[:0].numpy(), (7, 5)).shape == (0, 7, 5)
