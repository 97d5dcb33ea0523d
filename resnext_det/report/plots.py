"""Plots of results, written to files with matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resnext_det.evaluation.coco import CocoMetrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_LEGEND = 20
"""More curves than this are drawn in gray with their mean, and without a legend."""


def plot_precision_recall(metrics: CocoMetrics, path: str | Path, *, title: str = "") -> None:
    """Draw the precision-recall curves of a COCO evaluation into a file.

    On the left is the mean over the categories at every IoU threshold, on the right every category
    at IoU .50.

    Args:
        path: its suffix chooses the format, as ".png".

    Raises:
        ValueError: the format is unknown, or matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ValueError(
            "drawing needs matplotlib, which is not installed; "
            "write pip install 'resnext-det[plots]'"
        ) from error

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _plot_thresholds(left, metrics)
    _plot_categories(right, metrics)
    for axes in (left, right):
        axes.set(xlabel="recall", xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel("precision")
    if title:
        figure.suptitle(title)
    figure.savefig(path, dpi=150)


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
        axes.legend(fontsize=8, frameon=False, loc="upper right")


def _plot_categories(axes: Axes, metrics: CocoMetrics) -> None:
    curves = metrics.precision[0, :, :, 0, -1]
    recalls = np.linspace(0, 1, len(curves))
    averages = curves.mean(axis=0)
    order = [k for k in np.argsort(-averages) if (curves[:, k] > -1).all()]
    few = len(order) <= MAX_LEGEND
    for k in order:
        label = f"{metrics.class_names[k]} {100 * averages[k]:.1f}"
        if few:
            axes.plot(recalls, curves[:, k], label=label)
        else:
            axes.plot(recalls, curves[:, k], color="0.75", linewidth=0.8)
    if order:
        mean = curves[:, order].mean(axis=1)
        axes.plot(recalls, mean, color="black", linewidth=2, label=f"mean {100 * mean.mean():.1f}")
        axes.legend(fontsize=8, frameon=False, loc="lower left" if few else "upper right")
    axes.set_title("every category at IoU 0.50")
