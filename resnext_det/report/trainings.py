"""Show several trainings beside each other: their curves, settings, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resnext_det.report.charts import Line, draw_lines
from resnext_det.report.page import Section, place_beside
from resnext_det.report.progress import read_finite
from resnext_det.report.run_groups import RunGroup, find_settings
from resnext_det.report.tables import Cell, format_table


def build_curves(groups: Sequence[RunGroup], test_set: str | None) -> Section | None:
    """Draw AP and losses over the trainings, the mean of a training's runs."""
    charts = []
    named = [("AP", ["bbox/AP", f"{test_set}/bbox/AP"]), ("loss", ["total_loss"])]
    named.append(("validation loss", ["validation/total_loss"]))
    for title, keys in named if test_set is not None else named[1:2]:  # the others are of one set
        lines = [line for group in groups if (line := _average_series(group, keys))]
        if len(lines) > 1 and max(len(line.x) for line in lines) > 1:
            charts.append(
                draw_lines(
                    lines, x_label="iteration", y_label=title, alt=f"{title} of the trainings"
                )
            )
    return Section("During the trainings", "curves", place_beside(charts)) if charts else None


def _average_series(group: RunGroup, names: Sequence[str]) -> Line | None:
    """Average a scalar over a training's runs, at the iterations that all of them have."""
    found = [run.series[name] for run in group.runs for name in names if name in run.series]
    if not found:
        return None
    iterations = sorted(set(found[0].iterations).intersection(*(s.iterations for s in found)))
    if len(iterations) < 1:
        return None
    values = [
        [dict(zip(series.iterations, series.values, strict=True))[i] for i in iterations]
        for series in found
    ]
    return Line(group.name, np.array(iterations), np.mean(values, axis=0))


def build_settings(groups: Sequence[RunGroup]) -> Section | None:
    """Build the table of the settings that differ."""
    different = find_settings(groups) if len(groups) > 1 else []
    if not different:
        return None
    rows = [[key, *map(str, values)] for key, values in different]
    table = format_table(["setting", *(group.name for group in groups)], rows)
    return Section("Settings that differ", "settings", table)


def build_costs(groups: Sequence[RunGroup]) -> Section | None:
    """Build the table of what the trainings cost: time of an iteration, memory, size of weights."""
    rows: list[list[Cell]] = []
    for group in groups:
        seconds, memory = (_collect(group, name) for name in ("time", "peak_memory_mib"))
        sizes = [size for run in group.runs for name, size in run.checkpoints.items()]
        machines = {
            run.environment.machine.gpu or run.environment.machine.cpu
            for run in group.runs
            if run.environment
        }
        rows.append(
            [
                group.name,
                float(np.median(seconds)) if seconds.size else None,
                float(memory.max()) / 1024 if memory.size else None,
                max(sizes) / 1e6 if sizes else None,
                ", ".join(sorted(machines)) or None,
            ]
        )
    if all(cell is None for row in rows for cell in row[1:4]):
        return None
    headers = [
        "training",
        "seconds an iteration",
        "most memory, GiB",
        "checkpoint, MB",
        "processor",
    ]
    return Section("Speed and memory", "speed", format_table(headers, rows, digits=2))


def _collect(group: RunGroup, name: str) -> np.ndarray:
    """Collect the finite values of a scalar over a training's runs."""
    return np.concatenate([read_finite(run, name) for run in group.runs])
