"""Augment training images as torchvision trains its classifiers today."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import one_hot
from torchvision.transforms import InterpolationMode, v2

from resnext_det.data.images.colors import build_normalization, to_tensor
from resnext_det.data.images.resizing import check_image


@contextmanager
def seed_torch(random_state: np.random.RandomState) -> Iterator[None]:
    """Seed torch's CPU generator from one random draw, and restore it on exit.

    ``torch.manual_seed`` would seed the generators of the GPUs too, and for good.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(random_state.randint(0, 2**63 - 1, dtype=np.int64)))
        yield


class Mixing:
    """Mix the images of a batch by MixUp (arXiv 1710.09412) or CutMix (arXiv 1905.04899).

    They are torchvision.transforms.v2's, which mix each image with the one before it in the batch.

    Args:
        num_classes: C, the length of a soft target.
        mixup: alpha of MixUp's Beta(alpha, alpha); 0 for none.
        cutmix: alpha of CutMix's; 0 for none. Where both are positive, one of the two is drawn for
            each batch.

    Raises ValueError on values out of their ranges.
    """

    def __init__(self, num_classes: int, mixup: float = 0.0, cutmix: float = 0.0) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}; give at least one class")
        if mixup < 0 or cutmix < 0:
            raise ValueError(
                f"mixup is {mixup}, cutmix {cutmix}; give alphas above 0, or 0 for none"
            )
        self.num_classes = num_classes
        self._transforms = []
        if mixup:
            self._transforms.append(v2.MixUp(alpha=mixup, num_classes=num_classes))
        if cutmix:
            self._transforms.append(v2.CutMix(alpha=cutmix, num_classes=num_classes))

    def __call__(
        self, images: Tensor, labels: Tensor, random_state: np.random.RandomState
    ) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            images: float, (N, 3, H, W); they stay as they are.
            labels: int64, (N,).
            random_state: of the draws for this batch.

        Returns:
            Images (N, 3, H, W) and soft targets, float32, (N, C), each of sum 1.

        Raises:
            ValueError: other shapes or types; a label that is no class.
        """
        self._check(images, labels)
        if not self._transforms:
            return images, one_hot(labels, self.num_classes).float()
        transform = self._transforms[random_state.randint(len(self._transforms))]
        with seed_torch(random_state):
            return transform(images, labels)

    def _check(self, images: Tensor, labels: Tensor) -> None:
        if images.ndim != 4 or not images.is_floating_point():
            raise ValueError(
                f"images are {images.dtype} of {tuple(images.shape)}; give a float batch "
                "(N, 3, H, W)"
            )
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"labels are {labels.dtype} of {tuple(labels.shape)} for {len(images)} images; "
                "give one class number an image, int64"
            )
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise ValueError(
                f"labels are from {int(labels.min())} to {int(labels.max())}, but classes are 0 to "
                f"{self.num_classes - 1}; give num_classes as it is in the set"
            )


POLICIES: dict[str, Any] = {
    "trivial_augment_wide": v2.TrivialAugmentWide,
    "rand_augment": v2.RandAugment,
}
_MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


class ModernAugmentation:
    """Crop, mirror, apply a policy, normalize and erase, as torchvision's training recipes do.

    The steps are torchvision.transforms.v2's RandomResizedCrop, RandomHorizontalFlip,
    TrivialAugmentWide or RandAugment, and RandomErasing, with their standard ranges.

    Args:
        size: side of the result in pixels.
        mean, std, channel_order: see ``build_normalization``; images are RGB.
        interpolation: PIL's "bilinear" or "bicubic", of the crop and of the policy.
        policy: "trivial_augment_wide", "rand_augment" or "" for none.
        random_erasing: probability that a rectangle becomes the mean color.
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
        if size < 1:
            raise ValueError(f"size is {size}; give the side of the result in pixels, such as 224")
        if interpolation not in _MODES:
            raise ValueError(
                f"interpolation is {interpolation!r}; this augmentation takes PIL's, one of "
                f"{', '.join(_MODES)}"
            )
        if policy and policy not in POLICIES:
            raise ValueError(
                f"policy is {policy!r}; it is one of {', '.join(POLICIES)}, or '' for none"
            )
        for name, value in (("random_erasing", random_erasing), ("flip", flip)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; give a probability from 0 to 1")
        mode = _MODES[interpolation]
        steps: list[Any] = [
            v2.RandomResizedCrop(size, interpolation=mode),
            v2.RandomHorizontalFlip(flip),
        ]
        if policy:
            steps.append(POLICIES[policy](interpolation=mode))
        self._steps = v2.Compose(steps)
        self._normalization = build_normalization(mean, std, channel_order)
        self._erasing = v2.RandomErasing(random_erasing, inplace=True)

    def __call__(self, image: np.ndarray, random_state: np.random.RandomState) -> Tensor:
        """Turn uint8 RGB (H, W, 3) into float32 (3, size, size)."""
        check_image(image)
        with seed_torch(random_state):
            picture = self._steps(Image.fromarray(image))
            return self._erasing(to_tensor(self._normalization(np.asarray(picture))))
