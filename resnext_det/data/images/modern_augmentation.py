"""Augmentation of training images as torchvision trains its classifiers today."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from resnext_det.data.images.colors import normalization, to_tensor
from resnext_det.data.images.resizing import check_image
from resnext_det.data.images.torch_draws import torch_draws_from

POLICIES: dict[str, Any] = {"trivial_augment_wide": v2.TrivialAugmentWide, "rand_augment": v2.RandAugment}
_MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


class ModernAugmentation:
    """Crop, mirror, a drawn policy, normalise, erase: the steps of torchvision's references/classification.

    They are torchvision.transforms.v2's RandomResizedCrop, RandomHorizontalFlip, TrivialAugmentWide or RandAugment,
    and RandomErasing, with their standard ranges.

    Args:
        size: side of the result in pixels.
        mean: on the scale 0-255, in ``channel_order``.
        std: likewise.
        channel_order: "RGB" or "BGR": of the result; images are RGB.
        interpolation: PIL's "bilinear" or "bicubic", of the crop and of the policy.
        policy: "trivial_augment_wide", "rand_augment" or "" for none.
        random_erasing: probability that a rectangle becomes the mean colour.
        flip: probability of a mirror image.

    Raises ValueError on values out of their ranges.
    """

    def __init__(
        self,
        size: int = 224,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        channel_order: str = "RGB",
        interpolation: str = "bilinear",
        policy: str = "trivial_augment_wide",
        random_erasing: float = 0.1,
        flip: float = 0.5,
    ) -> None:
        _check(size, interpolation, policy)
        for name, value in (("random_erasing", random_erasing), ("flip", flip)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; give a probability from 0 to 1")
        mode = _MODES[interpolation]
        steps: list[Any] = [v2.RandomResizedCrop(size, interpolation=mode), v2.RandomHorizontalFlip(flip)]
        if policy:
            steps.append(POLICIES[policy](interpolation=mode))
        self._steps = v2.Compose(steps)
        self._normalization = normalization(mean, std, channel_order)
        self._erasing = v2.RandomErasing(random_erasing, inplace=True)

    def __call__(self, image: np.ndarray, random_state: np.random.RandomState) -> Tensor:
        """uint8 RGB (H, W, 3) to float32 (3, size, size)."""
        check_image(image)
        with torch_draws_from(random_state):
            picture = self._steps(Image.fromarray(image))
            return self._erasing(to_tensor(self._normalization(np.asarray(picture))))


def _check(size: int, interpolation: str, policy: str) -> None:
    if size < 1:
        raise ValueError(f"size is {size}; give the side of the result in pixels, such as 224")
    if interpolation not in _MODES:
        raise ValueError(
            f"interpolation is {interpolation!r}; this augmentation is made of PIL's, one of {', '.join(_MODES)}"
        )
    if policy and policy not in POLICIES:
        raise ValueError(f"policy is {policy!r}; it is one of {', '.join(POLICIES)}, or '' for none")
