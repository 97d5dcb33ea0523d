"""Plots of results, written to files with matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resnext_det.evaluation.coco import CocoMetrics, describe_limit
from resnext_det.evaluation.lettering import draw_figure, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

MAX_LEGEND = 20
"""More curves than this are drawn in gray with their mean, and without a legend."""

_WIDTH = 32  # of a name in the legend, in letters


def plot_precision_recall(metrics: CocoMetrics, path: str | Path, *, title: str = "") -> None:
    """Draw the precision-recall curves of a COCO evaluation into a file.

    On the left is the mean over the categories at every IoU threshold, on the right every category
    at IoU .50. Letters that no installed font has are written as escapes, such as \\u7ea2, with a
    warning.

    Args:
        path: its suffix chooses the format, as ".png".

    Raises:
        ValueError: the format is unknown.
    """
    with draw_figure(path, (13, 4.6), [title, *metrics.class_names]) as (figure, prepare):
        left, right = figure.subplots(1, 2, sharey=True)
        _plot_thresholds(left, metrics)
        _plot_categories(right, metrics, prepare)
        for axes in (left, right):
            axes.set(xlabel="recall", xlim=(0, 1), ylim=(0, 1.02))
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
        left.set_ylabel("precision")
        parts = [shorten(prepare(title), 100), describe_limit(metrics.max_detections)]
        if heading := "; ".join(part for part in parts if part):
            figure.suptitle(heading, parse_math=False)


def _plot_thresholds(axes: Axes, metrics: CocoMetrics) -> None:
    from matplotlib import colormaps

    curves = metrics.precision[:, :, :, 0, -1]
    recalls = np.linspace(0, 1, curves.shape[1])
    for index, threshold in enumerate(np.linspace(0.5, 0.95, len(curves))):
        defined = curves[index][:, (curves[index] > -1).any(axis=0)]
        if defined.size:
            color = colormaps["viridis"](index / len(curves))
            axes.plot(recalls, defined.mean(axis=1), color=color, label=f"IoU {threshold:.2f}")
    numbers = f"AP {metrics.AP:.1f}, AP50 {metrics.AP50:.1f}, AP75 {metrics.AP75:.1f}"
    axes.set_title(f"mean over categories: {numbers}")
    if axes.lines:
        _add_legend(axes, axes.lines)


def _plot_categories(axes: Axes, metrics: CocoMetrics, prepare: Callable[[str], str]) -> None:
    from matplotlib import colormaps

    curves = metrics.precision[0, :, :, 0, -1]
    recalls = np.linspace(0, 1, len(curves))
    averages = curves.mean(axis=0)
    order = [k for k in np.argsort(-averages, kind="stable") if (curves[:, k] > -1).all()]
    few = len(order) <= MAX_LEGEND
    palette = colormaps["tab20" if len(order) > 10 else "tab10"]
    for number, k in enumerate(order):
        name = shorten(prepare(metrics.class_names[k]), _WIDTH)
        if few:
            label = f"{name}: {100 * averages[k]:.1f}"
            axes.plot(recalls, curves[:, k], color=palette(number), label=label)
        else:
            axes.plot(recalls, curves[:, k], color="0.75", linewidth=0.8)
    if order:
        mean = curves[:, order].mean(axis=1)
        axes.plot(recalls, mean, color="black", linewidth=2, label=f"mean: {100 * mean.mean():.1f}")
        _add_legend(axes, axes.lines if few else axes.lines[-1:])
    left_out = len(metrics.class_names) - len(order)
    without = f" ({left_out} without objects left out)" if left_out else ""
    axes.set_title(f"{len(order)} categories at IoU 0.50{without}")


def _add_legend(axes: Axes, lines: Sequence[Line2D]) -> None:
    """Add a legend beside the axes, of labels as they are: also one that begins with _ or has $."""
    words = ["-"] * len(lines)
    legend = axes.legend(
        lines, words, fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5)
    )
    for text, line in zip(legend.get_texts(), lines, strict=True):
        text.set_parse_math(False)
        text.set_text(str(line.get_label()))
