"""Mixup and CutMix of a batch: images of two neighbours as one, with both labels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torchvision.transforms import v2

from resnext_det.data.images.torch_draws import torch_draws_from


class Mixing:
    """Mixup (arXiv 1710.09412), CutMix (arXiv 1905.04899), one of the two at random a batch, or neither.

    They are torchvision.transforms.v2's, which mix each image with the one before it in the batch.

    Args:
        num_classes: C, the length of a soft target.
        mixup: alpha of mixup's Beta(alpha, alpha); 0 for none.
        cutmix: alpha of CutMix's; 0 for none. Where both are positive, each is taken for half of the batches.

    Raises ValueError on values out of their ranges.
    """

    def __init__(self, num_classes: int, mixup: float = 0.0, cutmix: float = 0.0) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}; give at least one class")
        if mixup < 0 or cutmix < 0:
            raise ValueError(
                f"mixup is {mixup}, cutmix {cutmix}; give alphas above 0, such as 0.2, or 0 for none"
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
        with torch_draws_from(random_state):
            return transform(images, labels)

    def _check(self, images: Tensor, labels: Tensor) -> None:
        if images.ndim != 4 or not images.is_floating_point():
            raise ValueError(
                f"images are {images.dtype} of {tuple(images.shape)}; give a float batch (N, 3, H, W)"
            )
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"labels are {labels.dtype} of {tuple(labels.shape)} for {len(images)} images; give one class "
                "number an image, int64"
            )
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise ValueError(
                f"labels are from {int(labels.min())} to {int(labels.max())}, but classes are 0 to "
                f"{self.num_classes - 1}; give num_classes as it is in the set"
            )
