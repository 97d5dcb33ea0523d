"""Segmentations of COCO files: against pycocotools, and every way in which they are wrong."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pycocotools.mask
import pytest

from resnext_det.data.annotations.segmentations import (
    NOTHING,
    TOO_FEW_POINTS,
    normalize_segmentation,
)

HEIGHT, WIDTH = 23, 37
RIGHT = r"the segmentation .*; write polygons .* or a run-length encoding"


def normalize(segmentation: Any, height: int = HEIGHT, width: int = WIDTH) -> Any:
    text = segmentation if isinstance(segmentation, str) else json.dumps(segmentation)
    return json.loads(normalize_segmentation(text.encode(), height, width))


def encode(mask: np.ndarray) -> dict[str, Any]:
    encoded = pycocotools.mask.encode(np.asfortranarray(mask))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def count_runs(mask: np.ndarray) -> list[int]:
    """Count the runs of a mask (H, W), column by column, those of 0 first."""
    pixels = mask.T.reshape(-1)
    ends = np.flatnonzero(np.diff(pixels, prepend=0, append=1 - pixels[-1]))
    return np.diff(ends, prepend=0).tolist()


def draw_masks() -> list[np.ndarray]:
    draw = np.random.RandomState(0)
    masks = [(draw.rand(HEIGHT, WIDTH) < share).astype(np.uint8) for share in (0.02, 0.5, 0.98)]
    square = np.zeros((HEIGHT, WIDTH), np.uint8)
    square[3:20, 30:37] = 1
    return [*masks, square, np.zeros_like(square), np.ones_like(square)]


@pytest.mark.parametrize("mask", draw_masks())
def test_counts_are_taken_and_compressed_as_by_pycocotools(mask: np.ndarray) -> None:
    expected = encode(mask)
    assert normalize(expected) == expected
    assert normalize({"counts": count_runs(mask), "size": [HEIGHT, WIDTH]}) == expected
    assert (pycocotools.mask.decode(normalize(expected)) == mask).all()


def test_large_numbers_of_counts_are_read() -> None:
    runs = [2**24 + 5, 3, 2**27, 2**28 - 7, 1, 2]
    size = [2**14, -(-sum(runs) // 2**14)]
    runs.append(size[0] * size[1] - sum(runs))
    packed = pycocotools.mask.frPyObjects({"size": size, "counts": runs}, *size)
    expected = {"size": size, "counts": packed["counts"].decode()}
    assert normalize(expected, *size) == normalize({"size": size, "counts": runs}, *size)
    assert normalize(expected, *size) == expected


def test_polygons_keep_their_numbers_and_lose_what_is_none() -> None:
    segmentation = "[ [1,2.50,3,\n4,5,6], [1,2,3,4], [1,2,3,4,5,6,7], [0.0, 1e1, 9, 9, 7, 1] ]"
    assert repr(normalize(segmentation)) == "[[1, 2.5, 3, 4, 5, 6], [0.0, 10.0, 9, 9, 7, 1]]"
    for few in ("[[1,2,3,4]]", "[[]]", "[[1,2],[1,2,3,4,5]]"):
        assert normalize_segmentation(few.encode(), HEIGHT, WIDTH) == TOO_FEW_POINTS
    for nothing in ("null", "[]", "{}"):
        assert normalize_segmentation(nothing.encode(), HEIGHT, WIDTH) == NOTHING
    outside = [[-400, 5, 400000, 5, 8, 30.5]]
    assert normalize(outside) == outside


SIZE = [HEIGHT, WIDTH]
ZIGZAG = [0, 0, WIDTH, 0] * (10**6 // (2 * WIDTH) + 1)


@pytest.mark.parametrize(
    "segmentation, message",
    [
        ([[1, 2, 3, 4, 5, 1e9]], "has a polygon with the number 1000000000.0"),
        ([[1, 2, 3, 4, 5, -(10**9)]], "has a polygon with the number -1000000000.0"),
        ("[[1,2,3,4,5,1e999]]", RIGHT),
        ("[[1,2,3,4,5,NaN]]", RIGHT),
        ([ZIGZAG], "has a polygon whose outline is 1000036 pixels long"),
        ([1, 2, 3, 4, 5, 6], RIGHT),
        ([[1, 2, None, 4, 5, 6]], RIGHT),
        ([[1, 2, "3", 4, 5, 6]], RIGHT),
        ([[[1, 2], [3, 4], [5, 6]]], RIGHT),
        ("[" * 2000 + "]" * 2000, RIGHT),
        ("{" * 2000, RIGHT),
        ("mask.png", RIGHT),
        ({"counts": [HEIGHT * WIDTH]}, r"has a segmentation of size None, and its image is"),
        ({"size": SIZE[::-1], "counts": [HEIGHT * WIDTH]}, "write the height first"),
        ({"size": SIZE}, "has a segmentation with the counts None, which encode no mask"),
        ({"size": SIZE, "counts": [HEIGHT * WIDTH + 1, -1]}, "counts .*, which encode no mask"),
        ({"size": SIZE, "counts": [1.5, HEIGHT * WIDTH - 1.5]}, "counts .*, which encode no mask"),
        ({"size": SIZE, "counts": "5N"}, "counts '5N', which encode no mask of 23 x 37 pixels"),
    ],
)
def test_what_would_break_pycocotools_is_refused(segmentation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^has .*{message.removeprefix('has ')}") as error:
        normalize(segmentation)
    assert type(error.value) is ValueError and len(str(error.value)) < 500


def test_pycocotools_takes_all_that_is_not_refused() -> None:
    """Damaged counts, as pycocotools itself would write or read beyond its memory for."""
    draw = random.Random(0)
    texts = [encode(mask)["counts"] for mask in draw_masks()]
    taken = 0
    for _ in range(3000):
        text = list(draw.choice(texts))
        for _ in range(draw.randint(1, 3)):
            place = draw.randrange(len(text))
            text[place : place + draw.randint(0, 2)] = [chr(draw.randrange(48, 112))]
        encoding = {"size": [HEIGHT, WIDTH], "counts": "".join(text)}
        try:
            found = normalize(encoding)
        except ValueError as error:
            assert "which encode no mask of 23 x 37 pixels" in str(error)
            continue
        taken += 1
        assert pycocotools.mask.area(found) == pycocotools.mask.decode(found).sum()
    assert taken > 3
