"""Find faults of the annotations: names exchanged, boxes displaced, objects without a box."""

from __future__ import annotations

import numpy as np

from resnext_det.files import escape_controls, list_first
from resnext_det.report.faults.cause import Cause
from resnext_det.report.faults.measurements import Measurements

_LOOK = "look at both sets as resnext-det show-data draws them"
_FEWEST = 100  # objects of a set that say how many an image has
_FEWER = 0.7
_UNLABELED = 0.15  # of the best-scored detections; in sound sets 0.05 at most
_SHORT, _FULL = 0.9, 0.97  # of the images' sides, that boxes reach
_CORNERS, _AT_EDGE = 0.99, 0.3
_CONTRADICTIONS = 0.02


def find_exchanged_names(measured: Measurements) -> Cause | None:
    """Find classes whose names are exchanged between the training and the test set."""
    renaming = measured.renaming
    if renaming is None:
        return None
    parts = [
        f"{found} of {total} {escape_controls(annotated)} are found as {escape_controls(detected)}"
        for (annotated, detected), (found, total) in zip(
            renaming.names, renaming.counts, strict=True
        )
    ]
    names = list_first([annotated for annotated, _ in renaming.names], 6)
    return Cause(
        f"Class names are exchanged: {names}",
        f"{'; '.join(parts[:6])}. With the names exchanged AP would be {renaming.mended_ap:.1f} "
        f"and not {renaming.ap:.1f}.",
        "Correct 'categories' or the category ids in the annotations of one of the sets "
        f"({_LOOK}), and train again if it is the training set.",
        renaming.mended_ap - renaming.ap,
    )


def find_displaced_boxes(measured: Measurements) -> Cause | None:
    """Find boxes that lie beside the objects, or are of another size, in one of the sets."""
    found = measured.displacement
    if found is None:
        return None
    x, y = found.amount
    words = {
        "shift": f"{abs(x):.2f} of an object's width to the {'right' if x > 0 else 'left'} and "
        f"{abs(y):.2f} of its height {'below' if y > 0 else 'above'}",
        "pixels": f"{abs(x):.1f} pixels to the {'right' if x > 0 else 'left'} and {abs(y):.1f} "
        f"{'below' if y > 0 else 'above'}",
        "scale": f"at {x:.2f} times the x and {y:.2f} times the y",
        "corners": "with the right lower corner at x + x2, y + y2",
    }[found.kind]
    grown = ""
    if np.abs(np.log(found.growth)).max() > 0.05:
        grown = f", {found.growth[0]:.2f} times as wide and {found.growth[1]:.2f} times as high"
    remedy = {
        "scale": "The boxes of one set are of images of another size: scale them to the files that "
        "are there",
        "corners": "The boxes of one set are corners [x1, y1, x2, y2] where COCO has [x, y, width, "
        "height]: write [x1, y1, x2 - x1, y2 - y1]",
    }.get(found.kind, "Correct the boxes of the set in which they do not lie on the objects")
    return Cause(
        "Boxes of the training and the test set do not mean the same place",
        f"By the median of {found.pairs} objects, detections lie {words} of the annotated boxes"
        f"{grown}. Brought back, AP would be {found.mended_ap:.1f} and not {found.ap:.1f}.",
        f"{remedy}; {_LOOK}.",
        found.mended_ap - found.ap,
    )


def find_corner_boxes(measured: Measurements) -> Cause | None:
    """Find a set whose boxes are corners, x1, y1, x2, y2, clipped to the image.

    Taken for width and height, x2 is more than x1, so that a box is wider than its left edge is far
    from the image's, or ends at the right edge; likewise from above.
    """
    for name, found in (("training", measured.train), ("test", measured.test)):
        if found is None or found.num_objects < _FEWEST:
            continue
        low, high = found.boxes[:, :2], found.boxes[:, 2:]
        ends = high >= found.view_sizes[found.owners][:, ::-1] - 1.5
        fits = ((high - low > low - 1) | ends).all(axis=1)
        if fits.mean() < _CORNERS or ends.any(axis=1).mean() < _AT_EDGE:
            continue
        return Cause(
            f"Boxes of the {name} set seem to be corners",
            f"{ends.any(axis=1).mean():.0%} of the {found.num_objects:,} boxes of the {name} set "
            f"end at the right or lower edge of the image, and {fits.mean():.1%} of all do so or "
            "are wider and higher than their corner is far from the image's: as if [x1, y1, x2, "
            "y2] stood where COCO has [x, y, width, height].",
            f"Write [x1, y1, x2 - x1, y2 - y1] as every 'bbox'; {_LOOK}.",
            0.9 * measured.lacking,
        )
    return None


def find_shrunken_boxes(measured: Measurements) -> Cause | None:
    """Find a set whose boxes leave the right and lower parts of the images empty."""
    sets = {"training": measured.train, "test": measured.test}
    if any(found is None or found.num_objects < _FEWEST for found in sets.values()):
        return None
    reach = {
        name: np.quantile(
            found.boxes[:, 2:] / found.view_sizes[found.owners][:, ::-1], 0.99, axis=0
        )
        for name, found in sets.items()
        if found is not None
    }
    less, more = sorted(reach, key=lambda name: float(reach[name].max()))
    if reach[less].max() > _SHORT or reach[more].min() < _FULL:
        return None
    x, y = reach[less]
    return Cause(
        f"Boxes of the {less} set seem to be of smaller images",
        f"They end within {x:.0%} of the images' width and {y:.0%} of their height; those of the "
        f"{more} set reach {reach[more][0]:.0%} and {reach[more][1]:.0%}.",
        f"If the images were enlarged after they were annotated, multiply the {less} boxes by the "
        f"same factor; {_LOOK}.",
        0.9 * measured.lacking,
    )


def find_missing_boxes(measured: Measurements) -> Cause | None:
    """Find a training set with fewer objects an image than the test set."""
    train, test = measured.train, measured.test
    if train is None or test is None or min(train.num_objects, test.num_objects) < _FEWEST:
        return None
    less, error = _average_filled(train.count_per_image())
    more, other = _average_filled(test.count_per_image())
    if less > _FEWER * more or more - less < 4 * np.hypot(error, other):
        return None
    return Cause(
        "Objects of the training set seem to have no box",
        f"An image of the training set has {less:.1f} boxes on average, one of the test set "
        f"{more:.1f}: {1 - less / more:.0%} fewer. An object without a box is learned as "
        "background.",
        f"Annotate every object of the classes in the training images ({_LOOK}), or leave out "
        "images that are not fully annotated.",
        (1 - less / more) * measured.lacking,
    )


def _average_filled(counts: np.ndarray) -> tuple[float, float]:
    """Average over images with objects; return the mean and its standard error."""
    filled = counts[counts > 0]
    return float(filled.mean()), float(filled.std() / np.sqrt(len(filled)))


def find_unlabeled_objects(measured: Measurements) -> Cause | None:
    """Find sure detections where the test set has no annotation."""
    found = measured.found
    if found is None or len(found.sides) < 30 or found.finds_hardly_any:
        return None
    best = np.argsort(-found.scores, kind="stable")[: len(found.sides) // 2]
    if not len(best):
        return None
    stray = found.nearest[best] < 0.1
    share = float(stray.mean())
    if share < _UNLABELED:
        return None
    least = float(found.scores[best].min())
    return Cause(
        "Sure detections lie where the test set has no box",
        f"Of the {len(best)} detections of the highest scores ({least:.2f} or more) "
        f"{int(stray.sum())} ({share:.0%}) overlap no annotation.",
        "Look at these on the worst images below: if they show objects, annotate them in the test "
        "set; if they show something alike, add images of that without boxes to the training set "
        "and write DATALOADER.FILTER_EMPTY_ANNOTATIONS False.",
        max(share * 50, measured.costs.get("background", 0.0)),
    )


def find_contradictions(measured: Measurements) -> Cause | None:
    """Find objects that are annotated twice, by boxes of different classes."""
    train = measured.train
    if train is None or not len(train.near_copies):
        return None
    pairs = int((~train.match_classes()).sum())
    share = 2 * pairs / train.num_objects
    if share < _CONTRADICTIONS:
        return None
    return Cause(
        "Objects are annotated as two classes at once",
        f"{pairs} pairs of boxes of the training set lie on each other and have different "
        f"classes: {share:.1%} of its {train.num_objects:,} boxes.",
        f"Keep one class for each object; {_LOOK}.",
        share * 50,
    )
