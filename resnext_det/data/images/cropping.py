"""What a trained classifier is tested on: the centre crop, ten crops, or whole images at several scales."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from resnext_det.data.images.colors import normalization, to_tensor
from resnext_det.data.images.resizing import (
    Box,
    check_image,
    check_interpolation,
    resize,
    scale_shorter_side,
)

ROUNDINGS = ("up", "half_even")


class CenterCrop:
    """Shorter side to ``resize``, normalise, crop the centre: ``CenterCrop`` of fb.resnet.torch, transforms.lua.

    Args:
        size: side of the crop in pixels.
        resize: the shorter side before it; an image that has it already is left alone.
        mean: on the scale 0-255, in ``channel_order``.
        std: likewise.
        channel_order: "RGB" or "BGR": of the result; images are RGB.
        interpolation: see ``resize``.
        rounding: of the crop's offset where pixels to the left and right are an odd number: "up", as
            fb.resnet.torch, or "half_even", as torchvision and timm.

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
        _check_sizes(size, resize)
        if rounding not in ROUNDINGS:
            raise ValueError(f"rounding is {rounding!r}; it is one of {', '.join(ROUNDINGS)}")
        self.size, self.resize, self.rounding, self.interpolation = (
            size,
            resize,
            rounding,
            interpolation,
        )
        self._prepared = _Preparation(mean, std, channel_order, interpolation)

    def __call__(self, image: np.ndarray) -> Tensor:
        """uint8 RGB (H, W, 3) to float32 (1, 3, size, size)."""
        height, width = self._prepared.size(image, self.resize)
        window = find_center_box(height, width, self.size, rounding=self.rounding)
        return self._prepared(image, height, width, window)[None]


class TenCrop:
    """The centre and the four corners of an image and of its mirror image: ``TenCrop`` of fb.resnet.torch.

    The order is that of transforms.lua: centre, top left, top right, bottom left, bottom right; then the same of the
    mirror image. The arguments are those of CenterCrop.
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
    ) -> None:
        _check_sizes(size, resize)
        self.size, self.resize, self.interpolation = size, resize, interpolation
        self._prepared = _Preparation(mean, std, channel_order, interpolation)

    def __call__(self, image: np.ndarray) -> Tensor:
        """uint8 RGB (H, W, 3) to float32 (10, 3, size, size)."""
        height, width = self._prepared.size(image, self.resize)
        resized = self._prepared(image, height, width)
        center = find_center_box(height, width, self.size)
        bottom, right = height - self.size, width - self.size
        corners = [(center.top, center.left), (0, 0), (0, right), (bottom, 0), (bottom, right)]
        return torch.stack(
            [
                view[:, top : top + self.size, left : left + self.size]
                for view in (resized, resized.flip(2))
                for top, left in corners
            ]
        )


class DenseScales:
    """Whole images at several sizes, for a network applied everywhere: He et al., Deep Residual Learning, section 3.4.

    Args:
        scales: the shorter sides in pixels.
        flip: also the mirror image.
        mean: on the scale 0-255, in ``channel_order``.
        std: likewise.
        channel_order: "RGB" or "BGR": of the result; images are RGB.
        interpolation: see ``resize``.

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
        self.scales, self.flip, self.interpolation = tuple(scales), flip, interpolation
        self._prepared = _Preparation(mean, std, channel_order, interpolation)

    def __call__(self, image: np.ndarray) -> list[Tensor]:
        """uint8 RGB (H, W, 3) to a float32 tensor a scale, (1, 3, h, w) or with its mirror image (2, 3, h, w)."""
        tensors = []
        for scale in self.scales:
            whole = self._prepared(image, *self._prepared.size(image, scale))
            tensors.append(torch.stack([whole, whole.flip(2)] if self.flip else [whole]))
        return tensors


def find_center_box(height: int, width: int, size: int, *, rounding: str = "up") -> Box:
    """The central square of an image that is not smaller; see CenterCrop for ``rounding``."""
    free = (height - size, width - size)
    top, left = (-(-rest // 2) if rounding == "up" else round(rest / 2) for rest in free)
    return Box(top, left, size, size)


class _Preparation:
    """Resizing and normalisation, which all tests have in common; the arguments are those of CenterCrop."""

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], channel_order: str, interpolation: str
    ) -> None:
        check_interpolation(interpolation)
        self._interpolation = interpolation
        self._normalization = normalization(mean, std, channel_order)

    def size(self, image: np.ndarray, shorter_side: int) -> tuple[int, int]:
        """(height, width) of the image at this shorter side."""
        check_image(image)
        height, width = image.shape[:2]
        return scale_shorter_side(height, width, shorter_side, self._interpolation)

    def __call__(
        self, image: np.ndarray, height: int, width: int, window: Box | None = None
    ) -> Tensor:
        """The window of the image at this size, normalised; float32, (3, h, w)."""
        return to_tensor(
            self._normalization(resize(image, height, width, self._interpolation, window=window))
        )


def _check_sizes(size: int, resize: int) -> None:
    if size < 1:
        raise ValueError(f"size is {size}; give the side of the crop in pixels, such as 224")
    if resize < size:
        raise ValueError(
            f"resize is {resize}, but no crop of {size} pixels is within an image whose shorter side is that; "
            f"give a resize of {size} or more"
        )
