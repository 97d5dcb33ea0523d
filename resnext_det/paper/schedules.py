"""Compute how X - R depends on the head and on the schedule, with intervals over seeds."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from resnext_det.config.names import C4_HEADS, FPN_BACKBONES, SHARED_C4_HEAD
from resnext_det.evaluation.lettering import draw_figure
from resnext_det.paper.comparison import Comparison
from resnext_det.paper.rows import Difference, estimate_mean, find_mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRIC = "AP"

_STYLES = (
    ("o", "-", "#0072B2"),
    ("s", "--", "#D55E00"),
    ("^", ":", "#009E73"),
    ("D", "-.", "black"),
)
"""Marker, line and color of each head: told apart without color too."""


@dataclass(frozen=True)
class Effect:
    """Hold a difference between networks, or between two such differences, of every seed.

    Attributes:
        pair: the names of X and R.
        head: "C4", "DC5" or "FPN", or "mean of all".
        iterations: of the trainings; of the two lengths for a change from one to the other.
        values: by seed, in percentage points of AP.
        group: the runs of X and R behind a difference of one head; otherwise None.
    """

    pair: str
    head: str
    iterations: tuple[int, ...]
    values: Mapping[int, float]
    group: Difference | None = None

    @property
    def mean(self) -> float:
        """Average over the seeds."""
        return statistics.fmean(self.values.values())

    def find_interval(self) -> tuple[float, float] | None:
        """Find the 95 % interval of the mean by Student's t; None for a single seed."""
        return find_mean_interval(list(self.values.values()))


@dataclass(frozen=True)
class ScheduleComparison:
    """Hold X - R of each head and length, and how it changes from one length to the next.

    Attributes:
        differences: X - R.
        changes: X - R of a longer training minus that of the next shorter one.
    """

    differences: tuple[Effect, ...]
    changes: tuple[Effect, ...]

    @property
    def pairs(self) -> list[str]:
        """List the names of X and R, each pair once."""
        return list(dict.fromkeys(effect.pair for effect in self.differences))


def name_head(config: Mapping[str, Any]) -> str:
    """Name the head of a detector from its configuration by dotted key.

    Returns:
        "C4", "DC5", "FPN", "RetinaNet" or "other".
    """
    if config.get("MODEL.META_ARCHITECTURE") == "RetinaNet":
        return "RetinaNet"
    if config.get("MODEL.BACKBONE.NAME") in FPN_BACKBONES:
        return "FPN"
    if config.get("MODEL.ROI_HEADS.NAME") in (*C4_HEADS, SHARED_C4_HEAD):
        return "C4"
    return "DC5" if config.get("MODEL.RESNETS.RES5_DILATION") == 2 else "other"


def compare_schedules(comparisons: Sequence[Comparison]) -> ScheduleComparison:
    """Set X - R of several heads and lengths side by side, with equal seeds of X and R as pairs.

    A seed's mean over the heads is one value, as the heads of a seed begin with one classifier.

    Args:
        comparisons: each of runs of one head and length.
    """
    differences = []
    for comparison in comparisons:
        for pair in comparison.differences:
            if pair.seeds:
                config = pair.x.runs[0].config
                x, r = pair.x.average_by_seed(METRIC), pair.r.average_by_seed(METRIC)
                values = {seed: x[seed] - r[seed] for seed in pair.seeds}
                length = (int(config["SOLVER.MAX_ITER"]),)
                differences.append(Effect(pair.name, name_head(config), length, values, pair))
    differences.sort(key=lambda each: (each.pair, each.head, each.iterations))
    differences += list(_average_heads(differences))
    return ScheduleComparison(tuple(differences), tuple(_find_changes(differences)))


def _average_heads(differences: Sequence[Effect]) -> Iterator[Effect]:
    """Average over the heads, where there are several, for each pair, length and seed."""
    for pair, length in dict.fromkeys((each.pair, each.iterations) for each in differences):
        several = [e.values for e in differences if (e.pair, e.iterations) == (pair, length)]
        seeds = set(several[0]).intersection(*several)
        if len(several) > 1 and seeds:
            values = {seed: statistics.fmean(e[seed] for e in several) for seed in sorted(seeds)}
            yield Effect(pair, "mean of all", length, values)


def _find_changes(differences: Sequence[Effect]) -> Iterator[Effect]:
    for pair, head in dict.fromkeys((each.pair, each.head) for each in differences):
        own = [each for each in differences if (each.pair, each.head) == (pair, head)]
        own.sort(key=lambda each: each.iterations)
        for short, long in itertools.pairwise(own):
            seeds = [seed for seed in short.values if seed in long.values]
            if seeds:
                values = {seed: long.values[seed] - short.values[seed] for seed in seeds}
                yield Effect(pair, head, (*short.iterations, *long.iterations), values)


def format_schedules(comparison: ScheduleComparison, *, markdown: bool = False) -> str:
    """Format X - R of each head and length, and its changes with the length, as tables by pair."""
    parts = []
    for pair in comparison.pairs:
        parts.append(f"## {pair}" if markdown else pair)
        rows = [
            [
                each.head,
                str(each.iterations[0]),
                *_format_figures(each.group),
                *_format_effect(each),
            ]
            for each in comparison.differences
            if each.pair == pair
        ]
        headers = ["head", "iterations", "AP of R", "AP of X", "X - R", "95 %", "n"]
        parts.append(_format_table(headers, rows, markdown))
        changes = [
            [each.head, " to ".join(map(str, each.iterations)), *_format_effect(each)]
            for each in comparison.changes
            if each.pair == pair
        ]
        if changes:
            headers = ["head", "iterations", "change of X - R", "95 %", "n"]
            parts.append(_format_table(headers, changes, markdown))
    parts.append(
        "AP: the mean over the seeds ± their standard deviation. X - R: the mean of the\n"
        "differences at equal seeds, and its 95 % interval over the n seeds (Student's t).\n"
        "Mean of all: over the heads, one value a seed."
    )
    return "\n\n".join(parts)


def _format_table(headers: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> str:
    alignment = ["left"] + ["right"] * (len(headers) - 1)
    style = "pipe" if markdown else "simple"
    return tabulate(rows, headers, tablefmt=style, colalign=alignment, disable_numparse=True)


def _format_figures(group: Difference | None) -> list[str]:
    if group is None:
        return ["-", "-"]
    found = (list(row.average_by_seed(METRIC).values()) for row in (group.r, group.x))
    return [estimate_mean(values).format() for values in found]


def _format_effect(effect: Effect) -> list[str]:
    interval = effect.find_interval()
    told = "-" if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}"
    return [f"{effect.mean:+.2f}", told, str(len(effect.values))]


def plot_schedules(comparison: ScheduleComparison, path: str | Path) -> None:
    """Draw X - R against the length of the schedule, a line a head with 95 % intervals.

    Small dots are the seeds.

    Args:
        path: its suffix chooses the format, as ".png".

    Raises:
        ValueError: the format is unknown.
    """
    pairs = comparison.pairs
    with draw_figure(path, (2 + 5 * len(pairs), 4.5), pairs) as (figure, _):
        panels = figure.subplots(1, len(pairs), squeeze=False, sharey=True)[0]
        for axes, pair in zip(panels, pairs):
            _draw_pair(axes, [each for each in comparison.differences if each.pair == pair])
            axes.set_title(pair.replace(" - ", "\n- "), parse_math=False)
        panels[0].set_ylabel("X - R in AP, 95 % interval")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", frameon=False)


def _draw_pair(axes: Axes, effects: Sequence[Effect]) -> None:
    lengths = sorted({each.iterations[0] for each in effects})
    heads = list(dict.fromkeys(each.head for each in effects))
    for number, head in enumerate(heads):
        own = sorted((each for each in effects if each.head == head), key=lambda e: e.iterations)
        shift = 0.1 * (number - (len(heads) - 1) / 2)
        places = [lengths.index(each.iterations[0]) + shift for each in own]
        intervals = [each.find_interval() for each in own]
        halves = [(high - low) / 2 for low, high in filter(None, intervals)]
        marker, line, color = _STYLES[number % len(_STYLES)]
        axes.errorbar(
            places,
            [each.mean for each in own],
            halves if len(halves) == len(own) else None,
            fmt=f"{marker}{line}",
            color=color,
            capsize=4,
            label=head,
        )
        for place, each in zip(places, own):
            axes.plot(
                [place] * len(each.values), list(each.values.values()), ".", color=color, ms=3
            )
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(lengths)), [str(length) for length in lengths])
    axes.set_xlim(-0.5, len(lengths) - 0.5)
    axes.set_xlabel("iterations")
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
