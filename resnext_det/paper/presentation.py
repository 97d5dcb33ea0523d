"""How a comparison is shown: as text in columns, as Markdown, as JSON and as a picture."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tabulate import tabulate

from resnext_det.paper.figures import METRICS, MINIVAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from resnext_det.paper.rows import Difference, Estimate, Row

_SOURCES: dict[str, tuple[str, dict[str, Any]]] = {
    "paper": ("table 8 of the paper", {"fmt": "D", "fillstyle": "none", "color": "0.35"}),
    "joint": ("measured, joint training", {"fmt": "o", "color": "tab:blue"}),
    "two-step": ("measured, two-step training", {"fmt": "o", "color": "tab:orange"}),
}


class _Point(NamedTuple):
    """What is drawn at one place: a figure with its text and spread, and the values that it is the mean of."""

    text: str
    height: float
    spread: float | None = None
    values: tuple[float, ...] = ()


Points = dict[str, dict[str, _Point]]
"""By name below the horizontal axis, then by "paper" or protocol."""


@dataclass(frozen=True)
class Comparison:
    """Runs of several networks on one test set, beside the paper's table 8.

    Attributes:
        rows: by depth, cardinality, width and protocol.
        differences: X - R at each depth, by protocol.
        notes: what makes the comparison, of the runs with one another or with the paper, less than fair.
    """

    test_set: str
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]

    @property
    def on_minival(self) -> bool:
        """Whether the paper's figures can be compared with those measured."""
        return self.test_set in MINIVAL

    def table(self) -> str:
        """Rows, differences and notes as text in columns."""
        return as_text(self, markdown=False)

    def to_markdown(self) -> str:
        """Rows, differences and notes as Markdown."""
        return as_text(self, markdown=True)

    def to_json(self) -> str:
        """All of it as a JSON object; null stands for what was not measured or is not in the paper."""
        return as_json(self)


def as_text(comparison: Comparison, *, markdown: bool) -> str:
    """Title, rows, differences and notes; as Markdown, or aligned for a terminal."""
    style = "pipe" if markdown else "simple"
    columns = [f"{metric}{source}" for metric in METRICS for source in (", paper", "")]
    title = f"Table 8 of the ResNeXt paper (COCO minival), and runs tested on {comparison.test_set}; percent"
    paragraphs = [
        f"## {title}" if markdown else title,
        _columns(
            style, ["net", "setting", "protocol", "n", *columns], map(_row_cells, comparison.rows)
        ),
        "Measured: the mean of n runs ± their sample standard deviation.",
    ]
    if comparison.differences:
        paired = any(difference.paired("AP") for difference in comparison.differences)
        names = ["X - R", "protocol", "n", *columns]
        names += ["pairs", *(f"{metric}, paired" for metric in METRICS)] if paired else []
        cells = [
            _difference_cells(difference)[: len(names)] for difference in comparison.differences
        ]
        explanation = (
            "X - R: the difference of the means ± its standard error; n: the runs of X, of R."
        )
        if paired:
            explanation += (
                "\nPaired: the mean difference of runs with equal SEED ± its standard error."
            )
        paragraphs += [_columns(style, names, cells), explanation]
    if comparison.notes:
        paragraphs.append(
            "\n".join(f"{'-' if markdown else 'note:'} {note}" for note in comparison.notes)
        )
    return "\n\n".join(paragraphs)


def as_json(comparison: Comparison) -> str:
    """The same with all digits, and with every run."""
    content = {
        "test_set": comparison.test_set,
        "rows": [_row_as_dict(row) for row in comparison.rows],
        "differences": [_difference_as_dict(difference) for difference in comparison.differences],
        "notes": comparison.notes,
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def plot_comparison(comparison: Comparison, path: str | Path) -> None:
    """Draw AP50 and AP, and below them the differences X - R, into a file whose suffix says the format.

    A large dot is a mean of runs, a small one a run. The paper's figures, diamonds, are drawn on COCO minival alone.
    """
    from matplotlib.figure import Figure

    above = [_points_of_rows(comparison, metric) for metric in METRICS]
    below = [_points_of_differences(comparison, metric) for metric in METRICS]
    figures = [above, below] if below[0] else [above]
    size = max(13, 2.8 * len(above[0])), 1 + 3.6 * len(figures)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(figures), 2, squeeze=False)
    for row, points in zip(panels, figures):
        for axes, of_metric, metric in zip(row, points, METRICS):
            _draw(axes, of_metric)
            axes.set_title(f"{metric}: mean of the runs, standard deviation")
    if below[0]:
        for axes, metric in zip(panels[1], METRICS):
            axes.axhline(0, color="black", linewidth=0.8)
            axes.set_title(f"{metric}: difference X - R, standard error")
    for axes, unit in zip(panels[:, 0], ("percent", "percentage points")):
        axes.set_ylabel(unit)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    legend = dict(zip(labels, handles))
    figure.legend(
        legend.values(), legend.keys(), loc="outside lower center", ncols=3, frameon=False
    )
    figure.suptitle(f"ResNet and ResNeXt on {comparison.test_set}")
    figure.savefig(path, dpi=150)


def _points_of_rows(comparison: Comparison, metric: str) -> Points:
    points: Points = {}
    for row in comparison.rows:
        of_network = points.setdefault(f"{row.net}\n{row.setting}".replace(" (", "\n("), {})
        paper, measured = row.paper(metric), row.measured(metric)
        if paper is not None and comparison.on_minival:
            of_network["paper"] = _Point(f"{paper:.1f}", paper)
        if measured is not None and row.protocol is not None:
            values = tuple(getattr(run, metric) for run in row.runs)
            of_network[row.protocol] = _Point(
                f"{measured.mean:.1f}", measured.mean, measured.spread, values
            )
    return {name: of_network for name, of_network in points.items() if of_network}


def _points_of_differences(comparison: Comparison, metric: str) -> Points:
    points: Points = {}
    for pair in comparison.differences:
        of_pair = points.setdefault(f"{pair.x.name}\n- {pair.r.name}".replace(" (", "\n("), {})
        paper, measured = pair.paper(metric), pair.measured(metric)
        if paper is not None and comparison.on_minival:
            of_pair["paper"] = _Point(f"{paper:+.1f}", paper)
        if measured is not None and pair.x.protocol is not None:
            of_pair[pair.x.protocol] = _Point(
                f"{measured.mean:+.1f}", measured.mean, measured.spread
            )
    return {name: of_pair for name, of_pair in points.items() if of_pair}


def _draw(axes: Axes, points: Points) -> None:
    """The points of each name side by side, in the order of the sources."""
    present = [
        source for source in _SOURCES if any(source in of_name for of_name in points.values())
    ]
    for index, of_name in enumerate(points.values()):
        for source, point in of_name.items():
            place = index + 0.28 * (present.index(source) - (len(present) - 1) / 2)
            label, style = _SOURCES[source]
            axes.plot(
                [place] * len(point.values), point.values, ".", color=style["color"], alpha=0.5
            )
            axes.errorbar(place, point.height, point.spread, label=label, capsize=4, **style)
            # The paper's below and the others above their points, so that equal heights do not collide.
            side = -1 if source == "paper" else 1
            end = place, point.height + side * (point.spread or 0)
            text = {"va": "top" if side < 0 else "bottom", "ha": "center", "color": style["color"]}
            axes.annotate(
                point.text,
                end,
                xytext=(0, 7 * side),
                textcoords="offset points",
                fontsize=8,
                **text,
            )
    axes.set_xticks(range(len(points)), list(points))
    axes.set_xlim(-0.6, len(points) - 0.4)
    axes.margins(y=0.18)
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _columns(style: str, names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose columns from ``n`` on are numbers."""
    words = names.index("n")
    alignment = ["left"] * words + ["right"] * (len(names) - words)
    return tabulate(list(rows), names, tablefmt=style, colalign=alignment, disable_numparse=True)


def _row_cells(row: Row) -> list[str]:
    cells = [row.net, row.setting, row.protocol or "-", str(len(row.runs) or "-")]
    for metric in METRICS:
        cells += [_cell(row.paper(metric)), _cell(row.measured(metric))]
    return cells


def _difference_cells(difference: Difference) -> list[str]:
    x, r = difference.x, difference.r
    count = f"{len(x.runs)}, {len(r.runs)}" if x.runs else "-"
    cells = [f"{x.name} - {r.name}", x.protocol or "-", count]
    for metric in METRICS:
        cells += [_cell(difference.paper(metric), "+"), _cell(difference.measured(metric), "+")]
    paired = [_cell(difference.paired(metric), "+") for metric in METRICS]
    return [*cells, str(len(difference.seeds)) if difference.paired("AP") else "-", *paired]


def _cell(value: Estimate | float | None, sign: str = "") -> str:
    if value is None:
        return "-"
    return f"{value:{sign}.1f}" if isinstance(value, float) else value.text(sign)


def _row_as_dict(row: Row) -> dict[str, Any]:
    return {
        "network": str(row.network),
        **asdict(row.network),
        "protocol": row.protocol,
        "n": len(row.runs),
        **{metric: _figures(row.paper(metric), row.measured(metric)) for metric in METRICS},
        "runs": [
            {
                "output_dir": str(run.output_dir),
                "seed": run.seed,
                "last_checkpoint": run.last_checkpoint,
                **{metric: getattr(run, metric) for metric in METRICS},
            }
            for run in row.runs
        ],
    }


def _difference_as_dict(difference: Difference) -> dict[str, Any]:
    paired = {metric: difference.paired(metric) for metric in METRICS}
    return {
        "X": str(difference.x.network),
        "R": str(difference.r.network),
        "protocol": difference.x.protocol,
        "n": [len(difference.x.runs), len(difference.r.runs)],
        "seeds": difference.seeds,
        **{
            metric: {
                **_figures(difference.paper(metric), difference.measured(metric)),
                "paired": None if estimate is None else asdict(estimate),
            }
            for metric, estimate in paired.items()
        },
    }


def _figures(paper: float | None, measured: Estimate | None) -> dict[str, Any]:
    return {"paper": paper, "measured": None if measured is None else asdict(measured)}
