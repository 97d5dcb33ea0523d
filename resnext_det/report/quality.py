"""Show how good a detector is on a test set, and where it fails."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from resnext_det.evaluation.analysis import DetectionAnalysis
from resnext_det.evaluation.coco import describe_limit
from resnext_det.evaluation.coco_files import GroundTruth
from resnext_det.report.charts import draw_bars
from resnext_det.report.error_kinds import DESCRIPTIONS
from resnext_det.report.page import fold, join, render_fragment, write_paragraph
from resnext_det.report.scores import read_at
from resnext_det.report.tables import Cell, format_cell, format_interval, format_table

_MANY = 20  # classes, of which the charts show the worst
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
        items.append((name, format_cell(float(numbers[name])), _write_interval(analysis, name)))
    if (masks := analysis.segm) is not None:
        items.append(("AP of masks", format_cell(masks.metrics.AP), _write_interval(masks, "AP")))
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


def _write_interval(analysis: DetectionAnalysis, name: str) -> str:
    told = _format_interval(analysis, name)
    return f"95 %: {told}" if told else ""


def describe_main_fault(analysis: DetectionAnalysis) -> str:
    """Say which kind of error costs most, of boxes and of masks; "" where none costs anything."""
    of_boxes = _describe_costliest(analysis, "Its costliest kind of error")
    if analysis.segm is None:
        return of_boxes
    of_masks = _describe_costliest(analysis.segm, "Of its masks")
    return f"{of_boxes} {of_masks}".strip()


def _describe_costliest(analysis: DetectionAnalysis, subject: str) -> str:
    worst = max(analysis.errors, key=lambda error: error.cost)
    if not worst.cost > 0:
        return ""
    times = f"{format_cell(worst.count_at_score)} time{'s' * (worst.count_at_score != 1)}"
    best = analysis.by_score.best_score
    return (
        f"{subject}: {worst.kind} ({DESCRIPTIONS[worst.kind].words}), {times}"
        f"{f' at the score {best:.2f}' if best == best else ''}; without these AP50 would be "
        f"{worst.cost:.1f} points higher."
    )


def show_errors(analysis: DetectionAnalysis, set_name: str) -> Markup:
    """Show the kinds of errors with what each costs, of boxes and of masks, the costliest first.

    Args:
        set_name: that was tested on.
    """
    tasks = _name_tasks(analysis)
    order = sorted(range(len(analysis.errors)), key=lambda k: -analysis.errors[k].cost)
    kinds = [analysis.errors[k].kind for k in order]
    costs = {name: [task.errors[k].cost for k in order] for name, task in tasks.items()}
    told = [
        f"{kind} {' and '.join(f'{each[place]:.1f}' for each in costs.values())}"
        for place, kind in enumerate(kinds)
    ]
    chart = draw_bars(
        kinds,
        costs,
        x_label="points of AP50 that are lost",
        alt=f"Errors on {set_name} by the AP50 that each kind costs, {' and '.join(costs)}: "
        + ", ".join(told),
    )
    rows: list[list[Cell]] = []
    for k, kind in zip(order, kinds, strict=True):
        errors = [task.errors[k] for task in tasks.values()]
        counts = [[error.count_at_score, error.count, error.cost] for error in errors]
        rows.append([kind, DESCRIPTIONS[kind].words, *(cell for each in counts for cell in each)])
    headers = ["error", "what it is"]
    for name, task in tasks.items():
        of = f"{name}, " if len(tasks) > 1 else ""
        best = task.by_score.best_score
        score = f"at score {best:.2f}" if best == best else "at the score to use"
        headers += [f"{of}{score}", f"{of}in all", f"{of}costs AP50"]
    note = write_paragraph(
        "The cost is what AP50 would gain if errors of this kind alone were mended, as TIDE "
        "computes it; costs do not add up."
        + (" Of masks the IoU is that of the pixels." if len(tasks) > 1 else ""),
        note=True,
    )
    return join([chart, format_table(headers, rows), note])


def _name_tasks(analysis: DetectionAnalysis) -> dict[str, DetectionAnalysis]:
    """Name the analyses of boxes and, where there are any, of masks."""
    tasks = {"boxes": analysis}
    return tasks if analysis.segm is None else {**tasks, "masks": analysis.segm}


def show_numbers(analysis: DetectionAnalysis) -> Markup:
    """Show COCO's twelve numbers with intervals, those of masks, and how many objects there are."""
    numbers = analysis.metrics.as_dict(recalls=True)
    masks = analysis.segm
    of_masks = {} if masks is None else masks.metrics.as_dict(recalls=True)
    counts = {"": analysis.objects, **_count_sizes(analysis.truth)}
    rows: list[list[Cell]] = []
    for name, value in numbers.items():
        if "-" in name:  # of a class
            continue
        size = name[-1] if name[-1] in _SIZES else ""
        told = _format_interval(analysis, name)
        row = [name, _describe_number(name, size), counts.get(size), float(value), told]
        if masks is not None:
            row += [float(of_masks[name]), _format_interval(masks, name)]
        rows.append(row)
    limit = describe_limit(analysis.metrics.max_detections)
    note = write_paragraph(
        "Intervals are over images drawn anew: other images of the same kind would give a number "
        "within, 95 times of 100. They say nothing of other seeds."
        + (f" Counted are {limit}." if limit else ""),
        note=True,
    )
    headers = ["number", "of", "objects", "%", "95 % interval"]
    headers += [] if masks is None else ["masks, %", "95 % interval"]
    return join([format_table(headers, rows, strong=[0]), note])


def _format_interval(analysis: DetectionAnalysis, name: str) -> str | None:
    interval = analysis.intervals.get(name)
    return format_interval(*interval) if interval else None


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


def show_classes(
    analysis: DetectionAnalysis, set_name: str, trained_on: Sequence[int] | None = None
) -> Markup:
    """Show AP, and precision and recall at the best score, of every class, the worst first.

    Args:
        set_name: that was tested on.
        trained_on: the number of objects of every class in the training sets.
    """
    metrics = analysis.metrics
    order = sorted(range(len(metrics.class_names)), key=lambda k: _rank(metrics.category_ap[k]))
    rows: list[list[Cell]] = []
    for k in order:
        curves = analysis.class_scores[k]
        name, best = metrics.class_names[k], curves.best_score
        precision, recall = read_at(curves, best) if best == best else (np.nan, np.nan)
        row: list[Cell] = [name, curves.objects]
        row += [trained_on[k]] if trained_on is not None else []
        row += [metrics.category_ap[k], _format_interval(analysis, f"AP-{name}")]
        row += [f"{best:.2f}" if best == best else None, 100 * precision, 100 * recall]
        if (masks := analysis.segm) is not None:
            row += [masks.metrics.category_ap[k], _format_interval(masks, f"AP-{name}")]
        rows.append(row)
    headers = ["class", "objects", *(["to train on"] if trained_on is not None else []), "AP"]
    headers += ["95 % interval", "best score", "precision, %", "recall, %"]
    headers += [] if analysis.segm is None else ["AP of masks", "95 % interval"]
    shown = order[:_MANY]
    tasks = _name_tasks(analysis)
    intervals = {
        name: [task.intervals[f"AP-{metrics.class_names[k]}"] for k in shown]
        for name, task in tasks.items()
        if task.intervals
    }
    chart = draw_bars(
        [metrics.class_names[k] for k in shown],
        {name: [task.metrics.category_ap[k] for k in shown] for name, task in tasks.items()},
        intervals=intervals,
        x_label="AP, %, with 95 % interval" if intervals else "AP, %",
        alt=f"AP of {'the worst ' * (len(order) > _MANY)}{len(shown)} classes of {set_name}, as in "
        "the table",
    )
    table = format_table(headers, rows)
    if len(order) > _MANY:
        worst = format_table(headers, rows[:_MANY], f"The {_MANY} classes of the lowest AP")
        table = join([worst, fold(f"All {len(order)} classes", table)])
    return join([table, chart])


def _rank(value: float) -> float:
    return value if value == value else np.inf
