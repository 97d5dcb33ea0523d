"""Augmentation of training images as in fb.resnet.torch, which the paper follows.

Drawing and computing are apart: ``draw`` makes the draws in the order of datasets/transforms.lua,
and ``apply`` gives the numbers of transforms.lua for them, to the rounding of float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import RandomState
from torch import Tensor

from resnext_det.data.images import colors
from resnext_det.data.images.cropping import find_center_box
from resnext_det.data.images.resizing import (
    Box,
    check_image,
    check_interpolation,
    resize,
    scale_shorter_side,
)

_ATTEMPTS = 10


def draw_crop_box(height: int, width: int, random_state: RandomState) -> Box | None:
    """Draw a part of 8 to 100 percent of an image's area, of an aspect ratio from 3/4 to 4/3.

    ``RandomSizedCrop`` of fb.resnet.torch, datasets/transforms.lua: the ratio is uniform (its
    logarithm is in torchvision), and the sides are swapped with probability 1/2.

    Returns:
        None where ten attempts gave no part that is within the image.
    """
    for _ in range(_ATTEMPTS):
        area = random_state.uniform(0.08, 1.0) * (height * width)
        ratio = random_state.uniform(3 / 4, 4 / 3)
        box_width = math.floor(math.sqrt(area * ratio) + 0.5)
        box_height = math.floor(math.sqrt(area / ratio) + 0.5)
        if random_state.uniform() < 0.5:
            box_width, box_height = box_height, box_width
        if box_height <= height and box_width <= width:
            top = int(random_state.randint(0, height - box_height + 1))
            left = int(random_state.randint(0, width - box_width + 1))
            return Box(top, left, box_height, box_width)
    return None


@dataclass(frozen=True)
class PaperDraws:
    """Hold what PaperAugmentation drew for one image."""

    box: Box | None  # the part of the image; None for its center
    order: tuple[int, ...]  # of the steps of ``build_jitter``; empty where nothing is jittered
    alphas: tuple[float, ...]
    lighting: tuple[float, ...]  # the alphas of ``build_lighting``; empty where there is none
    flip: bool


class PaperAugmentation:
    """Crop, jitter the colors, light, normalize and mirror, as fb.resnet.torch does for ImageNet.

    A random part of the image is resized to a square; brightness, contrast and saturation change in
    random order; ImageNet's principal colors are added; the normalized image is mirrored with
    probability 1/2 (datasets/imagenet.lua). Where no part was found in ten attempts, the part is
    the center of the image at ``size``.

    Args:
        size: side of the result in pixels.
        mean, std, channel_order: see ``build_normalization``; images are RGB.
        color_jitter: the alphas of brightness, contrast and saturation are
            1 + uniform(-color_jitter, color_jitter).
        lighting: standard deviation of the alphas of the principal colors.
        interpolation: see ``resize``; the paper's is "torch7_bicubic".

    Raises ValueError on values out of their ranges.
    """

    def __init__(
        self,
        size: int = 224,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        color_jitter: float = 0.4,
        lighting: float = 0.1,
        channel_order: str = "RGB",
        interpolation: str = "torch7_bicubic",
    ) -> None:
        if size < 1:
            raise ValueError(f"size is {size}; give the side of the result in pixels, such as 224")
        if not 0 <= color_jitter <= 1:
            raise ValueError(f"color_jitter is {color_jitter}; give 0 (none) to 1, such as 0.4")
        if lighting < 0:
            raise ValueError(
                f"lighting is {lighting}; give a standard deviation, such as 0.1, or 0 for none"
            )
        check_interpolation(interpolation)
        self.size, self.interpolation = size, interpolation
        self.color_jitter, self.lighting = color_jitter, lighting
        self._normalization = colors.build_normalization(mean, std, channel_order)

    def __call__(self, image: np.ndarray, random_state: RandomState) -> Tensor:
        """Turn uint8 RGB (H, W, 3) into float32 (3, size, size)."""
        check_image(image)
        height, width = image.shape[:2]
        return self.apply(image, self.draw(height, width, random_state))

    def draw(self, height: int, width: int, random_state: RandomState) -> PaperDraws:
        """Make all draws for an image of this size, in the order of transforms.lua."""
        box = draw_crop_box(height, width, random_state)
        order: tuple[int, ...] = ()
        alphas = [1.0, 1.0, 1.0]
        if self.color_jitter:
            order = tuple(int(step) for step in random_state.permutation(3))
            for step in order:
                alphas[step] = 1.0 + random_state.uniform(-self.color_jitter, self.color_jitter)
        light = random_state.normal(0, self.lighting, 3).tolist() if self.lighting else ()
        flip = bool(random_state.uniform() < 0.5)
        return PaperDraws(box, order, tuple(alphas), tuple(light), flip)

    def apply(self, image: np.ndarray, draws: PaperDraws) -> Tensor:
        """Turn uint8 RGB (H, W, 3) into float32 (3, size, size) by what was drawn."""
        resized = self._crop(image, draws.box)
        transform = colors.IDENTITY
        if draws.order:
            transform = colors.build_jitter(
                colors.compute_mean_color(resized), draws.alphas, draws.order
            )
        if draws.lighting:
            transform = transform.then(colors.build_lighting(draws.lighting))
        normalized = transform.then(self._normalization)(resized)
        return colors.to_tensor(cv2.flip(normalized, 1) if draws.flip else normalized)

    def _crop(self, image: np.ndarray, box: Box | None) -> np.ndarray:
        if box is not None:
            part = image[box.top : box.top + box.height, box.left : box.left + box.width]
            return resize(part, self.size, self.size, self.interpolation)
        height, width = image.shape[:2]
        height, width = scale_shorter_side(height, width, self.size, self.interpolation)
        window = find_center_box(height, width, self.size)
        return resize(image, height, width, self.interpolation, window=window)


@dataclass(frozen=True)
class CifarDraws:
    """Hold what CifarAugmentation drew: whether to mirror, and the crop's corner when padded."""

    flip: bool
    top: int
    left: int


class CifarAugmentation:
    """Normalize, mirror with probability 1/2, pad and crop, as fb.resnet.torch does for CIFAR.

    Source: datasets/cifar10.lua.

    Args:
        size: side of the result in pixels.
        padding: pixels of zeros around the normalized image, which are so the mean color.
        mean, std, channel_order: see ``build_normalization``; images are RGB.

    Raises ValueError on values out of their ranges, and on an image too small to be cropped.
    """

    def __init__(
        self,
        size: int = 32,
        padding: int = 4,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        channel_order: str = "RGB",
    ) -> None:
        if size < 1 or padding < 0:
            raise ValueError(f"size is {size} and padding {padding}; give pixels, such as 32 and 4")
        self.size, self.padding = size, padding
        self._normalization = colors.build_normalization(mean, std, channel_order)

    def __call__(self, image: np.ndarray, random_state: RandomState) -> Tensor:
        """Turn uint8 RGB (H, W, 3) into float32 (3, size, size)."""
        check_image(image)
        height, width = image.shape[:2]
        return self.apply(image, self.draw(height, width, random_state))

    def draw(self, height: int, width: int, random_state: RandomState) -> CifarDraws:
        """Make all draws for an image of this size, in the order of transforms.lua."""
        free_height = height + 2 * self.padding - self.size
        free_width = width + 2 * self.padding - self.size
        if min(free_height, free_width) < 0:
            raise ValueError(
                f"an image of {height}x{width} with {self.padding} pixels around it holds no crop "
                f"of {self.size}; give larger images, more padding or a smaller size"
            )
        flip = bool(random_state.uniform() < 0.5)
        if free_height == free_width == 0:
            return CifarDraws(flip, 0, 0)
        left = int(random_state.randint(0, free_width + 1))
        return CifarDraws(flip, int(random_state.randint(0, free_height + 1)), left)

    def apply(self, image: np.ndarray, draws: CifarDraws) -> Tensor:
        """Turn uint8 RGB (H, W, 3) into float32 (3, size, size) by what was drawn."""
        normalized = self._normalization(image)
        if draws.flip:
            normalized = cv2.flip(normalized, 1)
        edge = self.padding
        padded = cv2.copyMakeBorder(
            normalized, edge, edge, edge, edge, cv2.BORDER_CONSTANT, value=0
        )
        bottom, right = draws.top + self.size, draws.left + self.size
        return colors.to_tensor(padded[draws.top : bottom, draws.left : right])
