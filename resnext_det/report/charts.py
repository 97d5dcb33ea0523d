"""Draw charts as SVG within the page, with matplotlib: sharp in print, of selectable text.

Lines differ by color, dashes and markers, bars by color and hatches, so that a chart is legible
without color vision. Names are written as they are, also with $ or in scripts that matplotlib's
fonts lack: the reader's browser has the letters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from resnext_det.evaluation.lettering import shorten
from resnext_det.files import escape_controls
from resnext_det.report.svg import Size, render_chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HALF: Size = (500, 260)
"""Of a chart that has another one beside it."""

WIDE: Size = (940, 300)

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's colors, which people of every color vision tell apart, without the yellow."""

_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
_MARKERS = ("", "o", "s", "^", "D", "v")
_HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "++++", "----")
_GRID, _INK = "#e3e6e9", "#1c1f23"
_NAME_WIDTH = 28  # of a name beside the axes, in letters
_MARKED = 8  # points of a line that have a marker


@dataclass(frozen=True)
class Line:
    """Hold a line of a chart.

    Attributes:
        name: in the legend.
        x, y: of its points; where y is nan the line has a gap.
        band: the lower and the upper y of an interval around it.
        quiet: draw it thin and gray, without an entry in the legend.
    """

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    band: tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray] | None = None
    quiet: bool = False


def draw_lines(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str = "",
    alt: str,
    x_limits: tuple[float | None, float | None] = (None, None),
    y_limits: tuple[float | None, float | None] = (None, None),
    marks: Mapping[str, float] | None = None,
    caption: str | Markup = "",
) -> Markup:
    """Draw lines, with a legend where several have a name.

    Args:
        alt: what the chart shows, for those who do not see it; once a page.
        x_limits, y_limits: of the axes; None follows the data.
        marks: texts and the x at which a vertical line bears them.
        caption: stands below; text is escaped, HTML kept.
    """

    def draw(axes: Axes) -> None:
        named = [line for line in lines if not line.quiet]
        for line in lines:
            if line.quiet:
                axes.plot(line.x, line.y, color="#b6bdc4", linewidth=0.8)
        handles = [
            _plot_line(axes, line, position, several=len(named) > 1)
            for position, line in enumerate(named)
        ]
        axes.set(xlim=x_limits, ylim=y_limits, xlabel=x_label, ylabel=y_label)
        axes.grid(color=_GRID, linewidth=0.8)
        _add_marks(axes, marks or {})
        if len(named) > 1:
            _add_names(axes, handles, [line.name for line in named])

    return render_chart(draw, HALF, alt, caption)


def draw_bars(
    names: Sequence[str],
    values: Mapping[str, Sequence[float]],
    *,
    x_label: str,
    alt: str,
    intervals: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    digits: int = 1,
    width: int = HALF[0],
    limit: float | None = None,
    caption: str | Markup = "",
) -> Markup:
    """Draw horizontal bars, one a name and series, with their values at the ends.

    Args:
        names: of the bars, from the top.
        values: a value a name for each series, by the series' name; nan is written as a dash.
        alt: what the chart shows, for those who do not see it; once a page.
        intervals: the lower and upper end of each value, by the series' name.
        digits: decimals of the values that are written.
        width: in pixels; the height follows the number of bars.
        limit: the right end of the axis; None follows the data.
        caption: stands below; text is escaped, HTML kept.
    """
    every = [value for series in values.values() for value in series if math.isfinite(value)]
    ends = [high for pairs in (intervals or {}).values() for _, high in pairs if high == high]
    right = limit or 1.02 * max([0.0, *every, *ends]) or 1.0
    left = min([0.0, *every])

    def draw(axes: Axes) -> None:
        height = 0.76 / max(1, len(values))
        for number, (name, series) in enumerate(values.items()):
            rows = np.arange(len(names)) + (number - (len(values) - 1) / 2) * height
            color = COLORS[number % len(COLORS)]
            hatch = _HATCHES[number % len(_HATCHES)]
            shown = np.nan_to_num(np.asarray(series, float))
            axes.barh(
                rows,
                shown,
                height=0.94 * height,
                color=color if not hatch else "white",
                edgecolor=color,
                hatch=hatch,
                linewidth=0.8,
                label=name,
            )
            pairs = (intervals or {}).get(name)
            for index, (row, value) in enumerate(zip(rows, series)):
                low, high = pairs[index] if pairs else (value, value)
                if pairs and low == low and high == high:
                    axes.plot([low, high], [row, row], color=_INK, linewidth=1.1)
                text = f"{value:.{digits}f}".replace("-", "\u2212") if value == value else "\u2013"
                end = max(value, high, 0.0) if value == value and high == high else 0.0
                axes.annotate(
                    text, (end, row), (4, 0), textcoords="offset points", va="center", fontsize=10
                )
        axes.set_yticks(range(len(names)), [_prepare(name) for name in names])
        axes.set(xlim=(left, right), ylim=(len(names) - 0.45, -0.55), xlabel=x_label)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=_GRID, linewidth=0.8)
        if len(values) > 1:
            handles = [bars[0] for bars in axes.containers]
            _add_names(axes, handles, list(values))

    rows = len(names) * max(1.0, 0.75 * len(values))
    return render_chart(draw, (width, round(56 + 24 * rows + 24 * (len(values) > 1))), alt, caption)


def draw_heatmap(
    values: np.ndarray,
    row_names: Sequence[str],
    column_names: Sequence[str],
    *,
    x_label: str,
    y_label: str,
    alt: str,
    shades: np.ndarray | None = None,
    caption: str | Markup = "",
) -> Markup:
    """Draw a matrix whose cells are shaded and hold whole numbers; zeros are left blank.

    Up to 30 rows and columns are legible.

    Args:
        values: (rows, columns).
        alt: what the chart shows, for those who do not see it; once a page.
        shades: (rows, columns) of 0, white, to 1, dark; None is in proportion to the values.
        caption: stands below; text is escaped, HTML kept.
    """
    values = np.asarray(values, float)
    rows, columns = values.shape
    dark = values / (np.nanmax(values, initial=0.0) or 1.0) if shades is None else shades
    longest = max(len(_prepare(name)) for name in [*row_names, *column_names])
    flat = 7 * longest + 12 <= 84 and columns <= 9  # names stand below their columns, unturned
    side = max(50, 7 * longest + 4) if flat else 50 if columns <= 12 else 34

    def draw(axes: Axes) -> None:
        axes.pcolormesh(dark, cmap="Blues", vmin=0, vmax=1.15, edgecolors="white", linewidth=1)
        for row, column in zip(*np.nonzero(np.nan_to_num(values))):
            value = f"{values[row, column]:.0f}"
            ink = "white" if dark[row, column] > 0.65 else _INK
            axes.text(
                column + 0.5,
                row + 0.5,
                value,
                ha="center",
                va="center",
                color=ink,
                fontsize=10 if side > 40 else 8,
            )
        turn = 0 if flat else 60
        axes.set_xticks(
            np.arange(columns) + 0.5,
            [_prepare(name) for name in column_names],
            rotation=turn,
            ha="right" if turn else "center",
            rotation_mode="anchor" if turn else None,
        )
        axes.set_yticks(np.arange(rows) + 0.5, [_prepare(name) for name in row_names])
        axes.set(xlim=(0, columns), ylim=(rows, 0), xlabel=x_label, ylabel=y_label)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)

    width = min(WIDE[0], 90 + 6 * longest + (side + 8) * columns)
    height = 70 + (0 if flat else 5 * longest) + (31 if side >= 50 else 21) * rows
    return render_chart(draw, (width, height), alt, caption)


def draw_histogram(
    samples: Mapping[str, Sequence[float] | np.ndarray],
    *,
    x_label: str,
    alt: str,
    bins: int | Sequence[float] | np.ndarray = 30,
    log_x: bool = False,
    share: bool = False,
    marks: Mapping[str, float] | None = None,
) -> Markup:
    """Draw how often values occur: filled for the first sample, as outlines for others.

    Args:
        samples: values by the sample's name.
        alt: what the chart shows, for those who do not see it; once a page.
        bins: their number, or their edges.
        log_x: draw x on a logarithmic scale, where bins widen in proportion.
        share: draw percent of each sample in place of numbers.
        marks: texts and the x at which a vertical line bears them.
    """
    arrays = {name: np.asarray(values, float) for name, values in samples.items()}
    edges = _choose_edges(list(arrays.values()), bins, log=log_x)

    def draw(axes: Axes) -> None:
        handles = []
        for number, values in enumerate(arrays.values()):
            counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0].astype(float)
            if share:
                counts *= 100 / max(1, len(values))
            color, dash = COLORS[number % len(COLORS)], _DASHES[number % len(_DASHES)]
            handles.append(
                axes.stairs(
                    counts,
                    edges,
                    fill=number == 0,
                    color=color,
                    linestyle=dash,
                    linewidth=1.6,
                    alpha=0.75 if number == 0 else 1.0,
                )
            )
        if log_x:
            axes.set_xscale("log")
            _write_plain_ticks(axes)
        axes.set(xlim=(edges[0], edges[-1]), xlabel=x_label)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("share, %" if share else "number")
        axes.grid(axis="y", color=_GRID, linewidth=0.8)
        _add_marks(axes, marks or {})
        if len(arrays) > 1:
            _add_names(axes, handles, list(arrays))

    return render_chart(draw, HALF, alt, "")


def _plot_line(axes: Axes, line: Line, position: int, *, several: bool) -> Any:
    """Plot a line with its band; return what stands for it in a legend."""
    color = COLORS[position % len(COLORS)]
    marker = _MARKERS[position % len(_MARKERS)] if several else ""
    dash = _DASHES[position % len(_DASHES)]
    few = len(line.x) <= 3 * _MARKED
    (handle,) = axes.plot(
        line.x,
        line.y,
        color=color,
        linestyle=dash,
        linewidth=1.6,
        markersize=4.5,
        marker="o" if few and not several and len(line.x) <= _MARKED else marker,
        markevery=1 if few else max(1, len(line.x) // _MARKED),
    )
    if line.band is not None:
        axes.fill_between(line.x, *line.band, color=color, alpha=0.16, linewidth=0)
    return handle


def _add_names(axes: Axes, handles: Sequence[Any], names: Sequence[str]) -> None:
    """Add a legend above the axes, of names as they are: also one that begins with _ or has $."""
    widest = max(len(_prepare(name)) for name in names)
    width = 72 * axes.figure.bbox.width / axes.figure.dpi  # in pixels of the page
    columns = int(width // (60 + 7 * widest))
    legend = axes.figure.legend(
        handles,
        ["-"] * len(names),
        loc="outside upper left",
        frameon=False,
        fontsize=11,
        ncols=min(max(1, columns), len(names)),
        handlelength=2.6,
        columnspacing=1.6,
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(_prepare(name))


def _add_marks(axes: Axes, marks: Mapping[str, float]) -> None:
    """Draw vertical lines with texts; of several the texts stand along the lines."""
    left, right = axes.get_xlim()
    middle = math.sqrt(left * right) if axes.get_xscale() == "log" else (left + right) / 2
    turned = len(marks) > 1
    for text, x in marks.items():
        axes.axvline(x, color=_INK, linewidth=1, linestyle=(0, (3, 2)))
        beyond = x > middle and not turned
        axes.annotate(
            _prepare(text),
            (x, 1),
            (-4 if beyond else 4, -2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            fontsize=10,
            ha="right" if beyond else "left",
            va="top",
            rotation=90 if turned else 0,
            color=_INK,
            parse_math=False,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )


def _choose_edges(
    arrays: Sequence[np.ndarray], bins: int | Sequence[float] | np.ndarray, *, log: bool
) -> np.ndarray:
    if not isinstance(bins, int):
        return np.asarray(bins, float)
    values = np.concatenate([*arrays, np.empty(0)])
    values = values[np.isfinite(values) & ((values > 0) | (not log))]
    if not values.size:
        return np.linspace(0.1 if log else 0, 1, bins + 1)
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = (low / 1.5, high * 1.5) if log else (low - 0.5, high + 0.5)
    return np.geomspace(low, high, bins + 1) if log else np.linspace(low, high, bins + 1)


def _write_plain_ticks(axes: Axes) -> None:
    """Write 20, 50, 100 on a logarithmic axis in place of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _prepare(text: str) -> str:
    return shorten(escape_controls(" ".join(text.split())), _NAME_WIDTH)
