"""Draw crops of training images, with detectron2's draws and numbers.

``RandomState(seed)`` here gives what ``numpy.random.seed(seed)`` gives to detectron2's
``RandomCrop``, and to its ``ResizeScale`` and ``FixedSizeCrop``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resnext_det.config.augmentation import check_crop
from resnext_det.data.geometry import Crop, Pad, Resize, Step


@dataclass(frozen=True)
class RandomCrop:
    """Draw a window anywhere in the image, as detectron2's transform of this name.

    Args:
        kind: what ``size`` means. "relative": the shares of height and width, up to 1.
            "relative_range": the least shares; both are drawn, each between its least one and 1.
            "absolute": height and width in pixels. "absolute_range": both sides are drawn between
            its two numbers of pixels. A window is never larger than the image.
        size: two numbers.

    Raises ValueError on another kind, and on sizes that are out of range, see ``check_crop``.
    """

    kind: str
    size: tuple[float, float]

    def __post_init__(self) -> None:
        check_crop(self.kind, self.size)

    def draw(self, random_state: np.random.RandomState, height: int, width: int) -> list[Step]:
        """Draw the steps for an image: a crop."""
        rows, columns = self._draw_size(random_state, height, width)
        y0 = int(random_state.randint(height - rows + 1))
        x0 = int(random_state.randint(width - columns + 1))
        return [Crop(x0, y0, columns, rows)]

    def _draw_size(
        self, random_state: np.random.RandomState, height: int, width: int
    ) -> tuple[int, int]:
        """Draw (height, width) of the window, at least a pixel each."""
        if self.kind.startswith("absolute"):
            first, second = (int(side) for side in self.size)
            if self.kind == "absolute":
                return min(first, height), min(second, width)
            rows = random_state.randint(min(height, first), min(height, second) + 1)
            columns = random_state.randint(min(width, first), min(width, second) + 1)
            return int(rows), int(columns)
        shares: Sequence[float] | np.ndarray = self.size
        if self.kind == "relative_range":
            least = np.asarray(self.size, dtype=np.float32)  # as in detectron2
            shares = least + random_state.rand(2) * (1 - least)
        return max(1, int(height * shares[0] + 0.5)), max(1, int(width * shares[1] + 0.5))


@dataclass(frozen=True)
class ScaleJitter:
    """Draw a scale, and make the image a square of ``side`` pixels: large-scale jitter.

    The image is resized to fit into a square of ``scale`` times ``side`` pixels; of what is larger
    than the square of ``side`` a window is cut out, and what is smaller is padded with gray on the
    right and at the bottom. As ``ResizeScale`` and ``FixedSizeCrop`` in detectron2's new baselines,
    where padding belongs to the image.

    Args:
        low, high: the smallest and the largest scale, such as 0.1 and 2.
        side: in pixels, such as 1024.

    Raises ValueError on scales that are not positive or out of order, and on a side below 1.
    """

    low: float
    high: float
    side: int

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ValueError(
                f"scales are {self.low} to {self.high}; give a smallest above 0 and a largest, "
                "such as 0.1 and 2.0"
            )
        if self.side < 1:
            raise ValueError(f"side is {self.side}; give pixels, such as 1024")

    def draw(self, random_state: np.random.RandomState, height: int, width: int) -> list[Step]:
        """Draw the steps for an image: a resize, a crop and, where it is needed, padding."""
        side = self.side * random_state.uniform(self.low, self.high)
        scale = min(side / height, side / width)
        # numpy's round, which rounds halves to even; at least a pixel a side.
        rows, columns = (max(1, int(np.round(length * scale))) for length in (height, width))
        place = random_state.uniform(0.0, 1.0)  # one for both sides
        y0, x0 = (int(np.round(max(length - self.side, 0) * place)) for length in (rows, columns))
        steps: list[Step] = [
            Resize(height, width, rows, columns),
            Crop(x0, y0, self.side, self.side),
        ]
        below, right = max(self.side - rows, 0), max(self.side - columns, 0)
        return [*steps, Pad(right, below)] if below or right else steps
