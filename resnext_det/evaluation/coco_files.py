"""Reads COCO annotations and results, checks them, and brings them into one plain form for every backend.

What pycocotools passes over or stumbles upon (unknown ids, numbers that are not finite, missing fields, an
empty list) is decided here, with an error that names the entry.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

Source = str | Path | Mapping[str, Any]


@dataclass(frozen=True)
class GroundTruth:
    """Annotations with images and categories numbered from 0 in the order of their sorted ids.

    ``boxes`` is of shape (N, 4) as x, y, w, h, the other arrays (N,); ``id_is_zero`` is of annotation ids.
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


@dataclass(frozen=True)
class Detections:
    """Results in the numbering of their ground truth: ``boxes`` (N, 4) as x, y, w, h, the others (N,)."""

    images: np.ndarray
    categories: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


def read_json(path: str | Path, what: str) -> Any:
    """The content of a JSON file; an error says what is wrong, with line and column."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{what} file {path} does not exist; give the path of a JSON file"
        ) from None
    except IsADirectoryError:
        raise ValueError(f"{what} file {path} is a folder; give the path of a JSON file") from None
    except UnicodeDecodeError:
        raise ValueError(
            f"{what} file {path} is not text; give a JSON file in COCO's form"
        ) from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ValueError(
            f"{what} file {path} is not JSON at {place}: {error.msg}; it may be cut off, write it again"
        ) from None


def read_ground_truth(source: Source) -> GroundTruth:
    """Check and number the annotations of a COCO file (a path) or of what was read from one (a dict).

    A missing ``iscrowd`` is 0 and a missing ``area`` is that of the box. Annotations of images or categories
    that the file does not list are left out with a warning, as pycocotools leaves them out in silence.
    """
    name = "annotations" if isinstance(source, Mapping) else str(source)
    data = source if isinstance(source, Mapping) else read_json(source, "annotation")
    if isinstance(data, list):
        raise ValueError(
            f"{name} holds a list where COCO annotations are a dict with images, annotations and categories; "
            "give the annotations first and the results second"
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, Mapping) or not isinstance(data.get(key), list):
            raise ValueError(
                f"{name} has no list {key!r}; give a file of COCO instance annotations"
            )
    image_ids = _sorted_ids(data["images"], "image", name)
    category_ids = _sorted_ids(data["categories"], "category", name)
    if not category_ids:
        raise ValueError(f"{name} lists no category; give a file of COCO instance annotations")
    names = {
        category["id"]: str(category.get("name", category["id"])) for category in data["categories"]
    }
    entries = data["annotations"]
    listed = f"annotations of {name}"
    ids = _column(entries, "id", listed)
    if len(set(ids)) < len(ids):
        if (
            "minival" not in name
        ):  # COCO's own minival files repeat ids, which detectron2 tolerates there too
            raise ValueError(
                f"{name} gives one id to several annotations; number them from 1, each once"
            )
        logger.warning(
            "%s gives one id to several annotations; each is evaluated as an object of its own",
            name,
        )
    boxes = _numbers(_column(entries, "bbox", listed), (len(entries), 4), "bbox", listed)
    areas = np.array([entry.get("area", np.nan) for entry in entries], np.float64)
    truth = GroundTruth(
        name=name,
        image_ids=image_ids,
        category_ids=category_ids,
        class_names=tuple(names[i] for i in category_ids),
        id_is_zero=np.array([value == 0 for value in ids], bool),
        images=_positions(_column(entries, "image_id", listed), image_ids),
        categories=_positions(_column(entries, "category_id", listed), category_ids),
        boxes=boxes,
        areas=np.where(np.isnan(areas), boxes[:, 2] * boxes[:, 3], areas),
        crowd=np.array([bool(entry.get("iscrowd", 0)) for entry in entries], np.int64),
    )
    return _without_strays(truth)


def read_detections(
    source: str | Path | Sequence[Mapping[str, Any]], truth: GroundTruth
) -> Detections:
    """Check and number COCO results: a path or a list of dicts; ``evaluate_coco`` says what is refused."""
    name = str(source) if isinstance(source, str | Path) else "results"
    data: Any = read_json(source, "result") if isinstance(source, str | Path) else source
    if not isinstance(data, Sequence) or isinstance(data, str):
        swapped = isinstance(data, Mapping) and "annotations" in data
        remedy = "that is an annotation file: give the annotations first and the results second"
        raise ValueError(
            f"{name} holds a {type(data).__name__} where COCO results are a list of dicts; "
            + (remedy if swapped else "give a list of {image_id, category_id, bbox, score}")
        )
    boxes = _numbers(_column(data, "bbox", name), (len(data), 4), "bbox", name)
    scores = _numbers(_column(data, "score", name), (len(data),), "score", name)
    image_ids, category_ids = _column(data, "image_id", name), _column(data, "category_id", name)
    images = _positions(image_ids, truth.image_ids)
    if (images < 0).any():
        unknown = [image_ids[i] for i in np.flatnonzero(images < 0)]
        raise ValueError(_unknown_image(unknown, len(data), name, truth))
    categories = _positions(category_ids, truth.category_ids)
    if (categories < 0).any():
        index = int(np.flatnonzero(categories < 0)[0])
        raise ValueError(_unknown_category(category_ids[index], index, name, truth))
    return Detections(images, categories, boxes, scores)


def positions_of_images(image_ids: Iterable[Any], truth: GroundTruth) -> np.ndarray:
    """The numbers of some image ids in ascending order; ValueError where one is unknown."""
    chosen = list(image_ids)
    positions = _positions(chosen, truth.image_ids)
    if (positions < 0).any():
        unknown = chosen[int(np.flatnonzero(positions < 0)[0])]
        known = _examples(truth.image_ids)
        raise ValueError(f"image_ids holds {unknown!r}, which {truth.name} does not list ({known})")
    return np.unique(positions)


def _sorted_ids(entries: Sequence[Mapping[str, Any]], kind: str, name: str) -> list[Any]:
    ids = _column(entries, "id", f"the {kind} list of {name}")
    if len(set(ids)) < len(ids):
        raise ValueError(f"{name} lists one {kind} id several times; list every {kind} once")
    try:
        return sorted(ids)
    except TypeError:
        raise ValueError(
            f"{name} mixes {kind} ids of several types; write all as integers"
        ) from None


def _column(entries: Sequence[Any], key: str, name: str) -> list[Any]:
    """One value of every entry; ValueError names the first entry that has none."""
    try:
        return [entry[key] for entry in entries]
    except (KeyError, TypeError, IndexError):
        pass
    for index, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise ValueError(
                f"entry {index} of {name} is {entry!r}; it has to be a dict with {key!r}"
            )
        if key not in entry:
            raise ValueError(
                f"entry {index} of {name} lacks {key!r}; it has {', '.join(map(str, entry))}"
            )
    raise AssertionError(f"{key} of {name}")


def _positions(ids: Sequence[Any], known: Sequence[Any]) -> np.ndarray:
    """The position of every id among the known ones, -1 where it is not among them."""
    lookup = {value: position for position, value in enumerate(known)}
    return np.array([lookup.get(value, -1) for value in ids], np.int64)


def _numbers(values: Sequence[Any], shape: tuple[int, ...], key: str, name: str) -> np.ndarray:
    """The values as float64 of a shape; ValueError names the first entry that is of another or not finite."""
    wanted = "a finite number" if len(shape) == 1 else "four finite numbers: x, y, width, height"
    try:
        array = (
            np.array(values, np.float64).reshape(-1, *shape[1:])
            if not values
            else np.array(values, np.float64)
        )
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.shape == shape and np.isfinite(array).all():
        return array
    for index, value in enumerate(values):
        try:
            single = np.asarray(value, np.float64)
        except (TypeError, ValueError):
            single = np.full(shape[1:], np.nan)
        if single.shape != shape[1:] or not np.isfinite(single).all():
            raise ValueError(f"entry {index} of {name} has {key} {value!r}; it has to be {wanted}")
    raise AssertionError(f"{key} of {name}: shape {array.shape} for {shape}")


def _without_strays(truth: GroundTruth) -> GroundTruth:
    known = (truth.images >= 0) & (truth.categories >= 0)
    if known.all():
        return truth
    logger.warning(
        "%s: %d of %d annotations belong to images or categories that it does not list; they are left out",
        truth.name,
        len(known) - known.sum(),
        len(known),
    )
    fields = ("id_is_zero", "images", "categories", "boxes", "areas", "crowd")
    return GroundTruth(
        **{**vars(truth), **{field: getattr(truth, field)[known] for field in fields}}
    )


def _examples(ids: Sequence[Any]) -> str:
    return (
        f"it lists {len(ids)}, such as {', '.join(repr(i) for i in ids[:3])}"
        if ids
        else "it lists none"
    )


def _unknown_image(unknown: Sequence[Any], number: int, name: str, truth: GroundTruth) -> str:
    listed = {type(i) for i in truth.image_ids}
    if type(unknown[0]) not in listed and str(unknown[0]) in {str(i) for i in truth.image_ids}:
        remedy = f"write image ids as {next(iter(listed)).__name__}, as the annotations do"
    elif len(unknown) == number:
        remedy = "the two files are of different data sets: check which annotation file the results belong to"
    else:
        remedy = "the annotations seem to be a part of the set: give the whole, or the results of that part"
    return (
        f"{name}: image id {unknown[0]!r} is not in {truth.name} ({_examples(truth.image_ids)}); "
        f"so it is for {len(unknown)} of {number} results; {remedy}"
    )


def _unknown_category(category: Any, index: int, name: str, truth: GroundTruth) -> str:
    contiguous = isinstance(category, int) and 0 <= category < len(truth.category_ids)
    remedy = (
        "the results seem to count classes from 0: write the ids of the annotation file"
        if contiguous
        else "write the category ids of the annotation file, or give that of the detector's own classes"
    )
    return (
        f"entry {index} of {name} has category_id {category!r}, which {truth.name} does not list "
        f"({_examples(truth.category_ids)}); {remedy}"
    )
