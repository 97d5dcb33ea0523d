"""Encodings of masks: pycocotools' own, and nothing that it would misread or crash on."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.mask import decode, encode

from resnext_det.rle import decode_masks, encode_masks, encode_segmentation, measure_counts


def draw_masks(number: int) -> list[np.ndarray]:
    """Draw blobs and noise of many sizes, some of them empty or full."""
    rng = np.random.default_rng(0)
    masks = []
    for index in range(number):
        height, width = rng.integers(1, 60, 2).tolist()
        values = rng.random((height, width))
        if index % 2:
            values = cv2.resize(rng.random((3, 3)), (width, height))
        masks.append(values < rng.uniform(-0.1, 1.1))
    return masks


def read_plainly(text: str, pixels: int) -> int:
    """Read an encoding letter by letter, and give the area; -1 where it is broken."""
    runs: list[int] = []
    number = letters = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64 or letters == 7:
            return -1
        number |= (code & 31) << 5 * letters
        letters += 1
        if not code & 32:
            number -= (1 << 5 * letters) * (code >> 4 & 1)
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = letters = 0
    broken = letters or not runs or min(runs) < 0 or sum(runs) != pixels
    return -1 if broken else sum(runs[1::2])


def test_masks_are_encoded_as_by_pycocotools() -> None:
    for mask in draw_masks(40):
        both = np.stack([mask, ~mask])
        texts = encode_masks(both)
        assert texts == [encode(np.asfortranarray(m, np.uint8))["counts"].decode() for m in both]
        assert (decode_masks(texts, mask.shape) == both).all()
    assert encode_masks(np.zeros((0, 5, 4), bool)) == []
    assert decode_masks([], (5, 4)).shape == (0, 5, 4)


def test_broken_encodings_are_told_from_right_ones() -> None:
    """Change letters of encodings: only what is right is left for pycocotools, which may crash."""
    rng = np.random.default_rng(1)
    texts, sizes = [], []
    for mask in draw_masks(60):
        (text,) = encode_masks(mask[None])
        texts.append(text)
        sizes.append(mask.shape)
        for _ in range(15):
            letters = list(text)
            place, letter = int(rng.integers(len(text))), chr(int(rng.integers(44, 116)))
            letters[place : place + int(rng.integers(2))] = [letter] * int(rng.integers(2))
            texts.append("".join(letters))
            sizes.append(mask.shape)
    pixels = np.array([height * width for height, width in sizes])
    areas = measure_counts(texts, pixels)
    assert areas.tolist() == [read_plainly(*pair) for pair in zip(texts, pixels.tolist())]
    assert 100 < (areas >= 0).sum() < 400
    for text, size, area in zip(texts, sizes, areas.tolist()):
        if area >= 0:
            assert decode({"size": list(size), "counts": text}).sum() == area


def test_what_is_no_encoding_spoils_no_other() -> None:
    texts = ["", "\0", "é5", "P" * 8, "o", "5" * 10**5, "-1", "oooooooo0"]
    texts = [word for text in texts for word in (text, "T3")]
    assert measure_counts(texts, np.full(16, 100)).tolist() == [-1, 0] * 8


def test_segmentations_of_annotations_are_those_of_pycocotools() -> None:
    rng = np.random.default_rng(2)
    coco = COCO()
    coco.imgs = {1: {"height": 37, "width": 50}}
    mask = rng.random((37, 50)) < 0.3
    runs = np.diff(np.flatnonzero(np.diff(mask.T.ravel())), prepend=-1, append=37 * 50 - 1)
    runs = [0, *runs.tolist()] if mask[0, 0] else runs.tolist()
    segmentations: list[Any] = [
        {"size": [37, 50], "counts": encode_masks(mask[None])[0]},
        {"size": [37, 50], "counts": encode_masks(mask[None])[0].encode()},
        {"size": [37, 50], "counts": runs},
        [[3, 3, 20, 3, 20, 30], [1.5, 2.5]],
    ]
    for _ in range(30):
        parts = [rng.uniform(-5, 60, 2 * rng.integers(3, 9)) for _ in range(rng.integers(1, 4))]
        segmentations.append([part.tolist() for part in parts])
    for each in segmentations:
        expected = coco.annToMask({"image_id": 1, "segmentation": each})
        text = encode_segmentation(each, 37, 50)
        assert (decode_masks([text], (37, 50))[0] == expected).all()
    swapped = encode_segmentation([[2, 2, 9, 9], [3, 3, 20, 3, 20, 30]], 37, 50)
    assert swapped == encode_segmentation([[3, 3, 20, 3, 20, 30], [2, 2, 9, 9]], 37, 50)


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        (None, "has the segmentation None; write polygons"),
        ([], r"has the segmentation \[\]; write polygons"),
        ([1, 2, 3, 4, 5, 6], "has 1 in its segmentation; write polygons"),
        ([["1", 2, 3, 4, 5, 6]], "in its segmentation; write polygons"),
        ([[1, 2, 3, 4]], "no polygon of three points"),
        ([[0, 0, np.nan, 0, 9, 9]], "has a polygon with the number"),
        ([[0, 0, 1e9, 0, 9, 9]], "has a polygon with the number"),
        ([[0, 0, 1e6, 0] * 3], "whose outline is 6000000 pixels long"),
        (
            {"counts": "T3"},
            r"of size None, and its image is \[10, 12\], height and width; encode",
        ),
        ({"size": [12, 10], "counts": "h3"}, "height and width; write the height first"),
        ({"size": [10, 12], "counts": "abc"}, "counts 'abc', which encode no mask of 10 x 12 pix"),
        ({"size": [10, 12], "counts": [100, 19]}, r"counts \[100, 19\], which encode no mask"),
        ({"size": [10, 12], "counts": [121, -1]}, "encode no mask"),
        ({"size": [10, 12], "counts": [120.0]}, "encode no mask"),
        ({"size": [10, 12], "counts": None}, "counts None, which encode no mask"),
    ],
)
def test_what_is_no_segmentation_is_told(segmentation: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        encode_segmentation(segmentation, 10, 12)
