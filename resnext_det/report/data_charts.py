"""Draw and tabulate what is known of the sets of a training: classes, sizes, anchors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from resnext_det.data.statistics import SetStatistics
from resnext_det.report.charts import WIDE, draw_bars, draw_histogram
from resnext_det.report.page import fold, place_beside
from resnext_det.report.tables import Cell, format_table

Sets = Mapping[str, SetStatistics]
"""The statistics of the training and the test sets, by "training" and "test"."""

_FREQUENT, _RARE = 20, 10  # classes that a chart shows of those that are more
_LISTED = 40  # classes of a table that is not folded
_MOST_MARKS = 6
_IOUS = (0.7, 0.5, 0.3)


def format_sets(found: Sets) -> Markup:
    """Tabulate images and objects of every set."""
    rows: dict[str, list[Cell]] = {}
    for each in found.values():
        for name, cell in _describe_set(each):
            rows.setdefault(name, []).append(cell)
    return format_table(["", *found], [[name, *cells] for name, cells in rows.items()])


def _describe_set(found: SetStatistics) -> list[tuple[str, Cell]]:
    per_image, sizes = found.count_per_image(), found.measure_sizes()
    small = found.areas < 32**2
    large = found.areas >= 96**2
    shares = fitted = "\u2013"
    if found.num_objects:
        fitted = f"{found.compute_anchor_recall(0.5):.1%}"
        middle = 1 - small.mean() - large.mean()
        shares = f"{small.mean():.0%}, {middle:.0%}, {large.mean():.0%}"
    return [
        ("images", found.num_images),
        ("images without an object", int((per_image == 0).sum())),
        ("objects", found.num_objects),
        (
            "objects an image: mean, most",
            _write([per_image.mean(), per_image.max(initial=0)]) if len(per_image) else "\u2013",
        ),
        ("crowds", found.crowds),
        ("boxes without an area", found.flat_boxes),
        ("image: median width x height", _write_size(found.image_sizes)),
        ("as the detector sees it", _write_size(found.view_sizes)),
        ("resized by: least, median, most", _write_spread(found.measure_scales(), (0, 50, 100), 2)),
        ("COCO's small, medium, large objects", shares),
        ("object seen, pixels: 10th, 50th, 90th percentile", _write_spread(sizes, (10, 50, 90))),
        *([("objects with an anchor of IoU 0.5", fitted)] if found.anchor_ious is not None else []),
    ]


def _write(values: Sequence[float], digits: int = 0) -> str:
    return ", ".join(f"{value:.{1 if value % 1 and not digits else digits}f}" for value in values)


def _write_spread(values: np.ndarray, percents: Sequence[float], digits: int = 0) -> str:
    if not len(values):
        return "\u2013"
    return ", ".join(f"{value:.{digits}f}" for value in np.percentile(values, percents))


def _write_size(sizes: np.ndarray) -> str:
    if not len(sizes):
        return "\u2013"
    height, width = np.median(sizes, axis=0)
    return f"{width:.0f} x {height:.0f}"


def draw_class_counts(found: Sets) -> Markup:
    """Draw the objects of every class; of many classes the most frequent and the rarest."""
    first = next(iter(found.values()))
    names, counts = first.class_names, first.count_objects()
    order = np.argsort(-counts, kind="stable").tolist()
    caption = ""
    if len(order) > _FREQUENT + _RARE:
        caption = f"The {_FREQUENT} most frequent and the {_RARE} rarest of {len(order)} classes."
        order = [*order[:_FREQUENT], *order[-_RARE:]]
    alike = {name: each for name, each in found.items() if each.class_names == names}
    return draw_bars(
        [names[index] for index in order],
        {name: each.count_objects()[order].tolist() for name, each in alike.items()},
        x_label="objects",
        alt="Objects of every class",
        digits=0,
        width=WIDE[0],
        caption=caption,
    )


def format_classes(found: Sets) -> Markup:
    """Tabulate the classes: their objects, images, and sizes as the detector sees them."""
    names = list(dict.fromkeys(name for each in found.values() for name in each.class_names))
    headers, columns = ["class"], [list[Cell](names)]
    for kind, each in found.items():
        place = {name: index for index, name in enumerate(each.class_names)}
        rows = [_describe_class(each, place.get(name)) for name in names]
        fitted = each.anchor_ious is not None
        headers += [f"{kind}: objects", "images", "median px", *["anchor, %"] * fitted]
        columns += [list(column) for column in zip(*rows)][: 3 + fitted]
    caption = (
        "Median px is the square root of an object's area as the detector sees it; anchor, % is "
        "the share of the objects that an anchor overlaps by an IoU of 0.5 or more."
    )
    table = format_table(headers, list(zip(*columns)), caption, digits=0)
    return table if len(names) <= _LISTED else fold(f"All {len(names)} classes", table)


def _describe_class(found: SetStatistics, index: int | None) -> tuple[Cell, Cell, Cell, Cell]:
    if index is None:
        return None, None, None, None
    own = found.classes == index
    if not own.any():
        return 0, 0, None, None
    recall = (
        None if found.anchor_ious is None else 100 * float((found.anchor_ious[own] >= 0.5).mean())
    )
    size = float(np.median(found.measure_sizes()[own]))
    return int(own.sum()), len(np.unique(found.owners[own])), size, recall


def draw_shapes(found: Sets) -> Markup:
    """Draw how large objects and images are, of which shape, and how many an image has."""
    first = next(iter(found.values()))
    sizes = {name: each.measure_sizes() for name, each in found.items()}
    charts = [
        draw_histogram(
            {name: values[values > 0] for name, values in sizes.items()},
            x_label="square root of an object's area, pixels as seen; broken lines: anchors",
            alt="Sizes of the objects as the detector sees them",
            log_x=True,
            share=True,
            marks=_mark_anchors(first, np.concatenate(list(sizes.values()))),
        ),
        draw_histogram(
            {name: each.measure_aspect_ratios() for name, each in found.items()},
            x_label="height / width of an object",
            alt="Aspect ratios of the objects",
            log_x=True,
            share=True,
        ),
        draw_histogram(
            {name: each.count_per_image() for name, each in found.items()},
            x_label="objects of an image",
            alt="Objects of an image",
            bins=_make_whole_bins([each.count_per_image() for each in found.values()]),
            share=True,
        ),
    ]
    scales = {name: each.measure_scales() for name, each in found.items()}
    if len(np.unique(np.concatenate(list(scales.values())).round(3))) > 1:
        charts.append(
            draw_histogram(
                scales,
                x_label="side seen / side of the file",
                alt="By what factor images are resized",
                log_x=True,
                share=True,
            )
        )
    return place_beside(charts)


def _mark_anchors(found: SetStatistics, values: np.ndarray) -> dict[str, float]:
    """List the sizes of anchors that lie among the values."""
    if found.view.anchors is None or not len(values):
        return {}
    sizes = sorted({size for level in found.view.anchors.sizes for size in level})
    if len(sizes) > _MOST_MARKS:
        sizes = [sizes[0], sizes[-1]]
    return {f"{size:g}": size for size in sizes if values.min() < size < values.max()}


def _make_whole_bins(counts: Sequence[np.ndarray], most: int = 40) -> np.ndarray:
    """Make bins of whole numbers from 0 on, each as wide, of which there are ``most`` at most."""
    highest = max((int(each.max(initial=0)) for each in counts), default=0)
    step = -(-(highest + 1) // most)
    return np.arange(0, highest + step + 1, step) - 0.5


def draw_anchor_fit(found: Sets) -> Markup:
    """Draw by the objects' size how many of them an anchor overlaps by 0.7, 0.5 and 0.3."""
    charts = []
    for kind, each in found.items():
        assert each.anchor_ious is not None
        if not each.num_objects:
            continue
        octaves = np.floor(np.log2(np.maximum(each.measure_sizes(), 1))).astype(int)
        kinds = np.unique(octaves).tolist()
        groups = [each.anchor_ious[octaves == octave] for octave in kinds]
        names = [f"{2**k} to {2 ** (k + 1)} px: {len(g):,}" for k, g in zip(kinds, groups)]
        charts.append(
            draw_bars(
                [*names, f"all: {each.num_objects:,}"],
                {
                    f"IoU {iou} or more": [
                        100 * float((group >= iou).mean()) for group in [*groups, each.anchor_ious]
                    ]
                    for iou in _IOUS
                },
                x_label=f"share of the {kind} objects, %",
                alt=f"How many {kind} objects an anchor overlaps, by their size",
                digits=0,
                limit=112,
            )
        )
    return place_beside(charts)


def format_anchor_use(found: Sets) -> Markup:
    """Tabulate how many objects have their best anchor in each shape, behind a line to open."""
    first = next(iter(found.values()))
    assert first.view.anchors is not None
    shapes = first.view.anchors.list_shapes()
    rows: list[list[Cell]] = []
    uses = [
        np.bincount(each.anchor_choices, minlength=len(shapes))
        for each in found.values()
        if each.anchor_choices is not None
    ]
    for index, (width, height, stride) in enumerate(shapes.tolist()):
        rows.append(
            [f"{width:.0f} x {height:.0f}", int(stride), *(int(use[index]) for use in uses)]
        )
    table = format_table(
        ["anchor, pixels", "stride", *(f"{kind} objects" for kind in found)],
        rows,
        "Objects by the anchor that fits them best",
    )
    return fold("Which anchors are used", table)
