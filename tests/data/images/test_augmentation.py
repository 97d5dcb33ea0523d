"""The recipes of fb.resnet.torch against its transforms in plain loops, and their draws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from resnext_det.data.images.augmentation import (
    CifarAugmentation,
    CifarDraws,
    PaperAugmentation,
    PaperDraws,
    draw_crop_box,
)
from resnext_det.data.images.cropping import CenterCrop
from resnext_det.data.images.resizing import Box
from tests.data.images import fb_resnet_torch as lua
from tests.data.images.helpers import MEAN, STD, ScriptedState, picture

NORMALIZED: dict[str, Any] = {"mean": MEAN, "std": STD}
MEAN_01, STD_01 = [value / 255 for value in MEAN], [value / 255 for value in STD]
CIFAR: dict[str, Any] = {"mean": (125.3, 123.0, 113.9), "std": (63.0, 62.1, 66.7)}
STEPS = ("brightness", "contrast", "saturation")


def paper_in_lua(image: np.ndarray, draws: PaperDraws, size: int) -> np.ndarray:
    """ImagenetDataset:preprocess of the training split, on the scale 0-1."""
    pixels = lua.load(image)
    if draws.box is None:
        pixels = lua.center_crop(lua.scale_shorter(pixels, size), size)
    else:
        top, left, height, width = draws.box
        pixels = lua.scale(lua.crop(pixels, left, top, left + width, top + height), size, size)
    pixels = lua.color_jitter(pixels, [(STEPS[step], draws.alphas[step]) for step in draws.order])
    if draws.lighting:
        pixels = lua.lighting(pixels, draws.lighting)
    pixels = lua.color_normalize(pixels, MEAN_01, STD_01)
    return lua.hflip(pixels) if draws.flip else pixels


@pytest.mark.parametrize("seed", range(6))
def test_paper_augmentation_equals_transforms_lua(seed: int) -> None:
    image = picture(40, 57, seed)
    augmentation = PaperAugmentation(26, **NORMALIZED)
    draws = augmentation.draw(40, 57, np.random.RandomState(seed))
    assert draws.box is not None and sorted(draws.order) == [0, 1, 2]
    before = image.copy()
    ours = augmentation(image, np.random.RandomState(seed))
    assert ours.shape == (3, 26, 26) and ours.dtype == torch.float32 and ours.is_contiguous()
    np.testing.assert_allclose(ours, paper_in_lua(image, draws, 26), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("height, width", [(20, 1000), (211, 5)])
def test_panoramas_are_resized_and_their_center_is_cropped(
    height: int, width: int, flip: bool
) -> None:
    image = picture(height, width)
    augmentation = PaperAugmentation(15, **NORMALIZED)
    for seed in range(30):
        draws = augmentation.draw(height, width, np.random.RandomState(seed))
        assert draws.box is None
    draws = PaperDraws(None, draws.order, draws.alphas, draws.lighting, flip)
    ours = augmentation.apply(image, draws)
    np.testing.assert_allclose(ours, paper_in_lua(image, draws, 15), rtol=0, atol=1e-5)


def test_without_jitter_and_lighting_nothing_is_drawn_for_them() -> None:
    image = picture(8, 400)
    plain = PaperAugmentation(15, color_jitter=0, lighting=0, **NORMALIZED)
    draws = plain.draw(8, 400, np.random.RandomState(0))
    assert draws == PaperDraws(None, (), (1.0, 1.0, 1.0), (), draws.flip)
    center = CenterCrop(15, 15, **NORMALIZED)(image)[0]
    assert torch.equal(plain.apply(image, draws), center.flip(2) if draws.flip else center)
    state = ScriptedState(0.25, 1.0, 0.9, 3, 5, 0.1)
    assert plain.draw(40, 50, state) == PaperDraws(Box(3, 5, 22, 22), (), (1.0, 1.0, 1.0), (), True)
    assert [question[0] for question in state.asked] == ["uniform"] * 3 + ["randint"] * 2 + [
        "uniform"
    ]


def test_draws_are_those_of_transforms_lua_in_their_order() -> None:
    state = ScriptedState(
        0.99, 1.3, 0.9,  # 51 x 39 of a 40 x 50 image: too wide
        0.5, 0.8, 0.4,  # 28 x 35, swapped
        12, 22, [2, 0, 1], 0.3, -0.1, 0.2, np.array([0.1, 0.0, -0.2]), 0.7,
    )  # fmt: skip
    draws = PaperAugmentation(**NORMALIZED).draw(40, 50, state)
    assert draws == PaperDraws(
        Box(12, 22, 28, 35), (2, 0, 1), (0.9, 1.2, 1.3), (0.1, 0.0, -0.2), False
    )
    attempt = [("uniform", 0.08, 1.0), ("uniform", 3 / 4, 4 / 3), ("uniform", 0.0, 1.0)]
    assert state.asked == [
        *attempt,
        *attempt,
        ("randint", 0, 40 - 28 + 1),
        ("randint", 0, 50 - 35 + 1),
        ("permutation", 3),
        *[("uniform", -0.4, 0.4)] * 3,
        ("normal", 0, 0.1, 3),
        ("uniform", 0.0, 1.0),
    ]
    assert state.values == []


def test_pil_filters_and_channel_order() -> None:
    image = picture(60, 70)
    draws = PaperDraws(Box(7, 9, 41, 33), (), (1.0, 1.0, 1.0), (), True)
    crop = Image.fromarray(image).crop((9, 7, 9 + 33, 7 + 41))
    for interpolation, mode in (
        ("bicubic", Image.Resampling.BICUBIC),
        ("bilinear", Image.Resampling.BILINEAR),
    ):
        tensor = transforms.functional.to_tensor(crop.resize((28, 28), mode)).flip(2)
        expected = transforms.functional.normalize(tensor, MEAN_01, STD_01)
        ours = PaperAugmentation(28, interpolation=interpolation, **NORMALIZED).apply(image, draws)
        torch.testing.assert_close(ours, expected, rtol=0, atol=2e-6)
    rgb = PaperAugmentation(28, **NORMALIZED)(image, np.random.RandomState(4))
    bgr = PaperAugmentation(28, mean=MEAN[::-1], std=STD[::-1], channel_order="BGR")
    torch.testing.assert_close(bgr(image, np.random.RandomState(4)).flip(0), rgb, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "augmentation", [PaperAugmentation(24, **NORMALIZED), CifarAugmentation(**CIFAR)]
)
def test_a_result_depends_on_the_given_state_alone(augmentation: Any) -> None:
    image = picture(32, 32)
    torch.manual_seed(3)
    np.random.seed(3)
    before, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = augmentation(image, np.random.RandomState(11))
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numbers)
    torch.manual_seed(4)
    np.random.seed(4)
    assert torch.equal(augmentation(image, np.random.RandomState(11)), first)
    assert not torch.equal(augmentation(image, np.random.RandomState(12)), first)


@pytest.mark.parametrize("seed", range(5))
def test_cifar_augmentation_equals_transforms_lua(seed: int) -> None:
    image = picture(32, 32, seed)
    augmentation = CifarAugmentation(**CIFAR)
    draws = augmentation.draw(32, 32, np.random.RandomState(seed))
    pixels = lua.color_normalize(
        image.transpose(2, 0, 1).astype(np.float64), CIFAR["mean"], CIFAR["std"]
    )
    pixels = lua.hflip(pixels) if draws.flip else pixels
    ours = augmentation(image, np.random.RandomState(seed))
    assert ours.shape == (3, 32, 32) and ours.dtype == torch.float32 and ours.is_contiguous()
    expected = lua.random_crop(pixels, 32, 4, draws.left, draws.top)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


def test_cifar_padding_is_zero_after_the_normalization() -> None:
    black = np.zeros((32, 32, 3), np.uint8)
    ours = CifarAugmentation(**CIFAR).apply(black, CifarDraws(False, 0, 8))
    assert (ours[:, :4] == 0).all() and (ours[:, :, 28:] == 0).all()
    assert (ours[:, 4:, :28] < -1.7).all()


def test_cifar_draws() -> None:
    state = ScriptedState(0.49, 8, 0)
    assert CifarAugmentation(**CIFAR).draw(32, 32, state) == CifarDraws(True, top=0, left=8)
    assert state.asked == [("uniform", 0.0, 1.0), ("randint", 0, 9), ("randint", 0, 9)]
    state = ScriptedState(0.51)
    assert CifarAugmentation(padding=0, **CIFAR).draw(32, 32, state) == CifarDraws(False, 0, 0)
    state = np.random.RandomState(0)
    drawn = [CifarAugmentation(**CIFAR).draw(32, 32, state) for _ in range(400)]
    assert {draws.top for draws in drawn} == {draws.left for draws in drawn} == set(range(9))
    assert 160 < sum(draws.flip for draws in drawn) < 240


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: PaperAugmentation(0, **NORMALIZED), "size is 0"),
        (lambda: PaperAugmentation(color_jitter=1.5, **NORMALIZED), "color_jitter is 1.5; give 0"),
        (lambda: PaperAugmentation(lighting=-0.1, **NORMALIZED), "lighting is -0.1"),
        (lambda: PaperAugmentation(interpolation="area", **NORMALIZED), "interpolation is 'area'"),
        (lambda: CifarAugmentation(padding=-1, **CIFAR), "padding -1"),
        (
            lambda: CifarAugmentation(**CIFAR)(picture(20, 32), np.random.RandomState(0)),
            "an image of 20x32 with 4 pixels around it holds no crop of 32",
        ),
        (
            lambda: PaperAugmentation(**NORMALIZED)(
                picture(20, 32)[:, :, 0], np.random.RandomState(0)
            ),
            "give RGB as",
        ),
        (
            lambda: CifarAugmentation(**CIFAR)(np.zeros((32, 32, 3)), np.random.RandomState(0)),
            "is of float64; give uint8",
        ),
    ],
)
def test_wrong_arguments_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_crop_boxes_give_up_after_ten_attempts() -> None:
    state = ScriptedState(*[1.0, 3 / 4, 0.9] * 9, 1.0, 1.0, 0.9)
    assert draw_crop_box(30, 40, state) is None and len(state.asked) == 30
    state = ScriptedState(*[1.0, 3 / 4, 0.9] * 9, 1.0, 4 / 3, 0.9, 0, 0)
    assert draw_crop_box(30, 40, state) == Box(0, 0, 30, 40)


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
    boxes = [draw_crop_box(height, width, state) for _ in range(6000)]
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
    ours = [draw_crop_box(375, 500, state) for _ in range(3000)]
    for measure, tolerance in (
        (lambda box: box[2] * box[3] / (375 * 500), 0.02),
        (lambda box: box[3] / box[2], 0.02),
    ):
        ours_values, their_values = sorted(map(measure, ours)), sorted(map(measure, theirs))
        assert abs(ours_values[0] - their_values[0]) < tolerance
        assert abs(ours_values[-1] - their_values[-1]) < tolerance


def test_offsets_include_both_ends() -> None:
    state = np.random.RandomState(1)
    boxes = [draw_crop_box(6, 6, state) for _ in range(3000)]
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
