"""The random part of an image: its distribution, its ends, and when it is given up."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from resnext_det.data.images.augmentation import random_sized_crop_box
from resnext_det.data.images.resizing import Box
from tests.data.images.scripted_state import ScriptedState


def test_crop_boxes_give_up_after_ten_attempts() -> None:
    state = ScriptedState(*[1.0, 3 / 4, 0.9] * 9, 1.0, 1.0, 0.9)
    assert random_sized_crop_box(30, 40, state) is None and len(state.asked) == 30
    state = ScriptedState(*[1.0, 3 / 4, 0.9] * 9, 1.0, 4 / 3, 0.9, 0, 0)
    assert random_sized_crop_box(30, 40, state) == Box(0, 0, 30, 40)


def simulated(height: int, width: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Sides of crops as arrays at once, without the limit of ten attempts."""
    generator = np.random.default_rng(8)
    area = generator.uniform(0.08, 1.0, number) * height * width
    ratio = generator.uniform(0.75, 4 / 3, number)
    ratio = np.where(generator.random(number) < 0.5, ratio, 1 / ratio)
    heights, widths = np.sqrt(area * ratio), np.sqrt(area / ratio)
    fits = (heights < height + 0.5) & (widths < width + 0.5)
    return heights[fits], widths[fits]


def test_crop_boxes_are_distributed_as_they_should_be() -> None:
    height, width = 375, 500
    state = np.random.RandomState(0)
    boxes = [random_sized_crop_box(height, width, state) for _ in range(6000)]
    assert all(boxes)
    top, left, box_height, box_width = np.array(boxes).T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + box_height <= height).all() and (left + box_width <= width).all()
    area, ratio = box_height * box_width / (height * width), box_width / box_height
    assert 0.079 < area.min() < 0.085 and 0.95 < area.max() <= 1.0
    assert 0.74 < ratio.min() < 0.76 and 1.32 < ratio.max() < 1.345
    heights, widths = simulated(height, width, 40000)
    for ours, expected in (
        (area, heights * widths / (height * width)),
        (np.log(ratio), np.log(widths / heights)),
    ):
        grid = np.linspace(expected.min(), expected.max(), 60)
        apart = np.abs(
            (ours[:, None] <= grid).mean(axis=0) - (expected[:, None] <= grid).mean(axis=0)
        ).max()
        assert apart < 1.95 * math.sqrt(
            1 / len(ours) + 1 / len(expected)
        )  # Kolmogorov-Smirnov, p = 0.001
    places = top[box_height < height] / (height - box_height[box_height < height])
    assert abs(places.mean() - 0.5) < 4 / math.sqrt(12 * len(places))


def test_crop_boxes_have_torchvisions_ranges() -> None:
    torch.manual_seed(0)
    image = Image.new("RGB", (500, 375))
    theirs = [
        transforms.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3])
        for _ in range(3000)
    ]
    state = np.random.RandomState(0)
    ours = [random_sized_crop_box(375, 500, state) for _ in range(3000)]
    for measure, tolerance in (
        (lambda box: box[2] * box[3] / (375 * 500), 0.02),
        (lambda box: box[3] / box[2], 0.02),
    ):
        ours_values, their_values = sorted(map(measure, ours)), sorted(map(measure, theirs))
        assert abs(ours_values[0] - their_values[0]) < tolerance
        assert abs(ours_values[-1] - their_values[-1]) < tolerance


def test_offsets_include_both_ends() -> None:
    state = np.random.RandomState(1)
    boxes = [random_sized_crop_box(6, 6, state) for _ in range(3000)]
    rests = [
        (box.top, 6 - box.height - box.top, box.left, 6 - box.width - box.left)
        for box in boxes
        if box
    ]
    for height in (3, 4, 5):
        tops = {box.top for box in boxes if box and box.height == height}
        assert tops == set(range(6 - height + 1))
    for width in (3, 4, 5):
        lefts = {box.left for box in boxes if box and box.width == width}
        assert lefts == set(range(6 - width + 1))
    assert np.min(rests) == 0
