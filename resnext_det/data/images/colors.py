"""Color steps of training, and normalization, as affine maps of a pixel.

Brightness, contrast, saturation, lighting and normalization are each affine in (red, green, blue),
so their sequence is one 3x4 matrix, and an image is gone through once. Nothing is clamped in
between, as in fb.resnet.torch. Images are RGB on the scale 0-255; fb.resnet.torch works on 0-1,
which changes nothing but the unit of lighting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

CHANNEL_ORDERS = ("RGB", "BGR")

_GRAY = np.array([0.299, 0.587, 0.114])
# The principal components of ImageNet's colors on the scale 0-1, eigenvectors in columns:
# fb.resnet.torch, datasets/imagenet.lua.
_EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
_EIGENVECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)


@dataclass(frozen=True, eq=False)
class ColorTransform:
    """Map a pixel to ``matrix @ pixel + offset``; float64, (3, 3) and (3,)."""

    matrix: np.ndarray
    offset: np.ndarray

    def then(self, following: ColorTransform) -> ColorTransform:
        """Combine this transform and the following one."""
        return ColorTransform(
            following.matrix @ self.matrix, following.matrix @ self.offset + following.offset
        )

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Map uint8 or float32 (H, W, 3) to float32 (H, W, 3)."""
        return cv2.transform(
            image.astype(np.float32, copy=False), np.column_stack([self.matrix, self.offset])
        )


IDENTITY = ColorTransform(np.eye(3), np.zeros(3))


def build_jitter(mean: np.ndarray, alphas: Sequence[float], order: Sequence[int]) -> ColorTransform:
    """Blend an image with black, with its mean gray and with its own gray, in any order.

    Equals ``ColorJitter`` of fb.resnet.torch, datasets/transforms.lua, given the same draws. As
    nothing is clamped and saturation keeps the gray, the three commute: another order differs by
    rounding alone.

    Args:
        mean: the mean color of the image, (3,).
        alphas: the share of the image in the blends for brightness, contrast and saturation, 1
            leaving it alone.
        order: a permutation of (0, 1, 2): which of the three comes first, second and third.
    """
    transform = IDENTITY
    for step in order:
        keep = alphas[step]
        mixed, offset = keep * np.eye(3), np.zeros(3)
        if step == 1:  # the mean of the gray image is the gray of the mean color at this point
            offset = np.full(3, (1 - keep) * (_GRAY @ (transform.matrix @ mean + transform.offset)))
        elif step == 2:
            mixed = mixed + (1 - keep) * np.tile(_GRAY, (3, 1))
        transform = transform.then(ColorTransform(mixed, offset))
    return transform


def build_lighting(alphas: Sequence[float]) -> ColorTransform:
    """Add ImageNet's principal components of color, each times its eigenvalue and its alpha.

    Equals ``Lighting`` of fb.resnet.torch, datasets/transforms.lua, given the same three draws.
    """
    return ColorTransform(np.eye(3), 255 * (_EIGENVECTORS @ (np.asarray(alphas) * _EIGENVALUES)))


def build_normalization(
    mean: Sequence[float], std: Sequence[float], channel_order: str
) -> ColorTransform:
    """Map each channel of an RGB image to (value - mean) / std, and order the channels.

    Args:
        mean: on the scale 0-255, given in ``channel_order``.
        std: likewise.
        channel_order: "RGB" or "BGR".

    Raises:
        ValueError: another order; not three numbers; a std that is not positive.
    """
    if channel_order not in CHANNEL_ORDERS:
        raise ValueError(
            f"channel_order is {channel_order!r}; it is one of {', '.join(CHANNEL_ORDERS)}"
        )
    if len(mean) != 3 or len(std) != 3:
        raise ValueError(
            f"mean is {mean} and std {std}; give three numbers each, in {channel_order}"
        )
    if min(std) <= 0:
        raise ValueError(
            f"std is {std}; give positive numbers on the scale 0-255, such as (58.4, 57.1, 57.4)"
        )
    order = np.eye(3) if channel_order == "RGB" else np.eye(3)[::-1]
    scale = np.asarray(std, dtype=np.float64)
    return ColorTransform(order / scale[:, None], -np.asarray(mean, dtype=np.float64) / scale)


def compute_mean_color(image: np.ndarray) -> np.ndarray:
    """Compute the mean of each channel of (H, W, 3); float64, (3,)."""
    return np.array(cv2.mean(image)[:3])


def to_tensor(image: np.ndarray) -> Tensor:
    """Copy float32 (H, W, 3) into a contiguous tensor (3, H, W)."""
    planes = np.empty((3, *image.shape[:2]), np.float32)
    cv2.split(image, list(planes))
    return torch.from_numpy(planes)
