"""Change the colors of training images at random, as torchvision's ColorJitter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

_CHANGES: tuple[Callable[[Tensor, float], Tensor], ...] = (
    functional.adjust_brightness,
    functional.adjust_contrast,
    functional.adjust_saturation,
    functional.adjust_hue,
)


@dataclass(frozen=True)
class ColorJitter:
    """Change brightness, contrast, saturation and hue, in a drawn order, by drawn factors.

    The pixels are those of ``torchvision.transforms.v2.ColorJitter`` on uint8 with the same order
    and factors. These are drawn from numpy's generator: first ``permutation(4)``, the order of
    brightness (0), contrast (1), saturation (2) and hue (3); then ``uniform`` for each of the four
    that is not 0, in the order in which they stand here.

    Args:
        brightness, contrast, saturation: x draws a factor from max(0, 1 - x) to 1 + x.
        hue: x draws a turn of the hues from -x to x, where 0.5 is half of the circle.

    Raises ValueError on numbers below 0, and on a hue above 0.5.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float

    def __post_init__(self) -> None:
        values = (self.brightness, self.contrast, self.saturation, self.hue)
        if min(values) < 0 or self.hue > 0.5:
            raise ValueError(
                f"color jitter is {values}; give brightness, contrast, saturation and hue, 0 or "
                "more, and a hue up to 0.5, such as (0.4, 0.4, 0.4, 0.1)"
            )

    def apply(
        self, image: np.ndarray, random_state: np.random.RandomState, image_format: str
    ) -> np.ndarray:
        """Draw, and change uint8 (H, W, C) of "BGR", "RGB" or "L", which has no hues."""
        order = random_state.permutation(4)
        factors: list[float | None] = []
        for reach in (self.brightness, self.contrast, self.saturation):
            factors.append(random_state.uniform(max(0.0, 1 - reach), 1 + reach) if reach else None)
        factors.append(random_state.uniform(-self.hue, self.hue) if self.hue else None)
        flipped = image[:, :, ::-1] if image_format == "BGR" else image
        pixels = torch.from_numpy(np.array(flipped.transpose(2, 0, 1), order="C"))
        for change in order:
            if (factor := factors[change]) is not None:
                pixels = _CHANGES[change](pixels, factor)
        changed = pixels.numpy().transpose(1, 2, 0)
        return changed[:, :, ::-1] if image_format == "BGR" else changed
