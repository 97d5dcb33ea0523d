"""Test crops and scale jitter at their limits; test_transforms.py compares with detectron2."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from resnext_det.data.crops import RandomCrop, ScaleJitter
from resnext_det.data.geometry import Crop, Pad, Resize


def test_a_very_flat_image_keeps_one_pixel() -> None:
    """detectron2 fails on both of these."""
    (crop,) = RandomCrop("relative", (0.1, 0.5)).draw(np.random.RandomState(0), 2, 300)
    assert isinstance(crop, Crop) and (crop.height, crop.width) == (1, 150)
    resize, _, pad = ScaleJitter(0.1, 0.1, 100).draw(np.random.RandomState(0), 2, 300)
    assert resize == Resize(2, 300, 1, 10) and pad == Pad(90, 99)


def test_every_window_is_drawn() -> None:
    """The first and the last place are reached, and none beyond the image."""
    random_state = np.random.RandomState(0)
    places = {
        (crop.x0, crop.y0)
        for _ in range(200)
        for crop in RandomCrop("absolute", (4, 7)).draw(random_state, 6, 8)
        if isinstance(crop, Crop)
    }
    assert places == {(x, y) for x in range(2) for y in range(3)}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("square", (0.5, 0.5)), "'square'.*one of relative_range, relative, absolute, absolute_r"),
        (("relative", (0.5,)), "two numbers"),
        (("relative", (0.0, 0.5)), r"SIZE = \[0.0, 0.5\]: write the shares"),
        (("relative_range", (384, 600)), "pixels are for the types absolute"),
        (("absolute", (0.9, 0.9)), "shares of the image are for the types relative"),
        (("absolute_range", (600, 384)), r"smallest side first, such as \[384, 600\]"),
    ],
)
def test_wrong_crops_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomCrop(*arguments)


@pytest.mark.parametrize("arguments", [(0.0, 2.0, 64), (2.0, 0.1, 64), (0.1, 2.0, 0)])
def test_wrong_scales_are_refused(arguments: Any) -> None:
    with pytest.raises(ValueError, match="such as"):
        ScaleJitter(*arguments)
