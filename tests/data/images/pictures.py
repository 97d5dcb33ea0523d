"""Images for tests of transforms: smooth enough to be pictures, with an edge and noise."""

from __future__ import annotations

import numpy as np

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 RGB, (height, width, 3): a gradient, a white and a black block, noise."""
    random = np.random.RandomState(seed)
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([255 * x / width, 255 * y / height, 127 + 100 * np.sin(x / 3 + y / 5)], axis=2)
    image[height // 4 : height // 2, width // 3 : width // 2 + 1] = 255
    image[height // 2 :, : width // 4] = 0
    return np.clip(image + random.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
