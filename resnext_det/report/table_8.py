"""Show ResNeXt beside ResNet: the paper's table 8 beside runs, and X - R by head and schedule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from markupsafe import Markup

from resnext_det.paper.comparison import Comparison, compare_detectors
from resnext_det.paper.figures import TABLE_8
from resnext_det.paper.rows import Difference, Estimate, Row, estimate_mean
from resnext_det.paper.runs import Run, read_detector
from resnext_det.paper.schedules import METRIC, Effect, compare_schedules, name_head
from resnext_det.report.charts import Line, draw_lines
from resnext_det.report.page import Section, join, write_heading, write_paragraph
from resnext_det.report.run_groups import format_signed
from resnext_det.report.runs import RunFolder
from resnext_det.report.tables import Cell, format_table


def build_table_8(runs: Sequence[RunFolder], test_set: str | None) -> Section | None:
    """Build the comparison of networks: table 8, or X - R of each head and schedule.

    Returns:
        None where there is neither one of the paper's networks nor a ResNeXt with the ResNet of its
        depth and channels.
    """
    if test_set is None:
        return None
    read = [found for run in runs if (found := _read(run, test_set)) is not None]
    by_schedule: dict[Any, list[Run]] = defaultdict(list)
    for run in read:
        by_schedule[name_head(run.config), run.config.get("SOLVER.MAX_ITER")].append(run)
    comparisons = [compare_detectors(group) for group in by_schedule.values()]
    if len(comparisons) == 1:
        (comparison,) = comparisons
        of_paper = any(row.setting.network in TABLE_8 for row in comparison.rows)
        if not of_paper and not comparison.differences:
            return None
        body = _format_comparison(comparison, of_paper=of_paper)
        title = "Table 8 of the paper" if of_paper else "ResNeXt minus ResNet"
        return Section(title, "table-8", body)
    schedules = _format_schedules(comparisons)
    return Section("ResNeXt minus ResNet", "table-8", schedules) if schedules else None


def _read(run: RunFolder, test_set: str) -> Run | None:
    """Read a run as the paper's tables need it; None where its test or network is unknown.

    Test sets of one name are told apart before, by the places that the user gives too.
    """
    try:
        return replace(read_detector(run.path, dataset=test_set), annotations=None)
    except (ValueError, OSError):
        return None


def _format_comparison(comparison: Comparison, *, of_paper: bool) -> Markup:
    """Format rows, differences and notes; the paper's columns only where it has figures."""
    items: list[Row | Difference] = [*comparison.rows, *comparison.differences]
    headers = ["network", "runs"]
    for metric in comparison.metrics:
        headers += [f"{metric}, paper"] * of_paper + [metric]
    rows: list[list[Cell]] = []
    for item in items:
        difference = isinstance(item, Difference)
        sides = (item.x, item.r) if isinstance(item, Difference) else (item,)
        counts = [len(row.runs) for row in sides]
        cells: list[Cell] = [item.name, " and ".join(map(str, counts)) if any(counts) else None]
        for metric in comparison.metrics:
            paper = item.get_paper(metric)
            if of_paper:
                shown = None if paper is None else format_signed(paper) if difference else paper
                cells.append(shown)
            cells.append(_format_estimate(item.estimate(metric), signed=difference))
        rows.append(cells)
    first = len(comparison.rows)
    parts = [
        format_table(headers, rows, strong=range(first, len(rows))),
        write_paragraph(
            "± is the standard deviation over runs, and of a difference its standard error.",
            note=True,
        ),
    ]
    parts += [write_paragraph(note, note=True) for note in comparison.notes]
    return join(parts)


def _format_estimate(estimate: Estimate | None, *, signed: bool) -> Cell:
    if estimate is None:
        return None
    mean = format_signed(estimate.mean) if signed else f"{estimate.mean:.1f}"
    return mean if estimate.spread is None else f"{mean} ± {estimate.spread:.1f}"


def _format_schedules(comparisons: Sequence[Comparison]) -> Markup | None:
    """Format X - R by head and length, as table and chart of every pair of networks."""
    found = compare_schedules(comparisons)
    parts: list[Markup] = []
    for pair in found.pairs:
        own = [each for each in found.differences if each.pair == pair]
        changes = [each for each in found.changes if each.pair == pair]
        headers = ["head", "iterations", "AP of R", "AP of X", "X \u2212 R", "95 %", "seeds"]
        parts += [
            write_heading(pair),
            format_table(headers, [[*_list_words(each), *_list_cells(each)] for each in own]),
        ]
        if changes:
            headers = ["head", "from, to", "change of X \u2212 R", "95 %", "seeds"]
            rows = [[*_list_words(each), *_list_cells(each)[2:]] for each in changes]
            parts += [format_table(headers, rows), _draw_schedules(own, pair)]
    if not parts:
        return None
    parts.append(
        write_paragraph(
            "X \u2212 R in points of AP: the mean of the differences at equal seeds, and its 95 % "
            "interval over seeds (Student's t).",
            note=True,
        )
    )
    return join(parts)


def _list_words(effect: Effect) -> list[Cell]:
    return [effect.head, ", ".join(map(str, effect.iterations))]


def _list_cells(effect: Effect) -> list[Cell]:
    cells: list[Cell] = [None, None]
    if effect.group is not None:
        sides = (effect.group.r, effect.group.x)
        values = [list(row.average_by_seed(METRIC).values()) for row in sides]
        cells = [_format_estimate(estimate_mean(each), signed=False) for each in values]
    interval = effect.find_interval()
    told = " to ".join(map(format_signed, interval)) if interval else None
    return [*cells, format_signed(effect.mean), told, len(effect.values)]


def _draw_schedules(effects: Sequence[Effect], pair: str) -> Markup:
    lines = []
    for head in dict.fromkeys(each.head for each in effects):
        own = [each for each in effects if each.head == head]
        intervals = [each.find_interval() or (each.mean, each.mean) for each in own]
        lows, highs = zip(*intervals)
        x = [each.iterations[0] for each in own]
        lines.append(Line(head, x, [each.mean for each in own], (lows, highs)))
    return draw_lines(
        lines,
        x_label="iterations",
        y_label="X \u2212 R in AP",
        alt=f"X minus R against the length of the training, {pair}",
    )
