"""Views of an image that a classifier is tested on: crops, or whole images at several scales."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from resnext_det.data.images.colors import build_normalization, to_tensor
from resnext_det.data.images.resizing import (
    Box,
    check_image,
    check_interpolation,
    resize,
    scale_shorter_side,
)

ROUNDINGS = ("up", "half_even")


class _Views:
    """Resize and normalize images, as all tests do; the arguments are those of CenterCrop."""

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], channel_order: str, interpolation: str
    ) -> None:
        check_interpolation(interpolation)
        self.interpolation = interpolation
        self._normalize = build_normalization(mean, std, channel_order)

    def _compute_size(self, image: np.ndarray, shorter_side: int) -> tuple[int, int]:
        check_image(image)
        height, width = image.shape[:2]
        return scale_shorter_side(height, width, shorter_side, self.interpolation)

    def _prepare(
        self, image: np.ndarray, height: int, width: int, window: Box | None = None
    ) -> Tensor:
        """Prepare the window of the image at this size; float32, (3, h, w)."""
        resized = resize(image, height, width, self.interpolation, window=window)
        return to_tensor(self._normalize(resized))


class CenterCrop(_Views):
    """Resize the shorter side, normalize, crop the center: ``CenterCrop`` of fb.resnet.torch.

    Args:
        size: side of the crop in pixels.
        resize: the shorter side before it; an image that has it already is left alone.
        mean, std, channel_order: see ``build_normalization``; images are RGB.
        interpolation: see ``resize``.
        rounding: of the crop's offset where pixels to the left and right are an odd number: "up",
            as fb.resnet.torch, or "half_even", as torchvision and timm.

    Raises ValueError where resize is below size, and on values out of their ranges.
    """

    def __init__(
        self,
        size: int = 224,
        resize: int = 256,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        channel_order: str = "RGB",
        interpolation: str = "torch7_bicubic",
        rounding: str = "up",
    ) -> None:
        if size < 1:
            raise ValueError(f"size is {size}; give the side of the crop in pixels, such as 224")
        if resize < size:
            raise ValueError(
                f"resize is {resize}, but no crop of {size} pixels is within an image whose "
                f"shorter side is that; give a resize of {size} or more"
            )
        if rounding not in ROUNDINGS:
            raise ValueError(f"rounding is {rounding!r}; it is one of {', '.join(ROUNDINGS)}")
        super().__init__(mean, std, channel_order, interpolation)
        self.size, self.resize, self.rounding = size, resize, rounding

    def __call__(self, image: np.ndarray) -> Tensor:
        """Turn uint8 RGB (H, W, 3) into float32 (1, 3, size, size)."""
        height, width = self._compute_size(image, self.resize)
        window = find_center_box(height, width, self.size, rounding=self.rounding)
        return self._prepare(image, height, width, window)[None]


class TenCrop(CenterCrop):
    """Crop the center and the corners of an image and its mirror image, as fb.resnet.torch.

    The order is that of ``TenCrop`` in transforms.lua: center, top left, top right, bottom left,
    bottom right; then the same of the mirror image. The arguments are those of CenterCrop.
    """

    def __call__(self, image: np.ndarray) -> Tensor:
        """Turn uint8 RGB (H, W, 3) into float32 (10, 3, size, size)."""
        height, width = self._compute_size(image, self.resize)
        resized = self._prepare(image, height, width)
        center = find_center_box(height, width, self.size, rounding=self.rounding)
        bottom, right = height - self.size, width - self.size
        corners = [(center.top, center.left), (0, 0), (0, right), (bottom, 0), (bottom, right)]
        views = (resized, resized.flip(2))
        return torch.stack(
            [v[:, y : y + self.size, x : x + self.size] for v in views for y, x in corners]
        )


class DenseScales(_Views):
    """Resize whole images to several sizes, for a network that is applied everywhere.

    Source: He et al., Deep Residual Learning, section 3.4.

    Args:
        scales: the shorter sides in pixels.
        flip: also the mirror image.
        mean, std, channel_order, interpolation: see CenterCrop.

    Raises ValueError on values out of their ranges.
    """

    def __init__(
        self,
        scales: Sequence[int] = (224, 256, 384, 480, 640),
        flip: bool = True,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        channel_order: str = "RGB",
        interpolation: str = "torch7_bicubic",
    ) -> None:
        if not scales or min(scales) < 1:
            raise ValueError(
                f"scales are {scales}; give one or more shorter sides in pixels, such as (224, 256)"
            )
        super().__init__(mean, std, channel_order, interpolation)
        self.scales, self.flip = tuple(scales), flip

    def __call__(self, image: np.ndarray) -> list[Tensor]:
        """Turn uint8 RGB (H, W, 3) into a float32 tensor a scale.

        Each is (1, 3, h, w), or (2, 3, h, w) with its mirror image.
        """
        tensors = []
        for scale in self.scales:
            whole = self._prepare(image, *self._compute_size(image, scale))
            tensors.append(torch.stack([whole, whole.flip(2)] if self.flip else [whole]))
        return tensors


def find_center_box(height: int, width: int, size: int, *, rounding: str = "up") -> Box:
    """Find the central square of an image that is not smaller; see CenterCrop for ``rounding``."""
    free = (height - size, width - size)
    top, left = (-(-rest // 2) if rounding == "up" else round(rest / 2) for rest in free)
    return Box(top, left, size, size)
