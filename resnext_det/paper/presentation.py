"""Presentation of a comparison: text in columns, Markdown, JSON and a plot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tabulate import tabulate

from resnext_det.evaluation.lettering import draw_figure
from resnext_det.files import format_json
from resnext_det.paper.comparison import Comparison
from resnext_det.paper.figures import MINIVAL
from resnext_det.paper.rows import Difference, Estimate, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEADERS = {"top1": "top-1", "top5": "top-5"}

_SOURCES: dict[str, tuple[str, dict[str, Any]]] = {
    "paper": ("table 8 of the paper", {"fmt": "D", "fillstyle": "none", "color": "0.35"}),
    "joint": ("measured, joint training", {"fmt": "o", "color": "tab:blue"}),
    "two-step": ("measured, two-step training", {"fmt": "o", "color": "tab:orange"}),
}
"""The label and style of what is drawn, by "paper" or a detector's protocol."""


def format_comparison(comparison: Comparison, *, markdown: bool = False) -> str:
    """Format titles, rows, differences and notes, as Markdown or aligned for a terminal."""
    style = "pipe" if markdown else "simple"
    metrics, of_detectors = comparison.metrics, comparison.test_set is not None
    columns = [f"{_HEADERS.get(m, m)}{source}" for m in metrics for source in (", paper", "")]
    words = ["net", "setting" if of_detectors else "dataset", "protocol"]
    paragraphs = []
    for title, rows in comparison.tables.items():
        cells = [
            [
                *((row.net, row.template) if of_detectors else (row.name, row.setting.dataset)),
                *(row.protocol or "-", str(len(row.runs) or "-")),
                *_format_figures(row, metrics),
            ]
            for row in rows
        ]
        paragraphs.append(f"## {title}" if markdown else title)
        paragraphs.append(_format_table(style, [*words, "n", *columns], cells))
    unit = "" if of_detectors else "Errors in percent. "
    paragraphs.append(f"{unit}Measured: the mean of n runs ± their sample standard deviation.")
    if comparison.differences:
        paragraphs += _format_differences(comparison, style, columns)
    if comparison.notes:
        mark = "-" if markdown else "note:"
        paragraphs.append("\n".join(f"{mark} {note}" for note in comparison.notes))
    return "\n\n".join(paragraphs)


def _format_differences(comparison: Comparison, style: str, columns: Sequence[str]) -> list[str]:
    """Format the differences and their explanation, with paired ones where there are some."""
    metrics = comparison.metrics
    pairs = [
        [pair.estimate_paired(metric) for metric in metrics] for pair in comparison.differences
    ]
    headers = ["X - R", "protocol", "n", *columns]
    explanation = "X - R: the difference of the means ± its standard error; n: the runs of X, of R."
    if any(pair[0] for pair in pairs):
        headers += ["pairs", *(f"{metric}, paired" for metric in metrics)]
        explanation += "\nPaired: the mean difference of runs with equal SEED ± its standard error."
    cells = []
    for difference, paired in zip(comparison.differences, pairs):
        counts = f"{len(difference.x.runs)}, {len(difference.r.runs)}"
        row = [difference.name, difference.protocol or "-", counts if difference.protocol else "-"]
        row += _format_figures(difference, metrics, "+")
        row.append(str(len(difference.seeds)) if paired[0] else "-")
        row += ["-" if estimate is None else estimate.format("+") for estimate in paired]
        cells.append(row[: len(headers)])
    return [_format_table(style, headers, cells), explanation]


def _format_figures(item: Row | Difference, metrics: Sequence[str], sign: str = "") -> list[str]:
    """Format the paper's figure of each metric, in as many digits as it has, and the measured."""
    cells = []
    for metric in metrics:
        paper, measured = item.get_paper(metric), item.estimate(metric)
        cells.append("-" if paper is None else f"{paper:{sign}.2f}".removesuffix("0"))
        cells.append("-" if measured is None else measured.format(sign))
    return cells


def _format_table(style: str, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table whose columns from ``n`` on are numbers."""
    words = headers.index("n")
    alignment = ["left"] * words + ["right"] * (len(headers) - words)
    return tabulate(list(rows), headers, tablefmt=style, colalign=alignment, disable_numparse=True)


def convert_to_json(comparison: Comparison) -> str:
    """Convert a comparison to a JSON object with all digits and every run.

    It has the test set, rows and differences of detectors, or the tables of classifiers, and the
    notes; null stands for what was not measured or is not in the paper.
    """
    metrics = comparison.metrics
    content: dict[str, Any] = {}
    if comparison.test_set is None:
        content["tables"] = {
            title: [_collect_row(row, metrics) for row in rows]
            for title, rows in comparison.tables.items()
        }
    else:
        content["test_set"] = comparison.test_set
        content["rows"] = [_collect_row(row, metrics) for row in comparison.rows]
        content["differences"] = [
            _collect_difference(difference, metrics) for difference in comparison.differences
        ]
    content["notes"] = comparison.notes
    return format_json(content)


def _collect_row(row: Row, metrics: Sequence[str]) -> dict[str, Any]:
    dataset, network, protocol, ways = row.setting
    return {
        **{"dataset": dataset, "network": str(network), **asdict(network)},
        **({} if ways is None else {"ways": ways}),
        **{"protocol": protocol, "n": len(row.runs)},
        **_collect_figures(row, metrics),
        "runs": [
            {
                "output_dir": str(run.output_dir),
                "seed": run.seed,
                "last_checkpoint": run.last_checkpoint,
                **({"images": run.test["images"]} if run.test else {}),
                **run.figures,
            }
            for run in row.runs
        ],
    }


def _collect_difference(difference: Difference, metrics: Sequence[str]) -> dict[str, Any]:
    x, r, figures = difference.x, difference.r, _collect_figures(difference, metrics)
    for metric in metrics:
        figures[metric]["paired"] = _as_dict(difference.estimate_paired(metric))
    return {
        **{"X": str(x.setting.network), "R": str(r.setting.network)},
        **{"protocol": difference.protocol, "n": [len(x.runs), len(r.runs)]},
        "seeds": difference.seeds,
        **figures,
    }


def _collect_figures(item: Row | Difference, metrics: Sequence[str]) -> dict[str, dict[str, Any]]:
    return {
        metric: {"paper": item.get_paper(metric), "measured": _as_dict(item.estimate(metric))}
        for metric in metrics
    }


def _as_dict(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else asdict(estimate)


class _Point(NamedTuple):
    """Hold a figure to draw: its text and spread, and the values that it is the mean of."""

    text: str
    height: float
    spread: float | None = None
    values: tuple[float, ...] = ()


_Points = dict[str, dict[str, _Point]]
"""By name below the horizontal axis, then by a key of ``_SOURCES``."""


def plot_comparison(comparison: Comparison, path: str | Path) -> None:
    """Draw AP50 and AP of detectors, and below them the differences X - R, into a file.

    A large dot is a mean of runs, a small one a run. The paper's figures, diamonds, are drawn on
    COCO minival alone.

    Args:
        path: its suffix chooses the format, as ".png".

    Raises:
        ValueError: the format is unknown.
    """
    with_paper = comparison.test_set in MINIVAL
    points = [
        [_collect_points(items, metric, with_paper) for metric in comparison.metrics]
        for items in (comparison.rows, comparison.differences)
    ]
    if not points[1][0]:
        points.pop()  # there is no difference to draw
    size = max(13, 2.8 * len(points[0][0])), 1 + 3.6 * len(points)
    with draw_figure(path, size, [str(comparison.test_set)]) as (figure, prepare):
        panels = figure.subplots(len(points), len(comparison.metrics), squeeze=False)
        titles = ("mean of the runs, standard deviation", "difference X - R, standard error")
        for row, of_row, title, unit in zip(
            panels, points, titles, ("percent", "percentage points")
        ):
            for axes, of_metric, metric in zip(row, of_row, comparison.metrics):
                _draw(axes, of_metric)
                axes.set_title(f"{metric}: {title}")
            row[0].set_ylabel(unit)
        for axes in panels[1:].flat:
            axes.axhline(0, color="black", linewidth=0.8)
        handles, labels = panels[0, 0].get_legend_handles_labels()
        legend = dict(zip(labels, handles))
        figure.legend(
            legend.values(), legend.keys(), loc="outside lower center", ncols=3, frameon=False
        )
        title = f"ResNet and ResNeXt on {prepare(str(comparison.test_set))}"
        figure.suptitle(title, parse_math=False)


def _collect_points(
    items: Sequence[Row] | Sequence[Difference], metric: str, with_paper: bool
) -> _Points:
    points: _Points = {}
    for item in items:
        sign = "+" if isinstance(item, Difference) else ""
        of_item = points.setdefault(item.label, {})
        paper, measured = item.get_paper(metric), item.estimate(metric)
        if paper is not None and with_paper:
            of_item["paper"] = _Point(f"{paper:{sign}.1f}", paper)
        if measured is not None and item.protocol is not None:
            text = f"{measured.mean:{sign}.1f}"
            runs = item.runs if isinstance(item, Row) else ()
            values = tuple(run.figures[metric] for run in runs)
            of_item[item.protocol] = _Point(text, measured.mean, measured.spread, values)
    return {label: of_item for label, of_item in points.items() if of_item}


def _draw(axes: Axes, points: _Points) -> None:
    """Draw the points of each name side by side, in the order of the sources."""
    present = [
        source for source in _SOURCES if any(source in of_name for of_name in points.values())
    ]
    for index, of_name in enumerate(points.values()):
        for source, point in of_name.items():
            place = index + 0.28 * (present.index(source) - (len(present) - 1) / 2)
            label, style = _SOURCES[source]
            color, heights = style["color"], point.values
            axes.plot([place] * len(heights), heights, ".", color=color, alpha=0.5)
            axes.errorbar(place, point.height, point.spread, label=label, capsize=4, **style)
            # The paper's text below its point and the others' above, so that those of equal
            # heights do not collide.
            side = -1 if source == "paper" else 1
            axes.annotate(
                point.text,
                (place, point.height + side * (point.spread or 0)),
                xytext=(0, 7 * side),
                textcoords="offset points",
                fontsize=8,
                va="top" if side < 0 else "bottom",
                ha="center",
                color=color,
            )
    axes.set_xticks(range(len(points)), list(points))
    axes.set_xlim(-0.6, len(points) - 0.4)
    axes.margins(y=0.18)
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
