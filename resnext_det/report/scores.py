"""Show what a detector's scores say: with which one to use it, and what it confuses then."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from resnext_det.evaluation.analysis import DetectionAnalysis
from resnext_det.evaluation.score_curves import ScoreCurves
from resnext_det.report.charts import Line, draw_heatmap, draw_lines
from resnext_det.report.page import join, place_beside, write_paragraph
from resnext_det.report.tables import Cell, format_table

_NAMED = 6  # classes whose curves have a name
_LARGEST_MATRIX = 24  # classes that a matrix shows legibly


def read_at(curves: ScoreCurves, score: float) -> tuple[float, float]:
    """Read precision and recall, 0 to 1, of the detections of a score or more."""
    index = int(np.abs(curves.scores - score).argmin())
    return float(curves.precision[index]), float(curves.recall[index])


def show_curves(analysis: DetectionAnalysis, what: str) -> Markup:
    """Show precision against recall, and precision, recall and F1 against the score.

    Args:
        what: was found, "boxes" or "masks".
    """
    curves, best = analysis.by_score, analysis.by_score.best_score
    by_score = draw_lines(
        [
            Line("precision", curves.scores, curves.precision),
            Line("recall", curves.scores, curves.recall),
            Line("F1", curves.scores, curves.f1),
        ],
        x_label="score that a detection has at least",
        alt=f"Precision, recall and F1 of {what} against the score; F1 is highest at {best:.2f}",
        x_limits=(0, 1),
        y_limits=(0, 1.02),
        marks={f"use {best:.2f}": best} if best == best else None,
        caption="All classes together, at IoU 0.50. F1 is highest at the score to use; a higher "
        "score gives fewer wrong detections, a lower one fewer missed objects.",
    )
    return place_beside([_draw_precision_recall(analysis, what), by_score])


def _draw_precision_recall(analysis: DetectionAnalysis, what: str) -> Markup:
    metrics = analysis.metrics
    at_50 = metrics.precision[0, :, :, 0, -1]
    defined = [k for k in range(at_50.shape[1]) if (at_50[:, k] > -1).all()]
    recalls = np.linspace(0, 1, len(at_50))
    few = len(defined) <= _NAMED
    step = 1 if few else 2  # of many thin lines every other point is enough, for half the bytes
    lines = [
        Line(metrics.class_names[k], recalls[::step], at_50[::step, k], quiet=not few)
        for k in defined
    ]
    if len(defined) > 1 and not few:
        lines.append(Line("mean, IoU 0.50", recalls, at_50[:, defined].mean(axis=1)))
        at_75 = metrics.precision[5, :, :, 0, -1][:, defined]
        lines.append(Line("mean, IoU 0.75", recalls, at_75.mean(axis=1)))
    return draw_lines(
        lines,
        x_label="recall",
        y_label="precision",
        alt=f"Precision against recall of {what} of {len(defined)} classes at IoU 0.50; the areas "
        "are AP50",
        x_limits=(0, 1),
        y_limits=(0, 1.02),
        caption="At IoU 0.50; the area under a curve is AP50"
        + (" of its class." if few else ". Every gray line is a class."),
    )


def show_confusion(analysis: DetectionAnalysis, what: str) -> Markup:
    """Show which classes are taken for which, as a matrix where there are few, and as a list.

    Args:
        what: was found, "boxes" or "masks".
    """
    matrix = analysis.confusion
    counts = matrix.counts
    totals = counts.sum(axis=1)
    parts = []
    if len(matrix.names) <= _LARGEST_MATRIX:
        shades = counts / np.maximum(totals, 1)[:, None]
        parts.append(
            draw_heatmap(
                counts,
                [*matrix.names, "(nothing)"],
                [*matrix.names, "(missed)"],
                x_label="detected as",
                y_label="object",
                shades=shades,
                alt=f"Confusion matrix of {what} of {len(matrix.names)} classes; its largest "
                "entries off the diagonal are in the table",
                caption=f"Detections of score {matrix.score:.2f} or more at IoU {matrix.iou:.2f}. "
                "A row is the objects of a class; the darker, the larger the part of the row.",
            )
        )
    between = counts[:-1, :-1].copy()
    np.fill_diagonal(between, 0)
    flat = np.argsort(-between, axis=None, kind="stable")[:10]
    pairs = [tuple(map(int, np.unravel_index(place, between.shape))) for place in flat]
    rows: list[list[Cell]] = [
        [
            matrix.names[row],
            matrix.names[column],
            int(between[row, column]),
            100 * between[row, column] / totals[row],
        ]
        for row, column in pairs
        if between[row, column]
    ]
    if rows:
        headers = ["object", "detected as", "times", "% of its objects"]
        parts.append(format_table(headers, rows, "The most frequent confusions"))
    elif len(matrix.names) > 1:
        parts.append(write_paragraph("No class is taken for another at this score."))
    return join(parts)
