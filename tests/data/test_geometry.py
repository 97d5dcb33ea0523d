"""The steps of an image against fvcore's and detectron2's transforms, to the last bit."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from resnext_det.data.crops import RandomCrop, ScaleJitter
from resnext_det.data.geometry import Crop, Flip, Pad, Resize, Step
from resnext_det.data.transforms import DetectionMapper

HEIGHT, WIDTH = 37, 53
STEPS: dict[str, Step] = {
    "larger": Resize(HEIGHT, WIDTH, 74, 101),
    "smaller": Resize(HEIGHT, WIDTH, 11, 29),
    "horizontal": Flip("horizontal", HEIGHT, WIDTH),
    "vertical": Flip("vertical", HEIGHT, WIDTH),
    "crop": Crop(7, 5, 31, 22),
    "crop beyond the image": Crop(0, 5, 100, 22),
    "pad": Pad(9, 4),
    "no pad": Pad(0, 0),
}
COORDS = np.random.RandomState(0).uniform(-10, 70, (12, 2))


def convert(step: Step) -> Any:
    """The transform of detectron2 that does the same."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.data import transforms

    if isinstance(step, Resize):
        return transforms.ResizeTransform(step.height, step.width, step.new_height, step.new_width)
    if isinstance(step, Flip):
        across = step.direction == "horizontal"
        return (
            transforms.HFlipTransform(step.width)
            if across
            else transforms.VFlipTransform(step.height)
        )
    if isinstance(step, Crop):
        return transforms.CropTransform(step.x0, step.y0, step.width, step.height)
    assert isinstance(step, Pad)
    return transforms.PadTransform(0, 0, step.right, step.bottom, pad_value=128.0)


@pytest.mark.detectron2
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
def test_a_step_gives_detectron2s_numbers(step: Step) -> None:
    theirs, random = convert(step), np.random.RandomState(1)
    for channels in (1, 3):
        image = random.randint(0, 256, (HEIGHT, WIDTH, channels), dtype=np.uint8)
        assert np.array_equal(step.apply_image(image), theirs.apply_image(image))
    mask = np.asfortranarray(random.randint(0, 2, (HEIGHT, WIDTH), dtype=np.uint8))
    found, expected = step.apply_mask(mask), theirs.apply_segmentation(mask)
    assert found.dtype == np.uint8 and np.array_equal(found, expected)
    for dtype in (np.float64, np.float32, np.int64):
        coords = COORDS.astype(dtype)
        before, boxes = coords.copy(), coords.reshape(-1, 4)
        for mine, other in (
            (step.apply_coords(coords), theirs.apply_coords(coords.copy())),
            (step.apply_boxes(boxes), theirs.apply_box(boxes.copy())),
        ):
            assert mine.dtype == dtype and np.array_equal(mine, other)
        assert np.array_equal(coords, before)


@pytest.mark.detectron2
def test_polygons_are_cut_as_detectron2_cuts_them() -> None:
    """A polygon that a window cuts in two, one that crosses itself, one outside, and an edge."""
    pytest.importorskip("shapely", reason="shapely is not installed")
    step = Crop(4, 2, 10, 9)
    horseshoe = [[0, 0], [20, 0], [20, 3], [8, 3], [8, 7], [20, 7], [20, 12], [0, 12]]
    bow = [[1, 1], [12.5, 9], [12.5, 1], [1, 9]]
    gap = [[2, 0], [6, 0], [6, 20], [2, 20], [2, 16], [4, 16], [4, 1], [2, 1]]
    polygons = [np.array(points, dtype=float) for points in (horseshoe, bow, gap)]
    polygons += [np.array([[30.0, 1], [40, 1], [40, 9]]), np.array([[0.0, 2], [4, 2], [4, 9]])]
    found, expected = step.apply_polygons(polygons), convert(step).apply_polygons(polygons)
    assert len(found) == len(expected) > 2
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(found, expected))


def test_masks_are_not_cropped_without_shapely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    mapper = partial(DetectionMapper, True, min_sizes=8, max_size=9, mask_format="bitmask")
    mapper()
    for crop in (
        {"crop": RandomCrop("relative", (0.5, 0.5))},
        {"scale_jitter": ScaleJitter(1, 2, 8)},
    ):
        with pytest.raises(ValueError, match=r"pip install 'resnext-det\[polygons\]', or leave"):
            mapper(**crop)


def test_a_mask_keeps_to_its_pixels() -> None:
    """A mask follows its image through a crop, a flip and padding, and padding is no object."""
    image = np.zeros((10, 12, 3), dtype=np.uint8)
    image[3:6, 4:9] = 1
    mask = image[:, :, 0].copy()
    for step in (Crop(2, 1, 8, 7), Flip("horizontal", 7, 8), Flip("vertical", 7, 8), Pad(3, 2, 9)):
        image, mask = step.apply_image(image), step.apply_mask(mask)
        assert np.array_equal(image[:, :, 0] == 1, mask == 1) and mask.max() == 1
    assert image.shape == (9, 11, 3) and image[-1].min() == 9
