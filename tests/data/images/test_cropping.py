"""Test crops against fb.resnet.torch's in plain loops, and against torchvision's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from resnext_det.data.images.cropping import CenterCrop, DenseScales, TenCrop, find_center_box
from resnext_det.data.images.resizing import Box
from tests.data.images import fb_resnet_torch as lua
from tests.data.images.helpers import MEAN, STD, picture

NORMALIZED: dict[str, Any] = {"mean": MEAN, "std": STD}
MEAN_01, STD_01 = [value / 255 for value in MEAN], [value / 255 for value in STD]
# (height, width, size, resize): even and odd rests, one side resized to itself, no rest at all
SHAPES = [
    (40, 60, 24, 33),
    (61, 40, 24, 32),
    (29, 47, 24, 29),
    (50, 50, 20, 31),
    (30, 30, 30, 30),
    (20, 90, 16, 16),
]


def prepared(image: np.ndarray, shorter_side: int) -> np.ndarray:
    return lua.color_normalize(lua.scale_shorter(lua.load(image), shorter_side), MEAN_01, STD_01)


@pytest.mark.parametrize("height, width, size, resize", SHAPES)
def test_center_crop_equals_transforms_lua(height: int, width: int, size: int, resize: int) -> None:
    image = picture(height, width)
    ours = CenterCrop(size, resize, **NORMALIZED)(image)
    assert ours.shape == (1, 3, size, size) and ours.dtype == torch.float32 and ours.is_contiguous()
    expected = lua.center_crop(prepared(image, resize), size)
    np.testing.assert_allclose(ours[0], expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("height, width, size, resize", SHAPES)
def test_ten_crop_equals_transforms_lua(height: int, width: int, size: int, resize: int) -> None:
    image = picture(height, width)
    ours = TenCrop(size, resize, **NORMALIZED)(image)
    assert ours.shape == (10, 3, size, size) and ours.dtype == torch.float32
    np.testing.assert_allclose(ours, lua.ten_crop(prepared(image, resize), size), rtol=0, atol=5e-6)


def test_ten_crop_mirrors_the_image_and_then_crops() -> None:
    crops = TenCrop(24, 33, **NORMALIZED)(picture(40, 60))
    top_left, top_right, bottom_left, bottom_right = crops[1:5]
    for mirrored, crop in zip(crops[6:], (top_right, top_left, bottom_right, bottom_left)):
        assert torch.equal(mirrored, crop.flip(2))
    assert not torch.equal(
        crops[5], crops[0].flip(2)
    )  # 49 - 24 is odd: the two centers are a pixel apart
    assert torch.equal(crops[5][:, :, :-1], crops[0].flip(2)[:, :, 1:])


def test_offsets_of_the_center() -> None:
    assert find_center_box(33, 48, 24) == Box(5, 12, 24, 24)
    assert find_center_box(33, 48, 24, rounding="half_even") == Box(4, 12, 24, 24)
    assert find_center_box(35, 24, 24, rounding="half_even") == Box(6, 0, 24, 24)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("height, width, size, resize", SHAPES)
def test_center_crop_equals_torchvisions(
    interpolation: str, height: int, width: int, size: int, resize: int
) -> None:
    image = picture(height, width)
    theirs = transforms.Compose(
        [
            transforms.Resize(resize, InterpolationMode(interpolation)),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(MEAN_01, STD_01),
        ]
    )(Image.fromarray(image))
    crop = CenterCrop(size, resize, interpolation=interpolation, rounding="half_even", **NORMALIZED)
    torch.testing.assert_close(crop(image)[0], theirs, rtol=0, atol=2e-6)


def test_other_filters_and_channels_of_the_ten_crops_and_scales() -> None:
    image = picture(40, 60)
    center = CenterCrop(24, 33, interpolation="bilinear", **NORMALIZED)(image)[0]
    assert torch.equal(TenCrop(24, 33, interpolation="bilinear", **NORMALIZED)(image)[0], center)
    mirrored_mean = {"mean": MEAN[::-1], "std": STD[::-1], "channel_order": "BGR"}
    for kind, arguments in ((CenterCrop, (24, 33)), (TenCrop, (24, 33)), (DenseScales, ((33,),))):
        rgb, bgr = kind(*arguments, **NORMALIZED)(image), kind(*arguments, **mirrored_mean)(image)
        for one, other in zip(rgb, bgr):
            torch.testing.assert_close(one, other.flip(-3), rtol=0, atol=1e-6)


@pytest.mark.parametrize("height, width", [(40, 60), (53, 31)])
def test_dense_scales_are_whole_images(height: int, width: int) -> None:
    image = picture(height, width)
    scales = (20, 31, 48)
    ours = DenseScales(scales, **NORMALIZED)(image)
    single = DenseScales(scales, flip=False, **NORMALIZED)(image)
    assert len(ours) == len(single) == 3
    for tensor, alone, size in zip(ours, single, scales):
        expected = prepared(image, size)
        assert tensor.shape == (2, *expected.shape) and min(tensor.shape[2:]) == size
        np.testing.assert_allclose(tensor[0], expected, rtol=0, atol=5e-6)
        assert torch.equal(tensor[1], tensor[0].flip(2))
        assert torch.equal(alone, tensor[:1])


def test_the_standard_sizes() -> None:
    image = picture(375, 500)
    assert CenterCrop(**NORMALIZED)(image).shape == (1, 3, 224, 224)
    assert TenCrop(**NORMALIZED)(image).shape == (10, 3, 224, 224)
    shapes = [tuple(tensor.shape) for tensor in DenseScales(**NORMALIZED)(image)]
    assert shapes == [(2, 3, side, int(500 / 375 * side)) for side in (224, 256, 384, 480, 640)]


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: CenterCrop(224, 200, **NORMALIZED),
            "resize is 200, but no crop of 224 .* give a resize of 224",
        ),
        (lambda: TenCrop(224, 200, **NORMALIZED), "resize is 200"),
        (lambda: CenterCrop(0, 200, **NORMALIZED), "size is 0"),
        (
            lambda: CenterCrop(rounding="down", **NORMALIZED),
            "rounding is 'down'; it is one of up, half_even",
        ),
        (lambda: CenterCrop(interpolation="area", **NORMALIZED), "interpolation is 'area'"),
        (lambda: TenCrop(interpolation="area", **NORMALIZED), "interpolation is 'area'"),
        (lambda: DenseScales((), **NORMALIZED), r"scales are \(\); give one or more"),
        (lambda: DenseScales((0, 5), **NORMALIZED), r"scales are \(0, 5\)"),
        (lambda: DenseScales(**NORMALIZED)(np.zeros((9, 9), np.uint8)), "give RGB as"),
        (lambda: CenterCrop(**NORMALIZED)(np.zeros((9, 9, 1), np.uint8)), "give RGB as"),
        (
            lambda: TenCrop(**NORMALIZED)(np.zeros((9, 9, 3), np.float64)),
            "is of float64; give uint8",
        ),
    ],
)
def test_what_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
