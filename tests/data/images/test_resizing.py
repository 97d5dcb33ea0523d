"""Resizing against image.c of Torch 7 in plain loops, and against torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from resnext_det.data.images.resizing import Box, resize, scale_shorter_side
from tests.data.images import fb_resnet_torch as lua
from tests.data.images.helpers import picture

SIZES = [
    (20, 30, 47, 61),  # larger
    (61, 47, 30, 20),  # smaller
    (90, 120, 13, 9),  # much smaller, where most pixels have no part
    (20, 30, 20, 41),  # one axis stays
    (30, 20, 30, 20),  # both stay
    (20, 30, 1, 7),  # one row
    (1, 9, 5, 12),  # of one row
    (2, 2, 5, 6),  # both ends at once
    (2, 3, 2, 1),
    (1, 1, 3, 4),
]


@pytest.mark.parametrize("height, width, new_height, new_width", SIZES)
def test_torch7_bicubic_equals_plain_loops(
    height: int, width: int, new_height: int, new_width: int
) -> None:
    image = picture(height, width)
    ours = resize(image, new_height, new_width, "torch7_bicubic")
    expected = 255 * lua.scale(lua.load(image), new_width, new_height).transpose(1, 2, 0)
    assert ours.dtype == np.float32 and ours.shape == (new_height, new_width, 3)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-4)


def test_torch7_bicubic_reaches_beyond_the_range_and_keeps_the_corners() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, 4:] = 255
    ours = resize(image, 29, 29, "torch7_bicubic")
    assert ours.min() < -10 and ours.max() > 265
    noise = picture(21, 34, seed=1)
    ours = resize(noise, 50, 11, "torch7_bicubic")
    np.testing.assert_array_equal(
        ours[[0, 0, -1, -1], [0, -1, 0, -1]], noise[[0, 0, -1, -1], [0, -1, 0, -1]]
    )


@pytest.mark.parametrize("interpolation", ["torch7_bicubic", "bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(50, 71), (17, 23), (17, 71)])
@pytest.mark.parametrize("window", [Box(0, 0, 4, 5), Box(3, 6, 14, 17), Box(16, 22, 1, 1)])
def test_a_window_is_a_part_of_the_whole(
    interpolation: str, size: tuple[int, int], window: Box
) -> None:
    image = picture(30, 40)
    top, left, height, width = window
    whole = resize(image, *size, interpolation)[top : top + height, left : left + width]
    part = resize(image, *size, interpolation, window=window)
    np.testing.assert_allclose(part, whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(33, 47), (150, 90)])
def test_other_filters_equal_torchvisions(interpolation: str, size: tuple[int, int]) -> None:
    image = picture(60, 80)
    ours = resize(image, *size, interpolation)
    mode = InterpolationMode(interpolation)
    from_picture = v2.functional.resize(Image.fromarray(image), list(size), mode)
    np.testing.assert_array_equal(ours, np.asarray(from_picture))
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    from_tensor = (
        v2.functional.resize(tensor, list(size), mode, antialias=True).permute(1, 2, 0).numpy()
    )
    assert ours.dtype == np.uint8
    assert np.abs(ours.astype(int) - from_tensor.astype(int)).max() <= 1


def test_images_of_any_memory_layout_are_taken() -> None:
    image = picture(40, 50)
    views = [image[3:33, 5:45], image[::-1, ::-1], image[::2, ::3], image[:, :, ::-1]]
    for view in views:
        view.flags.writeable = False
        for interpolation in ("torch7_bicubic", "bicubic"):
            expected = resize(np.array(view), 17, 19, interpolation)
            np.testing.assert_array_equal(resize(view, 17, 19, interpolation), expected)


SIDES = [
    (375, 500),
    (500, 375),
    (256, 400),
    (400, 256),
    (256, 256),
    (333, 500),
    (1, 7),
    (97, 1213),
    (49, 51),
]


@pytest.mark.parametrize("size", [224, 256, 480])
def test_shorter_side_sizes_equal_torchvisions_and_torchs(size: int) -> None:
    for height, width in SIDES:
        theirs = v2.functional.resize(Image.new("L", (width, height)), [size])
        assert scale_shorter_side(height, width, size, "bilinear") == (theirs.height, theirs.width)
        if min(height, width) == size:
            expected = (height, width)
        elif width < height:
            expected = (int(height / width * size), size)
        else:
            expected = (size, int(width / height * size))
        assert scale_shorter_side(height, width, size, "torch7_bicubic") == expected


def test_shorter_side_sizes_differ_where_the_quotient_rounds_down() -> None:
    assert 224 * 15 % 12 == 0 and 15 / 12 * 224 == 280
    pairs = [(short, long) for short in range(1, 300) for long in range(short, 400)]
    apart = [
        p
        for p in pairs
        if scale_shorter_side(*p, 224, "bicubic") != scale_shorter_side(*p, 224, "torch7_bicubic")
    ]
    assert apart and all(224 * long % short == 0 for short, long in apart)
    short, long = apart[0]
    assert scale_shorter_side(short, long, 224, "torch7_bicubic") == (224, 224 * long // short - 1)


@pytest.mark.parametrize(
    "image, message",
    [
        (np.zeros((5, 5), np.uint8), r"shape \(5, 5\).* grayscale image with its channel repeated"),
        (np.zeros((5, 5, 4), np.uint8), r"shape \(5, 5, 4\); give RGB"),
        (np.zeros((5, 5, 3), np.float32), "is of float32; give uint8"),
        (np.zeros((0, 5, 3), np.uint8), "without a pixel"),
    ],
)
def test_other_images_are_refused(image: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resize(image, 4, 4, "bilinear")


def test_wrong_arguments_are_refused() -> None:
    image = picture(5, 6)
    with pytest.raises(
        ValueError, match="'lanczos'; it is one of torch7_bicubic, bicubic, bilinear"
    ):
        resize(image, 4, 4, "lanczos")
    with pytest.raises(ValueError, match="cannot be resized to 0x4"):
        resize(image, 0, 4, "bilinear")
    for window in (Box(0, 0, 5, 4), Box(-1, 0, 2, 2), Box(2, 2, 0, 1)):
        with pytest.raises(ValueError, match="not within an image of 4x4"):
            resize(image, 4, 4, "torch7_bicubic", window=window)
