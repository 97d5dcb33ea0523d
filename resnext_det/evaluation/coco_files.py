"""COCO annotations and results, read, checked, and brought into one plain form for every backend.

What pycocotools passes over or stumbles upon (unknown ids, numbers that are not finite, missing
fields, an empty list) is decided here, with an error that names the entry.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from resnext_det.data.annotations.coco_entries import (
    LARGEST,
    Box,
    Identity,
    Number,
    convert_box,
    convert_id,
    is_number,
)
from resnext_det.data.annotations.coco_json import read_annotations
from resnext_det.data.annotations.json_files import decode_entries, read_text, split_table
from resnext_det.files import escape_controls, list_first, show

logger = logging.getLogger(__name__)

Source = str | Path | Mapping[str, Any]


@dataclass(frozen=True)
class GroundTruth:
    """Hold annotations whose images and categories are numbered from 0 by their sorted ids.

    ``boxes`` has the shape (N, 4) as x, y, w, h, the other arrays (N,); ``id_is_zero`` tells which
    annotations have the id 0. ``sizes`` are heights and widths (M, 2) of the images, 0 where the
    file does not say them; ``file_names`` are those of the images, "" likewise.
    """

    name: str
    image_ids: list[Any]
    category_ids: list[Any]
    class_names: tuple[str, ...]
    id_is_zero: np.ndarray
    images: np.ndarray
    categories: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    sizes: np.ndarray
    file_names: Sequence[str] = ()

    def select(self, chosen: np.ndarray) -> GroundTruth:
        """Select some of the annotations by a mask or numbers; the images stay."""
        columns = ("id_is_zero", "images", "categories", "boxes", "areas", "crowd")
        return replace(self, **{name: getattr(self, name)[chosen] for name in columns})


@dataclass(frozen=True)
class Detections:
    """Hold results in the numbering of their ground truth.

    ``boxes`` has the shape (N, 4) as x, y, w, h, the other arrays (N,).
    """

    images: np.ndarray
    categories: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray

    def select(self, chosen: np.ndarray) -> Detections:
        """Select some of the results by a mask or numbers."""
        columns = (self.images, self.categories, self.boxes, self.scores)
        return Detections(*(column[chosen] for column in columns))


class _Result(msgspec.Struct, gc=False):
    """Hold an entry of a result file; resnext-det predict adds the name of the image's file."""

    image_id: Identity
    category_id: Identity
    bbox: Box
    score: Number  # msgspec 0.19 fails on integers that float64 cannot hold
    file_name: Any = None


def read_ground_truth(source: Source) -> GroundTruth:
    """Check and number the annotations of a COCO file (a path) or of the dict read from one.

    What is refused here training refuses too, by the same sentence. Images may lack file names and
    sizes here. A missing ``iscrowd`` is 0 and a missing ``area`` that of the box. Annotations of
    images or categories that the file does not list are left out with a warning, as pycocotools
    leaves them out in silence.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not of COCO's form; the text names the entry.
    """
    if isinstance(source, Mapping):
        name, table = "annotations", read_annotations(source, "annotations", strict=False)
    else:
        name = str(source)
        table = read_annotations(Path(source), f"annotation file {source}", strict=False)
    truth = GroundTruth(
        name=name,
        image_ids=table.image_ids,
        category_ids=list(table.names),
        class_names=tuple(table.names.values()),
        id_is_zero=table.ids == 0,
        images=table.images,
        categories=table.categories,
        boxes=table.boxes,
        areas=table.areas,
        crowd=table.crowds.astype(np.int64),
        sizes=table.sizes,
        file_names=table.file_names,
    )
    return _drop_strays(truth)


def read_detections(
    source: str | Path | Sequence[Mapping[str, Any]], truth: GroundTruth
) -> Detections:
    """Check and number COCO results: a path or a list of dicts, see ``evaluate_coco``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not of COCO's form, or an id is unknown; the text names the entry.
    """
    name, data = "results", source
    if isinstance(source, str | Path):
        name = f"result file {source}"
        data = split_table(read_text(Path(source), name), list, name)
    if not isinstance(data, Sequence) or isinstance(data, str):
        swapped = isinstance(data, Mapping) and "annotations" in data
        remedy = "that is an annotation file: give the annotations first and the results second"
        raise ValueError(
            f"{name} holds a {type(data).__name__} where COCO results are a list of dicts; "
            + (remedy if swapped else "give a list of {image_id, category_id, bbox, score}")
        )
    image_ids: list[Any] = []
    category_ids: list[Any] = []
    file_names: list[Any] = []
    boxes, scores = [np.empty((0, 4))], [np.empty(0)]
    for batch in _decode_results(data, name):
        image_ids += [entry.image_id for entry in batch]
        file_names += [entry.file_name for entry in batch]
        category_ids += [entry.category_id for entry in batch]
        boxes.append(np.array([entry.bbox for entry in batch], np.float64))
        scores.append(np.array([entry.score for entry in batch], np.float64))
    images = _find_positions(image_ids, truth.image_ids)
    if (images < 0).any():
        unknown = [image_ids[i] for i in np.flatnonzero(images < 0)]
        raise ValueError(_explain_unknown_images(unknown, len(data), name, truth))
    _check_file_names(file_names, images, name, truth)
    categories = _find_positions(category_ids, truth.category_ids)
    if (categories < 0).any():
        index = int(np.flatnonzero(categories < 0)[0])
        raise ValueError(_explain_unknown_category(category_ids[index], index, name, truth))
    return Detections(images, categories, np.concatenate(boxes), np.concatenate(scores))


def find_images(image_ids: Iterable[Any], truth: GroundTruth) -> np.ndarray:
    """Find the numbers of some image ids, ascending; a ValueError names an unknown one."""
    chosen = list(image_ids)
    positions = _find_positions(chosen, truth.image_ids)
    if (positions < 0).any():
        unknown = chosen[int(np.flatnonzero(positions < 0)[0])]
        raise ValueError(
            f"image_ids holds {unknown!r}, which {truth.name} does not list "
            f"({_list_examples(truth.image_ids)}); give ids of its images"
        )
    return np.unique(positions)


def _decode_results(data: Sequence[Any], name: str) -> Iterator[list[_Result]]:
    """Decode results from a file, or convert those of a list: at once where all are plain."""
    if data and not isinstance(data[0], msgspec.Raw):
        with contextlib.suppress(msgspec.ValidationError):
            results = msgspec.convert(data, list[_Result])
            if np.isfinite([(*result.bbox, result.score) for result in results]).all():
                yield results
                return
    yield from decode_entries(data, _Result, partial(_check_result, name), "the list", name)


def _check_result(name: str, entry: Mapping[str, Any], index: int) -> _Result:
    """Convert an entry of results that JSON's types do not fit, or raise ValueError."""
    values: dict[str, Any] = {}
    for key, (convert, wanted) in _RESULT.items():
        if key not in entry:
            fault = f"lacks {key!r}; it has {list_first(map(str, entry), 10)}"
        else:
            values[key] = convert(entry[key])
            fault = f"has {key} {show(entry[key])}; it has to be {wanted}"
        if values.get(key) is None:
            raise ValueError(escape_controls(f"entry {index} of {name} {fault}"))
    return _Result(**values)


def _convert_finite_box(value: Any) -> Box | None:
    box = convert_box(value)
    return box if box is not None and all(map(math.isfinite, box)) else None


def _convert_score(value: Any) -> float | None:
    return float(value) if is_number(value) and abs(value) <= LARGEST else None


_RESULT: dict[str, tuple[Callable[[Any], Any], str]] = {
    "image_id": (convert_id, "an integer"),
    "category_id": (convert_id, "an integer"),
    "bbox": (_convert_finite_box, "four finite numbers: x, y, width, height"),
    "score": (_convert_score, "a finite number"),
}


def _find_positions(ids: Sequence[Any], known: Sequence[Any]) -> np.ndarray:
    """Find the position of every id among the known ones, -1 where it is not among them."""
    lookup = {value: position for position, value in enumerate(known)}
    return np.array([lookup.get(value, -1) for value in ids], np.int64)


def _drop_strays(truth: GroundTruth) -> GroundTruth:
    """Leave out annotations of unknown images and categories, with a warning."""
    known = (truth.images >= 0) & (truth.categories >= 0)
    if known.all():
        return truth
    logger.warning(
        "%s: %d of %d annotations belong to images or categories that it does not list; they are "
        "left out.",
        truth.name,
        len(known) - known.sum(),
        len(known),
    )
    return truth.select(known)


def _list_examples(ids: Sequence[Any]) -> str:
    examples = ", ".join(map(repr, ids[:3]))
    return f"it lists {len(ids)}, such as {examples}" if ids else "it lists none"


def _check_file_names(
    file_names: Sequence[Any], images: np.ndarray, name: str, truth: GroundTruth
) -> None:
    """Refuse results that say the files of other images than those that have their ids."""
    pairs = [
        (index, said, truth.file_names[image])
        for index, (said, image) in enumerate(zip(file_names, images, strict=True))
        if isinstance(said, str) and truth.file_names and truth.file_names[image]
    ]
    others = [pair for pair in pairs if Path(pair[1]).stem != Path(pair[2]).stem]
    if 2 * len(others) > len(pairs):  # a few may be links to files of other names
        index, said, known = others[0]
        raise ValueError(
            f"entry {index} of {name} is of the file {said}, but its image_id is that of {known} "
            f"in {truth.name} (so it is for {len(others)} of {len(pairs)} entries): the ids are "
            "not those of these annotations; give them to resnext-det predict by --register-coco"
        )


def _explain_unknown_images(unknown: list[Any], number: int, name: str, truth: GroundTruth) -> str:
    listed = {type(i) for i in truth.image_ids}
    if type(unknown[0]) not in listed and str(unknown[0]) in map(str, truth.image_ids):
        remedy = f"write image ids as {next(iter(listed)).__name__}, as the annotations do"
    elif len(unknown) == number:
        remedy = "the two files are of different data sets: give the annotations of these results"
    else:
        remedy = "the annotations seem to be a part of the set: give the whole, or fewer results"
    return (
        f"{name}: image id {unknown[0]!r} is not in {truth.name} "
        f"({_list_examples(truth.image_ids)}); so it is for {len(unknown)} of {number} results; "
        f"{remedy}"
    )


def _explain_unknown_category(category: Any, index: int, name: str, truth: GroundTruth) -> str:
    if isinstance(category, int) and 0 <= category < len(truth.category_ids):
        remedy = (
            "the results seem to count classes from 0: write the ids of the annotation file, as "
            "resnext-det predict does with --register-coco"
        )
    else:
        remedy = "write ids of the annotation file, or give that of the detector's own classes"
    return (
        f"entry {index} of {name} has category_id {category!r}, which {truth.name} does not list "
        f"({_list_examples(truth.category_ids)}); {remedy}"
    )
