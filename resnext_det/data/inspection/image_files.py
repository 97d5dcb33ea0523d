"""Check image files against the records of a dataset: a sample of headers, or every pixel."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from PIL import Image
from tqdm import tqdm

from resnext_det.data.reading import (
    RECORD_REMEDY,
    check_mode,
    decode_image,
    explain_size,
    explain_unreadable,
    is_16_bit,
    is_turned,
    open_image,
    read_image,
)
from resnext_det.data.records import Record

logger = logging.getLogger(__name__)

_MOST_HEADERS = 1000
_SECONDS = 2.0  # for the headers of a set
_MOST_DEEP = 4  # images of 16 bits that are decoded
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}  # what stands near the end of a whole file
_END_SIZE = 1024  # bytes that it is looked for in

_UNREADABLE, _OTHER_SIZE, _UNTURNED_BOXES = range(3)
_WORDS = ("cannot be read", "are of another size than annotated", "have boxes of unturned pixels")


@dataclass
class _Findings:
    """Collect what is found in images.

    Attributes:
        faults: for each kind, the indices of the records and the explanations.
        turned: indices of images that the EXIF orientation turns, of the annotated size.
        upright: whether a box of such an image can only be one of the upright image.
        deep: files of 16 bits.
    """

    faults: tuple[dict[int, str], ...] = field(default_factory=lambda: ({}, {}, {}))
    turned: list[int] = field(default_factory=list)
    upright: bool = False
    deep: list[str] = field(default_factory=list)


def check_images(records: Sequence[Record], source: str, *, everything: bool = False) -> list[str]:
    """Check that image files are readable, whole and of the annotated size.

    Without ``everything`` the headers and the last bytes of some files are read, evenly chosen, for
    two seconds at most. Images of 16 bits are looked at for values of 12 bits, and images that
    their EXIF orientation turns for boxes of the unturned pixels; both may be warned of.

    Args:
        records: of files that exist.
        source: begins a warning.
        everything: decode every image.

    Returns:
        a sentence for each kind of fault: the count, the first example and the remedy.
    """
    found = _Findings()
    if everything:
        checked = len(records)
        _decode_all(records, found)
    else:
        checked = _check_some(records, found)
    for path in sorted(found.deep)[:_MOST_DEEP]:
        if path not in found.faults[_UNREADABLE].values():
            _read_quietly(path)
    if found.upright:  # so the others are careless
        found.faults[_UNTURNED_BOXES].clear()
    elif found.turned and not found.faults[_UNTURNED_BOXES]:
        logger.warning(
            "%s: %d of %d images looked at are turned upright by their EXIF orientation, the first "
            "is %s, and no box tells whether it belongs to the upright image, as it has to: look "
            "at some boxes",
            *(source, len(found.turned), checked, records[min(found.turned)]["file_name"]),
        )
    sentences = []
    for kind, explanations in enumerate(found.faults):
        if explanations:
            first = explanations[min(explanations)]
            sentences.append(
                f"{len(explanations)} of {checked} images looked at {_WORDS[kind]}: {first}"
            )
    return sentences


def _check_some(records: Sequence[Record], found: _Findings) -> int:
    """Check images evenly chosen until the time is over; return their number."""
    checked = 0
    for index in choose_evenly(len(records), _MOST_HEADERS, _SECONDS):
        _check_image(index, records[index], found)
        checked += 1
    return checked


def choose_evenly(count: int, most: int, seconds: float) -> Iterator[int]:
    """Choose numbers below ``count``, evenly spread, ``most`` of them, until the time is over.

    Their order is random, the same every time, so that those that are reached are spread evenly
    too.
    """
    chosen = np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))
    end = time.monotonic() + seconds
    for index in np.random.RandomState(0).permutation(chosen).tolist():
        if time.monotonic() > end:
            return
        yield index


def _check_image(index: int, record: Record, found: _Findings, *, decode: bool = False) -> None:
    path = record["file_name"]
    try:
        with open(path, "rb") as file:
            with open_image(file) as image:
                check_mode(image, image.format)
                turned, size = is_turned(image), image.size
                if is_16_bit(image, image.format):
                    found.deep.append(path)
                whole = _has_end(image, file)
            if decode or not whole:
                file.seek(0)
                decode_image(file, "RGB", upright=True)
    except (OSError, ValueError) as error:
        found.faults[_UNREADABLE][index] = explain_unreadable(path, error, RECORD_REMEDY)
        return
    width, height = size[::-1] if turned else size
    if (width, height) != (record["width"], record["height"]):
        text = explain_size(record, width, height, turned=turned)
        found.faults[_OTHER_SIZE][index] = text
    elif turned:
        _check_turned(index, record, found)


def _has_end(image: Image.Image, file: BinaryIO) -> bool:
    """Tell whether a file ends as its format does, for formats whose end is known."""
    end = _ENDS.get(image.format or "", b"")
    file.seek(-min(_END_SIZE, file.seek(0, os.SEEK_END)), os.SEEK_END)
    return end in file.read()


def _check_turned(index: int, record: Record, found: _Findings) -> None:
    """Look where the boxes lie of an image that is turned upright: in it, or in what is stored."""
    found.turned.append(index)
    boxes = np.array([a["bbox"] for a in record["annotations"]], np.float64).reshape(-1, 4)
    ends = boxes[:, :2] + boxes[:, 2:]
    upright = np.array([record["width"], record["height"]])
    inside, inside_stored = ((ends <= size + 1).all(axis=1) for size in (upright, upright[::-1]))
    found.upright |= bool((inside & ~inside_stored).any())
    wrong = inside_stored & ~inside
    if wrong.any():
        box = boxes[int(wrong.argmax())].tolist()
        found.faults[_UNTURNED_BOXES][index] = (
            f"image {record['file_name']} is {upright[0]} x {upright[1]} pixels upright after its "
            f"EXIF orientation, and box {box} reaches beyond it, but lies within the stored "
            f"{upright[1]} x {upright[0]}: exchange 'width' and 'height' in the annotations, and "
            "remove the orientation from the image files (as does exiftool -Orientation= FOLDER), "
            "or export the annotations anew by a program that turns images upright"
        )


def _decode_all(records: Sequence[Record], found: _Findings) -> None:
    def check(index: int) -> None:
        _check_image(index, records[index], found, decode=True)

    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        with warnings.catch_warnings():  # what one thread lets through reaches them all
            warnings.simplefilter("ignore")
            every = pool.map(check, range(len(records)))
            for _ in tqdm(every, "checking", len(records), unit="image", disable=None, leave=False):
                pass
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the others


def _read_quietly(path: str) -> None:
    """Decode an image, which warns where it is darker than its format."""
    try:
        read_image(path, "L")
    except (OSError, ValueError) as error:
        logger.debug("%s", error)
