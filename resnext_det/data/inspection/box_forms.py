"""Tell boxes that are not [x, y, width, height] in pixels by their numbers."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from resnext_det.data.records import SMALLEST_SIDE, Records

logger = logging.getLogger(__name__)

_TOLERANCE = 1.0  # pixels that a box may reach beyond the image
_FITTING = 0.995  # share of the boxes that have to fit into the image for another form to be meant
_SHARE_BEYOND = 0.05  # and of those that reach beyond it as they are
# Careless boxes, and whole objects of which a part is seen, reach beyond every edge alike.
_MANY, _SHARE_ONE_SIDED = 6, 0.4  # so many, and this share, do not by chance spare two edges
# Units that boxes may be given in, how far theirs reach at least in x and in y, and the sides of
# images that are so much larger that pixels would reach farther.
_UNITS = ((100, "percent", 80, 200), (1000, "thousandths", 950, 1200))
_LEAST_OF_UNIT = 20  # boxes
_DEPTH_BEYOND = 0.1  # by the median, in sides of the box: careless boxes reach less far


@dataclass(frozen=True)
class Form:
    """Describe a form of boxes that is not COCO's.

    Attributes:
        name: what the four numbers are.
        columns: those of x, y and then of x, y or width, height.
        is_corners: the last two are a corner.
        is_centered: the first two are the center.
        right: how COCO's numbers are computed.
    """

    name: str
    columns: tuple[int, int, int, int]
    is_corners: bool = False
    is_centered: bool = False
    right: str = "[x, y, width, height]"


_XYXY = "[x1, y1, x2 - x1, y2 - y1]"
_FORMS = (
    Form("corners [x1, y1, x2, y2]", (0, 1, 2, 3), is_corners=True, right=_XYXY),
    Form(
        "[center x, center y, width, height]",
        (0, 1, 2, 3),
        is_centered=True,
        right="[x - width / 2, y - height / 2, width, height]",
    ),
    Form("corners [y1, x1, y2, x2]", (1, 0, 3, 2), is_corners=True, right=_XYXY),
    Form(
        "[y, x, height, width]",
        (1, 0, 3, 2),
        right="[x, y, width, height], or exchange 'width' and 'height' of the images if these are "
        "of another size than their files",
    ),
)


@dataclass(frozen=True)
class BoxTable:
    """Hold every box of a dataset, with what is known of it.

    Attributes:
        boxes: (N, 4) float64, as annotated.
        sizes: (N, 2) float64, the width and height of the image.
        owners: (N,) int, index of the record.
        classes: (N,) int.
        crowds: (N,) bool.
        whole: (N,) bool, whether the file gives the box by four integers.
    """

    boxes: np.ndarray
    sizes: np.ndarray
    owners: np.ndarray
    classes: np.ndarray
    crowds: np.ndarray
    whole: np.ndarray


def collect_boxes(records: Records) -> BoxTable:
    """Collect every box of some records, in their order."""
    rows, owners = list_annotations(records)
    return BoxTable(
        records.boxes[rows],
        records.sizes[owners][:, ::-1].astype(np.float64),
        owners,
        records.categories[rows],
        records.crowds[rows],
        records.whole[rows],
    )


def list_annotations(records: Records) -> tuple[np.ndarray, np.ndarray]:
    """List the annotations of some records: their rows in the arrays, and the indices of images."""
    counts = records.spans[:, 1] - records.spans[:, 0]
    owners = np.repeat(np.arange(len(records)), counts)
    before = np.cumsum(counts) - counts
    return np.arange(len(owners)) + np.repeat(records.spans[:, 0] - before, counts), owners


def find_other_form(table: BoxTable, records: Records) -> str | None:
    """Say in a sentence that the boxes are in another form than COCO's; None if they are not.

    Boxes within 0 ... 1 are a share of the image. Boxes of another form are told by two things
    that boxes of COCO's form do not do together: many reach far beyond the image as they are,
    and read in the other form (nearly) all lie within it.
    """
    chosen = ~table.crowds
    boxes, sizes, owners = table.boxes[chosen], table.sizes[chosen], table.owners[chosen]
    if not len(boxes):
        return None
    if len(boxes) > 1 and (boxes[:, 2:] <= SMALLEST_SIDE).any(axis=1).all():
        return (
            f"all {len(boxes)} boxes have no area, the first is {boxes[0].tolist()}: nothing can "
            "be learned from them; write every bbox as [x, y, width, height] in pixels"
        )
    if boxes.max() <= 1 and boxes.min() >= 0 and sizes.max() > 1:
        form = find_fitting_form(boxes, np.ones_like(sizes), 0.01)
        seen = f" (they seem to be {form.name})" if form else ""
        return (
            f"all {len(boxes)} boxes lie within 0 ... 1, the first is {boxes[0].tolist()}: they "
            f"are shares of the image{seen}; multiply x and width by the image's width, y and "
            "height by its height, and write [x, y, width, height] in pixels"
        )
    beyond = _measure_beyond(boxes, sizes)
    far = beyond.max(axis=1) > _TOLERANCE
    text = (
        f"{far.sum()} of {len(boxes)} boxes reach beyond their images as [x, y, width, height], "
        f"the first is {boxes[far.argmax()].tolist()} in "
        f"{describe_image(records, owners[far.argmax()])}"
    )
    form = find_fitting_form(boxes, sizes)
    if form is not None:
        return f"{text}, but all fit as {form.name}: write every bbox as {form.right}"
    one_sided = far.sum() >= max(_MANY, _SHARE_ONE_SIDED * len(boxes))
    if one_sided and boxes[:, :2].min() >= -_TOLERANCE and _is_deep(boxes, beyond, far):
        return (
            f"{text}, and none beyond the left or upper edge: they may be of images of another "
            "size, scaled afterwards, or numbers of another form; write them as [x, y, width, "
            "height] in pixels of the files that are there"
        )
    return None


def warn_of_boxes(table: BoxTable, records: Records, source: str) -> None:
    """Warn, with counts, of boxes partly outside their images, in percent, or annotated twice."""
    if not len(table.boxes):
        return
    beyond = _measure_beyond(table.boxes, table.sizes).max(axis=1)
    outside = beyond > _TOLERANCE
    if outside.any():
        first, worst = int(outside.argmax()), float(beyond.max())
        logger.warning(
            "%s: %d of %d boxes reach beyond their image by more than a pixel, the first is %s in "
            "%s, the farthest by %.0f pixels; training clips them: correct them if that is not "
            "meant",
            source,
            outside.sum(),
            len(beyond),
            table.boxes[first].tolist(),
            describe_image(records, table.owners[first]),
            worst,
        )
    ends = table.boxes[:, :2] + table.boxes[:, 2:]
    for unit, word, least, sides in _UNITS:
        if (
            len(ends) >= _LEAST_OF_UNIT
            and (ends.max(axis=0) > least).all()
            and ends.max() <= 1.005 * unit
            and table.sizes.min() >= sides
        ):
            logger.warning(
                "%s: all %d boxes end within %d, though every image has %d pixels a side or more; "
                "if they are %s, multiply them by the image's size and divide by %d",
                *(source, len(ends), unit, sides, word, unit),
            )
    repeated = _list_repeated(table)
    if len(repeated):
        logger.warning(
            "%s: %d annotations repeat another one (same image, class and box), the first in %s; "
            "each counts as an object of its own: remove the copies",
            source,
            len(repeated),
            describe_image(records, table.owners[repeated[0]]),
        )


def describe_image(records: Records, index: int) -> str:
    """Name an image in a message: its id, file and size."""
    height, width = records.sizes[index]
    return f"image {records.image_ids[index]} ({records.file_names[index]}, {width} x {height})"


def find_fitting_form(
    boxes: np.ndarray, sizes: np.ndarray, tolerance: float = _TOLERANCE
) -> Form | None:
    """Find the first other form in which boxes fit into their images, while they do not as COCO's.

    Args:
        boxes: (N, 4).
        sizes: (N, 2), width and height of the image of each.
        tolerance: how far a box may reach beyond.
    """
    beyond = _measure_beyond(boxes, sizes)
    far = beyond.max(axis=1) > tolerance
    if far.sum() < max(2, _SHARE_BEYOND * len(boxes)):
        return None
    if not _is_deep(boxes, beyond, far):
        return None
    for form in _FORMS:
        numbers = boxes[:, form.columns]
        low, high = numbers[:, :2], numbers[:, 2:]
        if not form.is_corners:
            low = low - high / 2 if form.is_centered else low
            high = low + high
        inside = (low >= -tolerance) & (high <= sizes + tolerance) & (high >= low)
        if inside.all(axis=1).mean() >= _FITTING:
            return form
    return None


def _is_deep(boxes: np.ndarray, beyond: np.ndarray, far: np.ndarray) -> bool:
    """Tell whether the boxes that reach beyond the image do so by much of their sides."""
    sides = np.maximum(boxes[far, 2:], 1e-9)
    return bool(np.median((beyond[far] / sides).max(axis=1)) >= _DEPTH_BEYOND)


def _measure_beyond(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Measure how far boxes reach beyond their images, in x and in y: (N, 2), 0 if they do not."""
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    return np.maximum(np.maximum(-low, high - sizes), 0)


def _list_repeated(table: BoxTable) -> np.ndarray:
    """List the indices of annotations that repeat an earlier one, in order."""
    order = np.lexsort((table.boxes[:, 0], table.owners))
    equal = np.diff(table.boxes[order, 0]) == 0
    equal &= np.diff(table.owners[order]) == 0
    chosen = np.sort(order[np.append(equal, False) | np.append(False, equal)])
    keys = [column[chosen] for column in (*table.boxes.T, table.classes, table.owners)]
    order = np.lexsort(keys)  # stable: the first of equal ones stays the first
    equal = np.ones(max(len(order) - 1, 0), bool)
    for key in keys:
        equal &= key[order[1:]] == key[order[:-1]]
    return np.sort(chosen[order[1:][equal]])
