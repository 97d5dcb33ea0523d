"""Show how good a detector is on a test set, where it fails, and with which score to use it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from resnext_det.evaluation.analysis import DetectionAnalysis
from resnext_det.evaluation.coco import describe_limit
from resnext_det.evaluation.coco_files import GroundTruth
from resnext_det.evaluation.score_curves import ScoreCurves
from resnext_det.report.charts import Line, draw_bars, draw_heatmap, draw_lines
from resnext_det.report.error_kinds import DESCRIPTIONS
from resnext_det.report.page import fold, join, place_beside, render_fragment, write_paragraph
from resnext_det.report.tables import Cell, format_cell, format_interval, format_table

_MANY = 20  # classes, of which the charts show the worst
_NAMED = 6  # classes whose curves have a name
_LARGEST_MATRIX = 24  # classes that a matrix shows legibly
_SIZES = {
    "s": "small (below 32 x 32 pixels)",
    "m": "medium",
    "l": "large (above 96 x 96 pixels)",
}


def format_headline(analysis: DetectionAnalysis) -> Markup:
    """Format the numbers that come first: AP, AP50, AP75, the score to use and what it gives."""
    numbers = analysis.metrics.as_dict()
    items = []
    for name in ("AP", "AP50", "AP75"):
        interval = analysis.intervals.get(name)
        small = f"95 %: {format_interval(*interval)}" if interval else ""
        items.append((name, format_cell(float(numbers[name])), small))
    if analysis.metrics.segm is not None:
        small = f"AP50 {format_cell(analysis.metrics.segm.AP50)}"
        items.append(("AP of masks", format_cell(analysis.metrics.segm.AP), small))
    best = analysis.by_score.best_score
    if best == best:
        precision, recall = read_at(analysis.by_score, best)
        small = f"precision {precision:.0%}, recall {recall:.0%}"
        items.append(("score to use", f"{best:.2f}", small))
    return render_fragment(
        '<dl class="numbers">{% for name, value, small in items %}\n<div><dt>{{ name }}</dt>'
        "<dd>{{ value }}{% if small %}<small>{{ small }}</small>{% endif %}</dd></div>"
        "{% endfor %}\n</dl>",
        items=items,
    )


def read_at(curves: ScoreCurves, score: float) -> tuple[float, float]:
    """Read precision and recall, 0 to 1, of the detections of a score or more."""
    index = int(np.abs(curves.scores - score).argmin())
    return float(curves.precision[index]), float(curves.recall[index])


def describe_main_fault(analysis: DetectionAnalysis) -> str:
    """Say which kind of error costs most, in a sentence; "" where none costs anything."""
    worst = max(analysis.errors, key=lambda error: error.cost)
    if not worst.cost > 0:
        return ""
    times = f"{format_cell(worst.count_at_score)} time{'s' * (worst.count_at_score != 1)}"
    best = analysis.by_score.best_score
    return (
        f"Its costliest kind of error: {worst.kind} ({DESCRIPTIONS[worst.kind].words}), {times}"
        f"{f' at the score {best:.2f}' if best == best else ''}; without these AP50 would be "
        f"{worst.cost:.1f} points higher."
    )


def show_errors(analysis: DetectionAnalysis) -> Markup:
    """Show the kinds of errors with what each costs, the costliest first."""
    errors = sorted(analysis.errors, key=lambda error: -error.cost)
    chart = draw_bars(
        [error.kind for error in errors],
        {"cost": [error.cost for error in errors]},
        x_label="points of AP50 that are lost",
        alt="Kinds of errors by the AP50 that each costs: "
        + ", ".join(f"{error.kind} {error.cost:.1f}" for error in errors),
    )
    rows: list[list[Cell]] = [
        [error.kind, DESCRIPTIONS[error.kind].words, error.count_at_score, error.count, error.cost]
        for error in errors
    ]
    best = analysis.by_score.best_score
    score = f"at score {best:.2f}" if best == best else "at the score to use"
    table = format_table(["error", "what it is", score, "in all", "costs AP50"], rows)
    note = write_paragraph(
        "The cost is what AP50 would gain if errors of this kind alone were mended, as TIDE "
        "computes it; costs do not add up.",
        note=True,
    )
    return join([chart, table, note])


def show_numbers(analysis: DetectionAnalysis) -> Markup:
    """Show COCO's twelve numbers with intervals, those of masks, and how many objects there are."""
    numbers = analysis.metrics.as_dict(recalls=True)
    masks = {} if analysis.metrics.segm is None else analysis.metrics.segm.as_dict(recalls=True)
    counts = {"": analysis.objects, **_count_sizes(analysis.truth)}
    rows: list[list[Cell]] = []
    for name, value in numbers.items():
        if "-" in name:  # of a class
            continue
        size = name[-1] if name[-1] in _SIZES else ""
        interval = analysis.intervals.get(name)
        told = format_interval(*interval) if interval else None
        row = [name, _describe_number(name, size), counts.get(size), float(value), told]
        rows.append(row + ([float(masks[name])] if masks else []))
    limit = describe_limit(analysis.metrics.max_detections)
    note = write_paragraph(
        "Intervals are over images drawn anew: other images of the same kind would give a number "
        "within, 95 times of 100. They say nothing of other seeds."
        + (f" Counted are {limit}." if limit else ""),
        note=True,
    )
    headers = ["number", "of", "objects", "%", "95 % interval", *(["masks, %"] if masks else [])]
    return join([format_table(headers, rows, strong=[0]), note])


def _describe_number(name: str, size: str) -> str:
    """Describe what one of COCO's twelve numbers is of."""
    if size:
        return f"{_SIZES[size]} objects"
    if name.startswith("AR"):
        return f"{name[2:]} detection{'s' * (name != 'AR1')} an image at most"
    return {"AP50": "IoU 0.50", "AP75": "IoU 0.75"}.get(name, "the mean over IoU 0.50 to 0.95")


def _count_sizes(truth: GroundTruth) -> dict[str, int]:
    """Count objects by COCO's sizes, which go by the areas that the annotations tell."""
    areas = truth.areas[truth.crowd == 0]
    small, large = areas < 32**2, areas > 96**2
    each = (small, ~small & ~large, large)
    return {name: int(chosen.sum()) for name, chosen in zip("sml", each, strict=True)}


def show_classes(analysis: DetectionAnalysis, trained_on: Sequence[int] | None = None) -> Markup:
    """Show AP, and precision and recall at the best score, of every class, the worst first.

    Args:
        trained_on: the number of objects of every class in the training sets.
    """
    metrics = analysis.metrics
    order = sorted(range(len(metrics.class_names)), key=lambda k: _rank(metrics.category_ap[k]))
    rows: list[list[Cell]] = []
    for k in order:
        curves = analysis.class_scores[k]
        name, best = metrics.class_names[k], curves.best_score
        interval = analysis.intervals.get(f"AP-{name}")
        precision, recall = read_at(curves, best) if best == best else (np.nan, np.nan)
        row: list[Cell] = [name, curves.objects]
        row += [trained_on[k]] if trained_on is not None else []
        row += [metrics.category_ap[k], format_interval(*interval) if interval else None]
        row += [f"{best:.2f}" if best == best else None, 100 * precision, 100 * recall]
        row += [] if metrics.segm is None else [metrics.segm.category_ap[k]]
        rows.append(row)
    headers = ["class", "objects", *(["to train on"] if trained_on is not None else []), "AP"]
    headers += ["95 % interval", "best score", "precision, %", "recall, %"]
    headers += [] if metrics.segm is None else ["AP of masks"]
    shown = order[:_MANY]
    known = [analysis.intervals.get(f"AP-{metrics.class_names[k]}") for k in shown]
    intervals = [pair for pair in known if pair is not None]
    chart = draw_bars(
        [metrics.class_names[k] for k in shown],
        {"AP": [metrics.category_ap[k] for k in shown]},
        intervals={"AP": intervals} if len(intervals) == len(shown) else None,
        x_label="AP, %, with 95 % interval" if intervals else "AP, %",
        alt=f"AP of {'the worst ' * (len(order) > _MANY)}{len(shown)} classes, as in the table",
    )
    table = format_table(headers, rows)
    if len(order) > _MANY:
        worst = format_table(headers, rows[:_MANY], f"The {_MANY} classes of the lowest AP")
        table = join([worst, fold(f"All {len(order)} classes", table)])
    return join([table, chart])


def _rank(value: float) -> float:
    return value if value == value else np.inf


def show_curves(analysis: DetectionAnalysis) -> Markup:
    """Show precision against recall, and precision, recall and F1 against the score."""
    curves, best = analysis.by_score, analysis.by_score.best_score
    by_score = draw_lines(
        [
            Line("precision", curves.scores, curves.precision),
            Line("recall", curves.scores, curves.recall),
            Line("F1", curves.scores, curves.f1),
        ],
        x_label="score that a detection has at least",
        alt=f"Precision, recall and F1 against the score; F1 is highest at {best:.2f}",
        x_limits=(0, 1),
        y_limits=(0, 1.02),
        marks={f"use {best:.2f}": best} if best == best else None,
        caption="All classes together, at IoU 0.50. F1 is highest at the score to use; a higher "
        "score gives fewer wrong detections, a lower one fewer missed objects.",
    )
    return place_beside([_draw_precision_recall(analysis), by_score])


def _draw_precision_recall(analysis: DetectionAnalysis) -> Markup:
    metrics = analysis.metrics
    at_50 = metrics.precision[0, :, :, 0, -1]
    defined = [k for k in range(at_50.shape[1]) if (at_50[:, k] > -1).all()]
    recalls = np.linspace(0, 1, len(at_50))
    few = len(defined) <= _NAMED
    lines = [Line(metrics.class_names[k], recalls, at_50[:, k], quiet=not few) for k in defined]
    if len(defined) > 1 and not few:
        lines.append(Line("mean, IoU 0.50", recalls, at_50[:, defined].mean(axis=1)))
        at_75 = metrics.precision[5, :, :, 0, -1][:, defined]
        lines.append(Line("mean, IoU 0.75", recalls, at_75.mean(axis=1)))
    return draw_lines(
        lines,
        x_label="recall",
        y_label="precision",
        alt=f"Precision against recall of {len(defined)} classes at IoU 0.50; the areas are AP50",
        x_limits=(0, 1),
        y_limits=(0, 1.02),
        caption="At IoU 0.50; the area under a curve is AP50"
        + (" of its class." if few else ". Every gray line is a class."),
    )


def show_confusion(analysis: DetectionAnalysis) -> Markup:
    """Show which classes are taken for which, as a matrix where there are few, and as a list."""
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
                alt=f"Confusion matrix of {len(matrix.names)} classes; its largest entries off the "
                "diagonal are in the table",
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
