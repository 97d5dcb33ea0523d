"""Write and read COCO's run-length encodings of masks (RLE) by pycocotools, checked before.

pycocotools takes any text for an encoding. Of a broken one it gives another mask, or what was in
its memory.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from resnext_det.files import show

FORMS = "polygons [[x0, y0, x1, y1, ...]] or a run-length encoding {size, counts}"

_LONGEST = 7  # characters of a number of 32 bits
_MOST_PIXELS = 2**32 - 1  # that an encoding can count
_CHUNK = 1_000_000  # characters that are checked at once
_FARTHEST, _LONGEST_OUTLINE = 1e6, 1e6  # pixels; pycocotools allocates by an outline's length


def encode_masks(masks: np.ndarray) -> list[str]:
    """Encode masks as detectron2 does.

    Args:
        masks: bool, (N, height, width).

    Returns:
        the ``counts`` of compressed encodings.
    """
    import cv2
    from pycocotools.mask import encode

    # pycocotools reads columns, which OpenCV makes of rows several times as fast as NumPy.
    columns = (cv2.transpose(np.ascontiguousarray(mask).view(np.uint8)).T for mask in masks)
    return [encode(each)["counts"].decode() for each in columns]


def decode_masks(counts: Sequence[str], size: tuple[int, int]) -> np.ndarray:
    """Decode the ``counts`` of checked encodings: bool, (N, height, width)."""
    from pycocotools.mask import decode

    masks = np.zeros((len(counts), *size), bool)
    for mask, each in zip(masks, counts, strict=True):
        mask[:] = decode({"size": list(size), "counts": each})
    return masks


def measure_counts(counts: Sequence[str], pixels: np.ndarray) -> np.ndarray:
    """Measure the areas of encoded masks, half a million in a few seconds.

    Args:
        counts: N texts, of compressed encodings.
        pixels: (N,), how many pixels the image of each has.

    Returns:
        int64, (N,), in pixels; -1 of what encodes no mask of that many pixels.
    """
    lengths = np.array([len(text) for text in counts], np.int64)
    places = np.searchsorted(np.cumsum(lengths), np.arange(0, lengths.sum(), _CHUNK)[1:])
    areas = np.empty(len(counts), np.int64)
    for start, stop in pairwise([0, *places.tolist(), len(counts)]):
        areas[start:stop] = _measure_chunk(counts[start:stop], pixels[start:stop])
    return areas


def _measure_chunk(counts: Sequence[str], pixels: np.ndarray) -> np.ndarray:
    areas = np.full(len(counts), -1)
    most = np.minimum(pixels, _MOST_PIXELS)
    readable = np.array([_is_readable(text, limit) for text, limit in zip(counts, most.tolist())])
    these = np.flatnonzero(readable)
    if not len(these):
        return areas
    texts = [counts[index].encode() for index in these.tolist()]
    letters = np.frombuffer(b"".join(texts), np.uint8) - np.uint8(48)  # of others above 63
    codes = letters.astype(np.int64)
    owners = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    # A number has five bits a character, the lowest first, and a sixth where more follow.
    firsts = np.flatnonzero(np.append(True, codes[:-1] & 32 == 0))
    sizes = np.diff(firsts, append=len(codes))
    places = np.arange(len(codes)) - np.repeat(firsts, sizes)
    parts = (codes & 31) << (5 * np.minimum(places, _LONGEST))
    values = np.add.reduceat(parts, firsts)
    negative = codes[firsts + sizes - 1] & 16 > 0
    values -= np.where(negative, np.int64(1) << (5 * np.minimum(sizes, _LONGEST)), 0)
    # From the fourth on it is the difference to the one before the last.
    owners = owners[firsts]
    begins = np.searchsorted(owners, np.arange(len(texts)))
    ranks = np.arange(len(values)) - begins[owners]
    chains = 3 * owners + np.where(ranks == 0, 0, 1 + ranks % 2)
    order = np.argsort(chains, kind="stable")
    sums = np.cumsum(values[order])
    starts = np.flatnonzero(np.diff(chains[order], prepend=-1))
    before = (sums - values[order])[starts]
    runs = np.empty_like(sums)
    runs[order] = sums - np.repeat(before, np.diff(starts, append=len(sums)))
    limits = most[these]
    wrong = (runs < 0) | (runs > limits[owners]) | (sizes > _LONGEST)
    wrong |= np.maximum.reduceat(letters, firsts) > 63
    runs[wrong] = 0
    right = np.add.reduceat(runs, begins) == pixels[these]
    right &= ~np.logical_or.reduceat(wrong, begins)
    areas[these[right]] = np.add.reduceat(np.where(ranks % 2, runs, 0), begins)[right]
    return areas


def _is_readable(text: str, pixels: int) -> bool:
    """Tell whether a text is not too long for an encoding, and ends where a number does."""
    fits = 0 < len(text) <= _LONGEST * (pixels + 1)
    return fits and text.isascii() and (ord(text[-1]) - 48) & 32 == 0


def encode_segmentation(segmentation: Any, height: int, width: int) -> str:
    """Encode what a COCO file has as ``segmentation``, as pycocotools' ``annToRLE`` does.

    Args:
        segmentation: polygons, or an encoding, whose counts may be a list.
        height, width: of the image.

    Returns:
        the ``counts`` of a compressed encoding.

    Raises:
        ValueError: it is none, or of another size; the text tells how, to stand after its owner.
    """
    if isinstance(segmentation, Mapping):
        return _encode_runs(segmentation, height, width)
    if not isinstance(segmentation, list | tuple | np.ndarray) or not len(segmentation):
        raise ValueError(f"has the segmentation {show(segmentation)}; write {FORMS}")
    return _encode_polygons(segmentation, height, width)


def explain_size(size: Any, height: int, width: int) -> str:
    """Explain that the ``size`` of an encoding is not that of its image, for an error message.

    The text is what follows the name of the encoding's owner, such as "annotation 7".

    Args:
        height, width: of the image; 0 where they are not known.
    """
    given = f"has a segmentation of size {show(size)}, and"
    if not height or not width:
        return (
            f"{given} the annotations do not tell the size of its image; write its height and width"
        )
    remedy = "encode the mask in pixels of the original image"
    if size == [width, height]:
        remedy = "write the height first, and encode a mask of this shape"
    return f"{given} its image is [{height}, {width}], height and width; {remedy}"


def _encode_runs(encoding: Mapping[str, Any], height: int, width: int) -> str:
    counts, size = encoding.get("counts"), encoding.get("size")
    size = list(size) if isinstance(size, tuple | np.ndarray) else size
    if size != [height, width]:
        raise ValueError(explain_size(size, height, width))
    if isinstance(counts, str | bytes):
        text = counts if isinstance(counts, str) else counts.decode("ascii", "replace")
        if measure_counts([text], np.array([height * width]))[0] < 0:
            raise ValueError(explain_counts(counts, height, width))
        return text
    plain = isinstance(counts, list | tuple) and all(type(run) is int for run in counts)
    if not plain or not counts or min(counts) < 0 or sum(counts) != height * width:
        raise ValueError(explain_counts(counts, height, width))
    from pycocotools.mask import frPyObjects

    text = frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"]
    return text.decode()


def explain_counts(counts: Any, height: int, width: int) -> str:
    """Say that counts are not those of a mask of the image's size."""
    return (
        f"has a segmentation with the counts {show(counts)}, which encode no mask of {height} x "
        f"{width} pixels; write what pycocotools.mask.encode gives, decoded to text"
    )


def _encode_polygons(polygons: Any, height: int, width: int) -> str:
    from pycocotools.mask import frPyObjects, merge

    arrays = [read_polygon(polygon) for polygon in polygons]
    # pycocotools takes polygons for boxes where the first has four numbers.
    arrays = sorted((each for each in arrays if len(each)), key=lambda each: len(each) < 6)
    if not arrays or len(arrays[0]) < 6:
        raise ValueError(f"has the segmentation {show(polygons)}, no polygon of three points")
    parts = frPyObjects([each.tolist() for each in arrays], height, width)
    return merge(parts)["counts"].decode()


def read_polygon(polygon: Any) -> np.ndarray:
    """Read a polygon, float64 (2 n,): x0, y0, x1, y1 ...; its points may be too few.

    Raises:
        ValueError: it has something else than numbers, or they lie so far off that pycocotools
            would take gigabytes; the text tells how, to stand after its owner.
    """
    listed = isinstance(polygon, list | tuple | np.ndarray)
    plain = listed and {*map(type, polygon)} <= {int, float}  # many times as fast to tell
    if not listed or not (plain or all(isinstance(each, numbers.Real) for each in polygon)):
        raise ValueError(f"has {show(polygon)} in its segmentation; write {FORMS}")
    points = np.array(polygon, np.float64)
    even = points[: len(points) // 2 * 2].reshape(-1, 2)
    if not (np.abs(points) <= _FARTHEST).all():
        far = points[np.abs(points).argmax()].item()
        raise ValueError(f"has a polygon with the number {far}; write pixels of its image")
    steps = np.abs(even - np.roll(even, 1, axis=0)).max(axis=1, initial=0)
    if steps.sum() > _LONGEST_OUTLINE:
        raise ValueError(
            f"has a polygon whose outline is {steps.sum():.0f} pixels long; write the outline of "
            "one object, with a point where it turns"
        )
    return points
