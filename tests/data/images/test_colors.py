"""Color steps and normalization against fb.resnet.torch's in float64."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch

from resnext_det.data.images.colors import (
    build_jitter,
    build_lighting,
    build_normalization,
    compute_mean_color,
    to_tensor,
)
from tests.data.images import fb_resnet_torch as lua
from tests.data.images.helpers import MEAN, STD, picture

STEPS = ("brightness", "contrast", "saturation")
ALPHAS = (1.31, 0.66, 1.38)


def jitter(image: np.ndarray, alphas: Sequence[float], order: Sequence[int]) -> np.ndarray:
    return build_jitter(compute_mean_color(image), alphas, order)(image)


@pytest.mark.parametrize("order", permutations(range(3)))
def test_color_jitter_equals_transforms_lua(order: tuple[int, ...]) -> None:
    image = picture(30, 41)
    expected = lua.color_jitter(lua.load(image), [(STEPS[step], ALPHAS[step]) for step in order])
    expected = 255 * expected.transpose(1, 2, 0)
    for given in (image, image.astype(np.float32)):
        ours = jitter(given, ALPHAS, order)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-4)
    assert expected.max() > 300  # so that a clamp would have been seen


def test_the_steps_commute_for_nothing_is_clamped() -> None:
    image = picture(30, 41)
    first, *others = [jitter(image, ALPHAS, order) for order in permutations(range(3))]
    for other in others:
        np.testing.assert_allclose(other, first, rtol=0, atol=1e-4)
    clamped = [image.astype(np.float32)] * 2
    for number, order in enumerate([(0, 1, 2), (2, 1, 0)]):
        for step in order:
            clamped[number] = np.clip(jitter(clamped[number], ALPHAS, (step,)), 0, 255)
    assert np.abs(clamped[0] - clamped[1]).max() > 10


def test_alphas_of_one_and_no_steps_change_nothing() -> None:
    image = picture(30, 41)
    np.testing.assert_array_equal(jitter(image, (1, 1, 1), (2, 0, 1)), image)
    np.testing.assert_array_equal(jitter(image, ALPHAS, ()), image)


@pytest.mark.parametrize("step, alpha", [(0, 0.7), (1, 0.7), (2, 0.7)])
def test_single_steps_equal_torchvisions_where_nothing_is_clamped(step: int, alpha: float) -> None:
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    image = picture(30, 41)
    adjust = [
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
    ][step]
    theirs = adjust(torch.from_numpy(image).permute(2, 0, 1).double() / 255, alpha)
    alphas = [1.0, 1.0, 1.0]
    alphas[step] = alpha
    ours = jitter(image, alphas, (step,)) / 255
    # torchvision's gray has the weights .2989, .587, .114
    np.testing.assert_allclose(ours, theirs.permute(1, 2, 0).numpy(), rtol=0, atol=1e-4)


def test_lighting_equals_transforms_lua() -> None:
    image = picture(7, 9)
    alphas = (0.13, -0.21, 0.05)
    expected = 255 * lua.lighting(lua.load(image), alphas).transpose(1, 2, 0)
    np.testing.assert_allclose(build_lighting(alphas)(image), expected, rtol=0, atol=1e-4)
    assert np.abs(build_lighting(alphas)(image) - image).max() > 1


def test_normalization_in_both_channel_orders() -> None:
    image = picture(11, 13)
    rgb = lua.color_normalize(image.transpose(2, 0, 1).astype(np.float64), MEAN, STD)
    ours = to_tensor(build_normalization(MEAN, STD, "RGB")(image))
    assert ours.shape == (3, 11, 13) and ours.dtype == torch.float32 and ours.is_contiguous()
    np.testing.assert_allclose(ours, rgb, rtol=0, atol=1e-6)
    bgr = lua.color_normalize(
        image[:, :, ::-1].transpose(2, 0, 1).astype(np.float64), (1, 2, 3), (4, 5, 6)
    )
    ours = to_tensor(build_normalization((1, 2, 3), (4, 5, 6), "BGR")(image))
    np.testing.assert_allclose(ours, bgr, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((MEAN, STD, "GRB"), "channel_order is 'GRB'; it is one of RGB, BGR"),
        ((MEAN[:2], STD, "RGB"), "three numbers each, in RGB"),
        ((MEAN, (1.0, 0.0, 1.0), "RGB"), r"std is \(1.0, 0.0, 1.0\); give positive numbers"),
    ],
)
def test_wrong_normalizations_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_normalization(*arguments)
