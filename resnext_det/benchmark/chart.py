"""Draw comparisons as bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resnext_det.benchmark.comparison import Comparison
from resnext_det.benchmark.presentation import compute_numbers, format_milliseconds
from resnext_det.benchmark.timing import Timing
from resnext_det.evaluation.lettering import draw_figure
from resnext_det.training.machine import Machine

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OURS, _OTHERS = "#1f6fb4", "#a9b1ba"
_LIGHTER = 0.55  # the opacity of a lower precision
_ROW, _HEAD = 0.27, 0.95  # inches


def draw_chart(path: str | Path, machine: Machine, comparisons: Sequence[Comparison]) -> None:
    """Draw the median of every implementation as a bar, the fastest first, a panel for a table.

    Ours are blue, others gray; a line shows the fastest and the slowest turn.

    Args:
        path: its suffix chooses the format, as ".png".

    Raises:
        ValueError: the format is unknown, or there is nothing to draw.
    """
    panels = [
        (comparison, network)
        for comparison in comparisons
        for network in dict.fromkeys(timing.network for timing in comparison.timings)
    ]
    if not panels:
        raise ValueError("nothing was timed, so there is nothing to draw")
    groups = [[t for t in one.timings if t.network == network] for one, network in panels]
    heights = [_HEAD + _ROW * len(group) for group in groups]
    texts = [machine.describe(), *(one.title for one, _ in panels)]
    with draw_figure(path, (10, sum(heights) + 0.6), texts) as (figure, prepare):
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axis, (comparison, network), group in zip(axes, panels, groups):
            _draw_panel(axis, comparison, group)
            title = f"{network}: {comparison.title}" if network else comparison.title
            axis.set_title(prepare(title), loc="left", fontsize=10, fontweight="bold")
        reference = comparisons[0].reference
        axes[-1].set_xlabel(
            "milliseconds, median and range of the turns; beside it, how many times as fast as "
            f"{reference} in float32",
            fontsize=8,
        )
        _add_legend(axes[0], {timing.dtype for group in groups for timing in group})
        lines = "\n".join(map(prepare, machine.describe().splitlines()))
        figure.supxlabel(lines, fontsize=7, color="0.35")


def _add_legend(axes: Axes, dtypes: set[str]) -> None:
    """Say what the colors mean, at the top, where bars are short."""
    from matplotlib.patches import Patch

    patches = [Patch(color=_OURS, label="resnext_det"), Patch(color=_OTHERS, label="others")]
    if lower := sorted(dtypes - {"float32"}):
        patches.append(Patch(color=_OURS, alpha=_LIGHTER, label=f"lighter: {', '.join(lower)}"))
    axes.legend(handles=patches, loc="upper right", fontsize=8, frameon=False)


def _draw_panel(axes: Axes, comparison: Comparison, timings: Sequence[Timing]) -> None:
    ordered = sorted(timings, key=lambda timing: timing.median)
    longest = max(max(timing.seconds) for timing in ordered) * 1000
    several = len({timing.dtype for timing in ordered}) > 1
    for row, timing in enumerate(ordered):
        middle = 1000 * timing.median
        ours = timing.name.startswith("resnext_det")
        lower = timing.dtype != "float32"
        axes.barh(
            row,
            middle,
            height=0.74,
            color=_OURS if ours else _OTHERS,
            alpha=_LIGHTER if lower else 1.0,
        )
        low, high = 1000 * min(timing.seconds), 1000 * max(timing.seconds)
        axes.plot([low, high], [row, row], color="0.15", linewidth=1)
        ratio = compute_numbers(comparison, timing)["speed_up"]
        text = f"{format_milliseconds(timing.median)} ms"
        if ratio is not None:
            text += f"   {ratio:.2f}x"
        axes.text(high + 0.012 * longest, row, text, va="center", fontsize=8)
    names = [f"{t.name} ({t.dtype})" if several else t.name for t in ordered]
    axes.set_yticks(range(len(ordered)), names, fontsize=8)
    axes.set(xlim=(0, 1.22 * longest), ylim=(len(ordered) - 0.4, -0.6))
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
