"""Show how a training went: losses, learning rate, AP over time, speed and memory."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import reduce

import numpy as np
from markupsafe import Markup

from resnext_det.report.charts import Line, draw_lines
from resnext_det.report.page import join, place_beside, write_paragraph
from resnext_det.report.runs import RunFolder, Series
from resnext_det.report.tables import Cell, format_table

_MOST_POINTS = 600  # of a line, more than which a chart does not show
_LOSS_NAMES = {
    "loss_cls": "class of a region",
    "loss_box_reg": "box of a region",
    "loss_mask": "mask of a region",
    "loss_keypoint": "keypoints of a region",
    "loss_rpn_cls": "object or not (RPN)",
    "loss_rpn_loc": "box of a proposal (RPN)",
}
_RETINANET_NAMES = {"loss_cls": "class of an anchor", "loss_box_reg": "box of an anchor"}
_STAGE = re.compile(r"(loss_\w+)_stage(\d+)")  # of a cascade
_DATA_BOUND = 0.25  # share of the time that is waited for data


def show_progress(run: RunFolder) -> Markup:
    """Show losses, learning rate and AP over the iterations."""
    charts = [
        chart
        for chart in (
            _draw_total(run),
            _draw_parts(run),
            _draw_stages(run),
            _draw_AP(run),
            _draw_rate(run),
        )
        if chart is not None
    ]
    parts = [place_beside(charts)]
    names = [name for name in run.series if name.endswith("/AP")]
    if names and all(len(run.series[name].values) == 1 for name in names):
        parts.append(
            write_paragraph(
                "AP was measured once, at the end. To see it grow, set TEST.EVAL_PERIOD to a tenth "
                f"of the iterations, such as TEST.EVAL_PERIOD {max(1, run.iterations // 10)}.",
                note=True,
            )
        )
    return join(parts)


def thin(series: Series) -> tuple[np.ndarray, np.ndarray]:
    """Average neighboring values of a long series, so that a line has few hundred points."""
    length = len(series.values)
    size = -(-length // _MOST_POINTS)
    if size <= 1:
        return series.iterations, series.values
    parts = np.array_split(np.arange(length), -(-length // size))
    means = [
        np.nanmean(values) if (~np.isnan(values)).any() else np.nan
        for values in (series.values[part] for part in parts)
    ]
    return np.array([series.iterations[part[-1]] for part in parts]), np.array(means)


def _draw_total(run: RunFolder) -> Markup | None:
    lines: list[Line] = []
    for name, series in run.series.items():
        if name == "total_loss":
            lines.insert(0, Line("training", *thin(series)))
        elif name.endswith("validation/total_loss"):
            of_set = name.removesuffix("validation/total_loss").rstrip("/")
            lines.append(Line(f"validation, {of_set}" if of_set else "validation", *thin(series)))
    if not lines:
        return None
    end = lines[0].y[-1]
    return draw_lines(
        lines,
        x_label="iteration",
        y_label="total loss",
        alt=f"Total loss over the iterations; it ends at {end:.3g}",
        y_limits=(0, None),
    )


def _draw_parts(run: RunFolder) -> Markup | None:
    """Draw each loss; those of a cascade's stages are added up."""
    parts = {
        name: series
        for name, series in run.series.items()
        if name.startswith("loss_") and not _STAGE.fullmatch(name)
    }
    names = {name: _name_loss(run, name) for name in parts}
    for name, stages in _find_stages(run).items():
        parts[name] = _add(list(stages.values()))
        names[name] = f"{_name_loss(run, name)}, {len(stages)} stages"
    order = [*(name for name in _LOSS_NAMES if name in parts), *sorted({*parts} - {*_LOSS_NAMES})]
    if not order:
        return None
    return draw_lines(
        [Line(names[name], *thin(parts[name])) for name in order],
        x_label="iteration",
        y_label="loss",
        alt=f"Each of {len(order)} losses over the iterations",
        y_limits=(0, None),
    )


def _draw_stages(run: RunFolder) -> Markup | None:
    """Draw the losses of each stage of a cascade."""
    lines = [
        Line(f"{_name_loss(run, name).partition(' ')[0]}, stage {number + 1}", *thin(series))
        for name, stages in _find_stages(run).items()
        for number, series in sorted(stages.items())
    ]
    if not lines:
        return None
    return draw_lines(
        lines,
        x_label="iteration",
        y_label="loss of a stage",
        alt=f"Each of {len(lines)} losses of the cascade's stages over the iterations",
        y_limits=(0, None),
    )


def _find_stages(run: RunFolder) -> dict[str, dict[int, Series]]:
    """Find the losses of a cascade's stages: by name and by stage, from 0."""
    stages: dict[str, dict[int, Series]] = defaultdict(dict)
    for name, series in run.series.items():
        if found := _STAGE.fullmatch(name):
            stages[found[1]][int(found[2])] = series
    return dict(stages)


def _add(parts: Sequence[Series]) -> Series:
    """Add series up, at the iterations that all of them have."""
    common = reduce(np.intersect1d, [part.iterations for part in parts])
    values = [part.values[np.isin(part.iterations, common)] for part in parts]
    return Series(common, np.sum(values, axis=0))


def _name_loss(run: RunFolder, name: str) -> str:
    """Name a loss for readers, "class of a region" for "loss_cls"."""
    special = _RETINANET_NAMES if run.get("MODEL.META_ARCHITECTURE") == "RetinaNet" else {}
    return special.get(name) or _LOSS_NAMES.get(name, name)


def _draw_AP(run: RunFolder) -> Markup | None:
    lines, several = [], len(run.tests) > 1
    for name, series in run.series.items():
        parts = name.split("/")
        if parts[-1] in ("AP", "AP50", "AP75") and "bbox" in parts[-2] and len(series.values) > 1:
            label = f"{parts[0]}: {parts[-1]}" if several else parts[-1]
            lines.append(Line(label, series.iterations, series.values))
        elif parts[-1] == "AP" and "segm" in parts[-2] and len(series.values) > 1:
            label = f"{parts[0]}: AP of masks" if several else "AP of masks"
            lines.append(Line(label, series.iterations, series.values))
    if not lines:
        return None
    best = max(lines, key=lambda line: line.name.endswith("AP"))
    place = int(np.nanargmax(best.y)) if np.isfinite(best.y).any() else 0
    return draw_lines(
        lines,
        x_label="iteration",
        y_label="%",
        alt=f"{best.name} on the test set over the iterations; the best is {best.y[place]:.1f} "
        f"after {best.x[place] + 1}",
        y_limits=(0, None),
    )


def _draw_rate(run: RunFolder) -> Markup | None:
    if "lr" not in run.series:
        return None
    return draw_lines(
        [Line("learning rate", *thin(run.series["lr"]))],
        x_label="iteration",
        y_label="learning rate",
        alt=f"Learning rate over the iterations; the largest is {run.series['lr'].values.max():g}",
        y_limits=(0, None),
    )


def show_speed(run: RunFolder) -> Markup:
    """Show seconds an iteration, images a second, the part that is waited for data, and memory."""
    rows: list[list[Cell]] = []
    times, waits = (read_finite(run, name) for name in ("time", "data_time"))
    if times.size:
        middle, batch = float(np.median(times)), run.get("SOLVER.IMS_PER_BATCH")
        rows.append(["seconds an iteration, the median", f"{middle:.3g}"])
        if isinstance(batch, int) and middle > 0:
            rows.append(["images a second", f"{batch / middle:.3g}"])
        rows.append(["time of the training, about", format_duration(times.mean() * run.iterations)])
    if times.size and waits.size:
        share = float(np.median(waits) / max(np.median(times), 1e-12))
        rows.append(["waited for data", f"{100 * share:.0f} %"])
    memory = read_finite(run, "peak_memory_mib")
    if memory.size:
        rows.append(["most memory, GiB", f"{memory.max() / 1024:.1f}"])
    parts = [format_table(["speed and memory", ""], rows)] if rows else []
    if times.size and waits.size and share > _DATA_BOUND:
        parts.append(
            write_paragraph(
                f"Data is the bound: {100 * share:.0f} % of the time is waited for images. Raise "
                f"DATALOADER.NUM_WORKERS (now {run.get('DATALOADER.NUM_WORKERS')}), or store the "
                "images in the size that is trained on."
            )
        )
    return join(parts)


def read_finite(run: RunFolder, name: str) -> np.ndarray:
    """Read the values of a scalar that are finite."""
    series = run.series.get(name)
    return np.empty(0) if series is None else series.values[np.isfinite(series.values)]


def format_duration(seconds: float) -> str:
    """Format a time, such as "2 h 05 min", "12 min 30 s" or "45 s"."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole % 60:02d} s" if minutes else f"{whole} s"
