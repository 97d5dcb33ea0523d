"""Show two trainings beside each other: numbers, mistakes, and images that tell them apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from resnext_det.data.pixels import to_pixels
from resnext_det.detection.drawing import draw_beside
from resnext_det.evaluation.analysis import (
    DetectionComparison,
    ImageDifference,
    NumberDifference,
    compare_detections,
)
from resnext_det.files import shorten_path
from resnext_det.report.charts import draw_bars
from resnext_det.report.examination import describe_change
from resnext_det.report.examples import label_boxes, map_files
from resnext_det.report.page import (
    Section,
    fold,
    join,
    place_beside,
    write_heading,
    write_paragraph,
)
from resnext_det.report.pictures import embed_image
from resnext_det.report.run_groups import (
    RunGroup,
    choose_pair,
    format_signed,
    format_signed_interval,
)
from resnext_det.report.runs import RunFolder, TestFolder
from resnext_det.report.tables import Cell, format_table

_IMAGES = 6
_WIDTH = 960  # of three pictures beside each other, in pixels
_CATEGORIES = 20  # more are folded


@dataclass(frozen=True)
class Pair:
    """Hold a run of each of two trainings, compared image by image.

    Attributes:
        first, second: the trainings.
        runs: of equal seeds where there are such.
        test_set: that both were tested on.
        comparison: of their detections.
    """

    first: RunGroup
    second: RunGroup
    runs: tuple[RunFolder, RunFolder]
    test_set: str
    comparison: DetectionComparison

    def name_run(self, place: int) -> str:
        """Name a run, 0 or 1: as its training, with the seed where that has several runs."""
        group, run = (self.first, self.second)[place], self.runs[place]
        return group.name if len(group.runs) == 1 else f"{group.name} (seed {run.get('SEED')})"

    def describe_changes(self) -> list[str]:
        """Say of each run whether its AP is not that which it wrote itself."""
        analyses = (self.comparison.first, self.comparison.second)
        told = [
            describe_change(_find_test(run, self.test_set), analysis)
            for run, analysis in zip(self.runs, analyses, strict=True)
        ]
        return [f"{self.name_run(place)}: {text}" for place, text in enumerate(told) if text]


def compare_pair(first: RunGroup, second: RunGroup, test_set: str) -> Pair:
    """Compare a run of each image by image.

    Raises:
        ValueError, OSError: the annotations or detections are not there, or damaged.
    """
    runs = choose_pair(first, second)
    one, other = (_find_test(run, test_set) for run in runs)
    assert one.detections is not None and other.detections is not None
    comparison = compare_detections(
        runs[0].locate_set(test_set)[0],
        one.detections,
        other.detections,
        max_detections=max(one.max_detections, other.max_detections),
    )
    return Pair(first, second, runs, test_set, comparison)


def _find_test(run: RunFolder, test_set: str) -> TestFolder:
    for test in run.tests:
        if test.name == test_set and test.detections is not None:
            return test
    if run.proposes:
        raise FileNotFoundError(f"{run.path} gives proposals and no detections")
    raise FileNotFoundError(
        f"{run.path} has no detections of {test_set}; repeat its command with --eval-only --resume"
    )


def build_pair_sections(pair: Pair) -> list[Section]:
    """Build the sections about two trainings: numbers, mistakes, images; of masks too."""
    boxes, masks = pair.comparison, pair.comparison.segm
    numbers, mistakes = [_show_numbers(pair, boxes)], [_show_mistakes(pair, boxes, "boxes")]
    if masks is not None:
        numbers += [write_heading("Of masks"), _show_numbers(pair, masks)]
        mistakes += [write_heading("Of masks"), _show_mistakes(pair, masks, "masks")]
    return [
        Section("Numbers beside each other", "numbers", join(numbers)),
        Section("Mistakes beside each other", "mistakes", join(mistakes)),
        Section("Images where they differ most", "images", _show_images(pair)),
    ]


def _show_numbers(pair: Pair, comparison: DetectionComparison) -> Markup:
    """Show the tables of COCO's numbers and of AP of every category, with differences.

    Args:
        comparison: of the boxes, or of the masks.
    """
    numbers = comparison.numbers
    whole = {name: found for name, found in numbers.items() if not name.startswith("AP-")}
    categories = {
        name.removeprefix("AP-"): found for name, found in numbers.items() if name not in whole
    }
    order = sorted(categories, key=lambda name: -_rank(categories[name]))
    parts = [_format_numbers("number", whole, pair)]
    if categories:
        shown = {name: categories[name] for name in order[:_CATEGORIES]}
        rest = {name: categories[name] for name in order[_CATEGORIES:]}
        parts.append(_format_numbers("category", shown, pair))
        if rest:
            parts.append(fold(f"{len(rest)} more", _format_numbers("category", rest, pair)))
    parts.append(
        write_paragraph(
            f"Of {pair.name_run(0)} and {pair.name_run(1)}. Bold: the 95 % interval over images "
            "excludes 0.",
            note=True,
        )
    )
    return join(parts)


def _rank(found: NumberDifference) -> float:
    return -1.0 if math.isnan(found.difference) else abs(found.difference)


def _format_numbers(kind: str, numbers: Mapping[str, NumberDifference], pair: Pair) -> Markup:
    rows: list[list[Cell]] = []
    strong = []
    for index, (name, found) in enumerate(numbers.items()):
        missing = math.isnan(found.difference)
        interval = None if missing else format_signed_interval(found.interval)
        rows.append(
            [
                *(name, found.first, found.second),
                None if missing else format_signed(found.difference),
                interval,
            ]
        )
        if not missing and (found.interval[0] > 0 or found.interval[1] < 0):
            strong.append(index)
    headers = [kind, pair.first.name, pair.second.name, "difference", "95 % over images"]
    caption = "AP of every category, the largest difference first" if kind == "category" else ""
    return format_table(headers, rows, caption, strong=strong)


def _show_mistakes(pair: Pair, comparison: DetectionComparison, what: str) -> Markup:
    """Show the chart of what each kind of error costs either, and the table of their numbers.

    Args:
        comparison: of the boxes, or of the masks.
        what: these are, "boxes" or "masks".
    """
    sides = {pair.first.name: comparison.first, pair.second.name: comparison.second}
    kinds = [error.kind for error in comparison.first.errors]
    costs = {name: [error.cost for error in side.errors] for name, side in sides.items()}
    chart = draw_bars(
        kinds,
        costs,
        x_label="AP50 gained if these alone were mended",
        alt=f"What each kind of error of {what} costs either of the two",
    )
    counts: list[list[Cell]] = [
        [kind, *(side.errors[index].count for side in sides.values())]
        for index, kind in enumerate(kinds)
    ]
    table = format_table(["errors", *sides], counts, "How many there are")
    return place_beside([chart, table])


def _show_images(pair: Pair) -> Markup:
    """Draw the images on which one makes more mistakes than the other."""
    different = [each for each in pair.comparison.images if each.difference != 0]
    total = len(pair.comparison.images)
    second_better = sum(each.difference > 0 for each in different)
    parts = [
        write_paragraph(
            f"{pair.second.name} makes fewer mistakes (wrong detections and missed objects) on "
            f"{second_better} of {total} images, {pair.first.name} on "
            f"{len(different) - second_better}, and on {total - len(different)} both make as many; "
            "each at the score of its own best F1."
        )
    ]
    pictures: list[Markup] = []
    failures: list[str] = []
    dataset = pair.runs[0].load_set(pair.test_set)
    files = map_files(dataset)
    for each in different[:_IMAGES]:
        file = files[each.first.image_id]
        try:
            pictures.append(_draw_difference(each, file, dataset.class_names, pair))
        except (OSError, ValueError) as error:
            failures.append(str(error))
    parts += pictures
    if failures:
        parts.append(write_paragraph(f"{len(failures)} cannot be shown: {failures[0]}", note=True))
    return join(parts)


def _draw_difference(each: ImageDifference, file: str, names: Sequence[str], pair: Pair) -> Markup:
    """Draw the ground truth and the detections of both beside each other."""
    truth = replace(each.first.truth, kinds=tuple(_name_missed(each)))
    pixels = to_pixels(file, "BGR")
    size = pixels.shape[:2]
    panels = {
        "ground truth": label_boxes(truth, names, size, scored=False),
        pair.first.name: label_boxes(each.first.found, names, size),
        pair.second.name: label_boxes(each.second.found, names, size),
    }
    told = "; ".join(
        f"{group.name}: {found.wrong} wrong, {found.missed} missed"
        for group, found in ((pair.first, each.first), (pair.second, each.second))
    )
    caption = f"{shorten_path(file)}: {told}"
    picture = draw_beside(pixels, panels, width=_WIDTH)
    return embed_image(picture, caption, _WIDTH, caption=caption, max_bytes=60_000)


def _name_missed(each: ImageDifference) -> list[str]:
    """Say of every object who has missed it."""
    words = {(True, True): "missed by both", (True, False): "missed by the first"}
    words[False, True] = "missed by the second"
    return [
        words.get((one == "missed", other == "missed"), one)
        for one, other in zip(each.first.truth.kinds, each.second.truth.kinds, strict=True)
    ]
