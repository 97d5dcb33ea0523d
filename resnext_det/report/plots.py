"""Plots of results, written to files with matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resnext_det.evaluation.coco import CocoMetrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_LEGEND = 20
"""More curves than this are drawn in grey with their mean, without a legend that nobody could read."""


def plot_precision_recall(metrics: CocoMetrics, path: str | Path, *, title: str = "") -> None:
    """Draw the precision-recall curves of a COCO evaluation into a file, whose suffix says the format.

    On the left the mean over the categories at every IoU threshold, on the right every category at IoU .50.
    """
    from matplotlib.figure import Figure

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

    curves = _defined(metrics.precision[:, :, :, 0, -1])
    recalls = np.linspace(0, 1, curves.shape[1])
    for index, threshold in enumerate(np.linspace(0.5, 0.95, len(curves))):
        shown = curves[index][:, ~np.isnan(curves[index]).all(axis=0)]
        if shown.size:
            colour = colormaps["viridis"](index / len(curves))
            axes.plot(recalls, shown.mean(axis=1), color=colour, label=f"IoU {threshold:.2f}")
    axes.set_title(
        f"mean over categories: AP {metrics.AP:.1f}, AP50 {metrics.AP50:.1f}, AP75 {metrics.AP75:.1f}"
    )
    if axes.lines:
        axes.legend(fontsize=8, frameon=False, loc="upper right")


def _plot_categories(axes: Axes, metrics: CocoMetrics) -> None:
    curves = _defined(metrics.precision[0, :, :, 0, -1])
    recalls = np.linspace(0, 1, len(curves))
    order = [
        k
        for k in np.argsort(-np.nanmean(np.nan_to_num(curves), axis=0))
        if not np.isnan(curves[:, k]).any()
    ]
    few = len(order) <= MAX_LEGEND
    for k in order:
        label = f"{metrics.class_names[k]} {100 * curves[:, k].mean():.1f}"
        if few:
            axes.plot(recalls, curves[:, k], label=label)
        else:
            axes.plot(recalls, curves[:, k], color="0.75", linewidth=0.8)
    if order:
        mean = curves[:, order].mean(axis=1)
        axes.plot(recalls, mean, color="black", linewidth=2, label=f"mean {100 * mean.mean():.1f}")
        axes.legend(fontsize=8, frameon=False, loc="upper right" if not few else "lower left")
    axes.set_title("every category at IoU 0.50")


def _defined(precision: np.ndarray) -> np.ndarray:
    return np.where(precision > -1, precision, np.nan)
