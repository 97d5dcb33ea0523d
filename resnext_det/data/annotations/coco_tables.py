"""Read the tables of a COCO file into columns, and check them against one another."""

from __future__ import annotations

import contextlib
import logging
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np

from resnext_det.data.annotations.coco_entries import Annotation, Category, Checker, Image
from resnext_det.data.annotations.json_files import Entry, decode_entries
from resnext_det.data.annotations.segmentations import NOTHING, TOO_FEW_POINTS
from resnext_det.data.inspection.box_forms import find_fitting_form
from resnext_det.data.records import Segmentations
from resnext_det.files import escape_controls, list_first, show

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnnotationTable:
    """Hold the contents of an annotations file in columns.

    Images and categories are numbered from 0 in ascending order of their ids. ``file_names`` are
    empty and ``sizes`` (M, 2), height and width, are 0 where the file does not say them.

    Of the N annotations, in the order of the file, there are ``ids`` (N,); ``images`` (N,) and
    ``categories`` (N,), -1 where the file lists no such one; ``boxes`` (N, 4), float64, as x, y,
    width, height in pixels, and ``whole`` (N,), whether the file gives four integers; ``areas``
    (N,), of the box where the file has none; ``crowds`` (N,); ``masked`` (N,), false where there
    are polygons of under 3 points only; and, where masks are asked for, ``segmentations``.
    """

    names: dict[int | str, str]
    image_ids: list[int | str]
    file_names: list[str]
    sizes: np.ndarray
    ids: np.ndarray
    images: np.ndarray
    categories: np.ndarray
    boxes: np.ndarray
    whole: np.ndarray
    areas: np.ndarray
    crowds: np.ndarray
    masked: np.ndarray
    segmentations: Segmentations | None = None


class TableReader:
    """Read the tables of annotations.

    Args:
        content: the tables by name, of ``split_table`` or decoded.
        source: begins every message.
        tolerant: let annotation ids repeat and images be missing, as detectron2 does; COCO 2014's
            minival and valminusminival are known for it.
        with_masks: read the segmentations too.
    """

    def __init__(
        self, content: Any, source: str, tolerant: bool = False, with_masks: bool = False
    ) -> None:
        self._checker = Checker(source, with_masks)
        self._source = source
        self._tolerant = tolerant
        if not isinstance(content, Mapping):
            raise self._checker.error(
                f"it holds a {type(content).__name__}, not an object; give annotations in COCO's "
                "format"
            )
        self._content = content

    def read_categories(self) -> dict[int | str, str]:
        """Read the categories alone: names by id, in ascending order of id."""
        names: dict[int | str, str] = {}
        by_look: dict[str, int | str] = {}
        entries = self._read_table("categories")
        for category in self._decode("categories", entries, Category, self._checker.check_category):
            # Names that look the same are the same, whatever their spaces and their form in
            # Unicode: in tables and pictures nobody can tell them apart.
            look = unicodedata.normalize("NFC", " ".join(category.name.split()))
            if not look:
                raise self._checker.error(
                    f"category {category.id} has the name {category.name!r}; write a name"
                )
            if category.id in names:
                raise self._checker.error(
                    f"category id {show(category.id)} occurs twice; give each category its own id"
                )
            if look in by_look:
                raise self._checker.error(
                    f"categories {show(by_look[look])} and {show(category.id)} have one name, "
                    f"{look!r}; give them different names, or remove one and give its annotations "
                    "the category_id of the other"
                )
            names[category.id], by_look[look] = look, category.id
        return {identity: names[identity] for identity in self._sort_ids(names, "category")}

    def read(self, *, strict: bool) -> AnnotationTable:
        """Read all tables; see ``read_annotations``."""
        names = self.read_categories()
        image_ids, file_names, sizes = self._read_images(strict)
        columns = self._read_columns(image_ids, list(names), sizes, strict)
        table = AnnotationTable(names, image_ids, file_names, sizes, **columns)
        self._check_ids(table.ids)
        self._check_boxes(table)
        return replace(table, areas=self._complete_areas(table))

    def _read_images(self, strict: bool) -> tuple[list[int | str], list[str], np.ndarray]:
        """Read the images: ids in ascending order, with file names and sizes (M, 2)."""
        places: dict[int | str, int] = {}
        names: list[str] = []
        sizes: list[int] = []
        entries = self._read_table("images")
        for image in self._decode("images", entries, Image, self._checker.check_image):
            if image.id in places:
                raise self._checker.error(
                    f"image id {show(image.id)} occurs twice; give each image its own id"
                )
            if image.file_name is None and image.coco_url is not None:  # LVIS v1: folder and file
                image.file_name = "/".join(image.coco_url.split("/")[-2:])
            for key in ("height", "width", "file_name") if strict else ():
                if getattr(image, key) is None:
                    raise self._checker.error(f"image {image.id} lacks {key!r}; write it")
            places[image.id] = len(names)
            names.append(image.file_name or "")
            sizes += (image.height or 0, image.width or 0)
        image_ids = self._sort_ids(places, "image")
        order = [places[identity] for identity in image_ids]
        return image_ids, [names[i] for i in order], np.array(sizes).reshape(-1, 2)[order]

    def _read_columns(
        self,
        image_ids: list[int | str],
        category_ids: list[int | str],
        sizes: np.ndarray,
        strict: bool,
    ) -> dict[str, Any]:
        """Read the annotations into the columns of ``AnnotationTable``."""
        image_numbers = {identity: number for number, identity in enumerate(image_ids)}
        class_numbers = {identity: number for number, identity in enumerate(category_ids)}
        entries = self._read_table("annotations")
        check, has_mask = self._checker.check_annotation, self._checker.has_mask
        masks = None
        if self._checker.with_masks:
            masks = _MaskReader(self._checker, image_numbers, sizes)
            has_mask = masks.read
        batches: list[tuple[np.ndarray, ...]] = [_make_columns([], {}, {}, has_mask)]
        for batch in decode_entries(entries, Annotation, check, "'annotations'", self._source):
            made = _make_columns(batch, image_numbers, class_numbers, has_mask)
            if strict:
                self._refuse_strays(batch, made[1], made[2], category_ids)
            batches.append(made)
        names = ("ids", "images", "categories", "boxes", "whole", "areas", "crowds", "masked")
        columns: dict[str, Any] = dict(zip(names, map(np.concatenate, zip(*batches)), strict=True))
        return columns if masks is None else columns | {"segmentations": masks.finish()}

    def _refuse_strays(
        self,
        batch: Sequence[Annotation],
        images: np.ndarray,
        categories: np.ndarray,
        category_ids: list[int | str],
    ) -> None:
        if (images < 0).any() and not self._tolerant:
            stray = batch[int((images < 0).argmax())]
            raise self._checker.error(
                f"annotation {stray.id}: image_id {show(stray.image_id)} is no image's id; give "
                "each annotation a listed image"
            )
        if (categories < 0).any():
            stray = batch[int((categories < 0).argmax())]
            raise self._checker.error(
                f"annotation {stray.id}: category_id {show(stray.category_id)} is no category's "
                f"id; add it to 'categories' (now {list_first(map(str, category_ids), 20)}) or "
                "correct it"
            )

    def _check_ids(self, ids: np.ndarray) -> None:
        values, counts = np.unique(ids, return_counts=True)
        repeated = len(ids) - len(values)
        if repeated and not self._tolerant:
            raise self._checker.error(
                f"annotation {values[int((counts > 1).argmax())]}: its id occurs twice, and "
                f"{repeated} of {len(ids)} annotations repeat an id; number them from 1, each once"
            )
        warn_of(self._source, repeated, "annotations repeat an id; they are kept")

    def _check_boxes(self, table: AnnotationTable) -> None:
        boxes = table.boxes
        size = np.where(table.images[:, None] < 0, 0, table.sizes[table.images, ::-1])
        low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        outside = ((low > size) | (high < 0)).any(axis=1) & (size > 0).all(axis=1)
        faults = {
            "is not finite": ~np.isfinite(boxes).all(axis=1),
            "has a negative side": (boxes[:, 2:] < 0).any(axis=1),
            "lies wholly outside": outside,
        }
        for fault, where in faults.items():
            if where.any():
                first = int(where.argmax())
                others = f" (and so do {where.sum() - 1} others)" if where.sum() > 1 else ""
                image = int(table.images[first])
                owner = "no listed one" if image < 0 else show(table.image_ids[image])
                if (size[first] > 0).all():
                    width, height = size[first].tolist()
                    owner += f" ({table.file_names[image]}) is {width} x {height}"
                remedy = "correct it or remove the annotation"
                form = find_fitting_form(boxes, size) if where is outside else None
                if form is not None:
                    remedy = f"all fit as {form.name}: write every bbox as {form.right}"
                raise self._checker.error(
                    f"annotation {table.ids[first]}: bbox {boxes[first].tolist()} {fault}{others}; "
                    f"its image {owner}; boxes are [x, y, width, height] in pixels: {remedy}"
                )

    def _complete_areas(self, table: AnnotationTable) -> np.ndarray:
        """Give annotations without an area that of their box; warn of areas of something else."""
        of_boxes = table.boxes[:, 2] * table.boxes[:, 3]
        given = ~np.isnan(table.areas)
        if given.any():
            usual, of_box = float(np.median(table.areas[given])), float(np.median(of_boxes[given]))
            if table.areas[given].max() <= 1 < of_box or usual > 2 * of_box:
                warn_of(
                    self._source,
                    int(given.sum()),
                    f"areas are about {usual:g}, while their boxes have about {of_box:g} square "
                    "pixels; APs, APm and APl follow the areas: correct them, or leave them out to "
                    "use those of the boxes",
                )
        return np.where(given, table.areas, of_boxes)

    def _read_table(self, key: str) -> Sequence[Any]:
        table = self._content.get(key)
        if isinstance(table, msgspec.Raw):
            with contextlib.suppress(msgspec.ValidationError):  # it is no list
                table = msgspec.json.decode(table, type=list[msgspec.Raw])
        if not isinstance(table, list | tuple):
            found = f"'{key}' is no list of objects"
            if key not in self._content:
                found = f"it has {list_first(map(str, self._content), 20) or 'nothing'}"
            raise self._checker.error(
                f"it is not in COCO's format: {found}; give lists named 'images', 'annotations' "
                "and 'categories'"
            )
        if not table and key != "annotations":
            raise self._checker.error(f"'{key}' is empty; list the {key} in it")
        return table

    def _decode(
        self,
        key: str,
        entries: Sequence[Any],
        kind: type[Entry],
        check: Callable[[Mapping[str, Any], int], Entry],
    ) -> Iterator[Entry]:
        for batch in decode_entries(entries, kind, check, f"'{key}'", self._source):
            yield from batch

    def _sort_ids(self, ids: Iterable[int | str], kind: str) -> list[int | str]:
        every = list(ids)
        texts = [identity for identity in every if isinstance(identity, str)]
        if 0 < len(texts) < len(every):
            integer = next(identity for identity in every if not isinstance(identity, str))
            raise self._checker.error(
                f"it mixes {kind} ids of several types, such as {show(texts[0])} and "
                f"{show(integer)}; write integers"
            )
        return sorted(every)


class _MaskReader:
    """Read the segmentations of annotations, one after another, into one text."""

    def __init__(
        self, checker: Checker, image_numbers: Mapping[int | str, int], sizes: np.ndarray
    ) -> None:
        self._checker = checker
        self._image_numbers = image_numbers
        self._sizes = sizes.tolist()
        self._texts = bytearray()
        self._ends = [0]
        self._broken: dict[int, ValueError] = {}  # by the annotation's id

    def read(self, annotation: Annotation) -> bool:
        """Read a segmentation; False where it has polygons of under 3 points only."""
        number = self._image_numbers.get(annotation.image_id)
        text = NOTHING
        if number is not None:
            try:
                text = self._checker.normalize_mask(annotation, *self._sizes[number])
            except ValueError as error:
                self._broken[annotation.id] = error
        self._texts += text
        self._ends.append(len(self._texts))
        return text != TOO_FEW_POINTS

    def finish(self) -> Segmentations:
        """Hand over what was read.

        Raises:
            ValueError: masks are broken; the text tells the first, and which others are.
        """
        if self._broken:
            (_, error), *others = self._broken.items()
            ids = list_first([str(identity) for identity, _ in others], 10)
            told = f" (the masks of these annotations are broken too: {ids})"
            raise ValueError(f"{error}{told if others else ''}")
        ends = np.array(self._ends)
        texts = np.frombuffer(self._texts, np.uint8)
        return Segmentations(texts, np.stack([ends[:-1], ends[1:]], axis=1))


def _make_columns(
    batch: Sequence[Annotation],
    image_numbers: Mapping[int | str, int],
    class_numbers: Mapping[int | str, int],
    has_mask: Callable[[Annotation], bool],
) -> tuple[np.ndarray, ...]:
    """Make the columns of some annotations; areas that are not given are nan."""
    ids = [entry.id for entry in batch]
    try:
        numbers = np.array(ids, np.int64)
    except OverflowError:
        numbers = np.array(ids, object)
    boxes = [entry.bbox for entry in batch]
    return (
        numbers,
        np.array([image_numbers.get(entry.image_id, -1) for entry in batch], np.int64),
        np.array([class_numbers.get(entry.category_id, -1) for entry in batch], np.int64),
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array([type(x) is type(y) is type(w) is type(h) is int for x, y, w, h in boxes], bool),
        np.array([np.nan if entry.area is None else entry.area for entry in batch], np.float64),
        np.array([entry.iscrowd for entry in batch], bool),
        np.array([has_mask(entry) for entry in batch], bool),
    )


def warn_of(source: str, count: int, message: str) -> None:
    """Warn of so many entries of a source; nothing is said of none."""
    if count:
        logger.warning("%s", escape_controls(f"{source}: {count} {message}"))
