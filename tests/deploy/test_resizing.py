"""The resizing inside a graph gives PIL's pixels and ResizeShortestEdge's sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resnext_det.data.geometry import resize_image as resize_by_pil
from resnext_det.data.transforms import ResizeShortestEdge
from resnext_det.deploy.resizing import (
    compute_resized_size,
    resize_image,
    shrinks_tall_images_by_rows,
)

SIZES = [
    ((60, 90), (100, 150)),  # both sides grow
    ((150, 203), (64, 87)),  # both shrink
    ((300, 40), (133, 18)),  # a tall one, which Pillow 13 begins with the rows
    ((40, 300), (18, 133)),
    ((97, 80), (97, 131)),  # one side stays
    ((33, 57), (57, 33)),  # one shrinks, one grows
    ((700, 31), (40, 31)),
    ((1, 5), (7, 1)),
]


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_the_pixels_are_those_of_pil(old: tuple[int, int], new: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*old, 3), dtype=np.uint8)
    by_rows = shrinks_tall_images_by_rows()
    resized = resize_image(torch.from_numpy(image), *new, tall_by_rows=by_rows)
    assert resized.dtype == torch.float32
    np.testing.assert_array_equal(resized.numpy(), resize_by_pil(image, *new))


@pytest.mark.parametrize(("min_size", "max_size"), [(800, 1333), (64, 96), (600, 1000)])
def test_the_sizes_are_those_of_the_mapper(min_size: int, max_size: int) -> None:
    """Of ten thousand sizes, one may differ by a pixel; these do not."""
    random, edge = np.random.default_rng(1), ResizeShortestEdge((min_size,), max_size)
    for height, width in random.integers(1, 3000, (2000, 2)).tolist():
        expected = edge.compute_size(height, width, min_size)
        found = compute_resized_size(height, width, min_size, max_size)
        exact = height * max_size / width % 1 == 0.5 or width * max_size / height % 1 == 0.5
        assert found == expected or exact
