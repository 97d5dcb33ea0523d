"""Rows of a table: runs of one setting beside the paper's figures, and the difference of two rows.

A row takes any metric, whether higher or lower is better: the names in ``Run.figures``.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from resnext_det.architecture import Architecture
from resnext_det.paper.figures import Setting
from resnext_det.paper.runs import Run


@dataclass(frozen=True)
class Estimate:
    """Hold a mean and its spread, which is None for a single value."""

    mean: float
    spread: float | None = None

    def format(self, sign: str = "") -> str:
        """Format with two decimals, such as "27.50 ± 0.12"; ``sign`` "+" asks for a sign."""
        return f"{self.mean:{sign}.2f}" + ("" if self.spread is None else f" ± {self.spread:.2f}")


def estimate_mean(values: Sequence[float]) -> Estimate:
    """Take the mean of one or more values and their sample standard deviation."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Estimate(statistics.fmean(values), spread)


def find_mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Find the 95 % interval of the mean of a normal distribution from independent values.

    Returns:
        mean ± t * standard error, by Student's t; None for fewer than two values.
    """
    if len(values) < 2:
        return None
    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    half = find_t_quantile(len(values) - 1) * error
    return mean - half, mean + half


def find_difference_interval(
    first: Sequence[float], second: Sequence[float]
) -> tuple[float, float]:
    """Find the 95 % interval of the difference of two means, second - first, of independent values.

    It is Welch's, whose degrees of freedom are rounded down, which widens it a little.

    Args:
        first, second: two values or more of each.
    """
    parts = [statistics.variance(values) / len(values) for values in (first, second)]
    difference, total = statistics.fmean(second) - statistics.fmean(first), sum(parts)
    if total == 0:
        return difference, difference
    inverse = sum(
        part**2 / (len(values) - 1) for part, values in zip(parts, (first, second), strict=True)
    )
    half = find_t_quantile(max(1, math.floor(total**2 / inverse))) * math.sqrt(total)
    return difference - half, difference + half


def find_t_quantile(freedom: int, probability: float = 0.95) -> float:
    """Find the t within which, on both sides of 0, Student's distribution has a probability.

    Args:
        freedom: the degrees of freedom, 1 or more.
    """
    low, high = 0.0, math.pi / 2  # of the angle whose tangent is t / sqrt(freedom)
    for _ in range(60):
        angle = (low + high) / 2
        if _integrate_t(angle, freedom) < probability:
            low = angle
        else:
            high = angle
    return math.tan(low) * math.sqrt(freedom)


def _integrate_t(angle: float, freedom: int) -> float:
    """Sum the probability within ± tan(angle) * sqrt(freedom) (Abramowitz and Stegun 26.7.3-4)."""
    odd = freedom % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for power in range(1 + odd, freedom, 2):
        total += term
        term *= math.cos(angle) ** 2 * power / (power + 1)
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


@dataclass(frozen=True)
class Row:
    """Hold the runs of one setting and the paper's figures by metric; either may be empty."""

    setting: Setting
    paper: Mapping[str, float] = field(default_factory=dict)
    runs: tuple[Run, ...] = ()

    def get_paper(self, metric: str) -> float | None:
        """Get the paper's figure; None where it has none."""
        return self.paper.get(metric)

    def estimate(self, metric: str) -> Estimate | None:
        """Take the mean and the sample standard deviation over the runs; None where none has it."""
        values = [run.figures[metric] for run in self.runs if metric in run.figures]
        return estimate_mean(values) if values else None

    def average_by_seed(self, metric: str) -> dict[int, float]:
        """Take the figure of every known seed, the mean where several runs have it."""
        values: dict[int, list[float]] = defaultdict(list)
        for run in self.runs:
            if run.seed is not None:
                values[run.seed].append(run.figures[metric])
        return {seed: statistics.fmean(of_seed) for seed, of_seed in values.items()}

    @property
    def net(self) -> str:
        """Such as "X-50"; cardinality 1 is a ResNet, "R-50", of any width."""
        network = self.setting.network
        return f"{'R' if network.cardinality == 1 else 'X'}-{network.depth}"

    @property
    def template(self) -> str:
        """Such as "32x4d", with the other channels and the shortcuts where they are not usual."""
        own, usual = self.setting.network, Architecture(self.setting.network.depth)
        text = f"{own.cardinality}x{own.width}d"
        if (own.stem_channels, own.res2_channels) != (usual.stem_channels, usual.res2_channels):
            text += f" (stem {own.stem_channels}, res2 {own.res2_channels})"
        return text + ("" if own.shortcuts else ", no shortcuts")

    @property
    def name(self) -> str:
        """Name the net and its template: "X-50 32x4d"."""
        return f"{self.net} {self.template}"

    @property
    def label(self) -> str:
        """Write the name in several lines, for an axis."""
        return f"{self.net}\n{self.template}".replace(" (", "\n(")

    @property
    def protocol(self) -> str | None:
        """Name the protocol: "joint", or of a classifier "crop 224, 1000-way"; see ``Setting``."""
        _, _, protocol, ways = self.setting
        return protocol if ways is None else f"{protocol}, {ways}-way"


@dataclass(frozen=True)
class Difference:
    """Subtract a row from another, as a ResNet from the ResNeXt of equal depth and protocol."""

    x: Row
    r: Row

    def get_paper(self, metric: str) -> float | None:
        """Get the difference of the paper's two figures; None where it lacks one of them."""
        x, r = self.x.get_paper(metric), self.r.get_paper(metric)
        return None if x is None or r is None else x - r

    def estimate(self, metric: str) -> Estimate | None:
        """Subtract the means, and take the standard error as of independent runs."""
        x, r = self.x.estimate(metric), self.r.estimate(metric)
        if x is None or r is None:
            return None
        if x.spread is None or r.spread is None:
            return Estimate(x.mean - r.mean)
        error = math.sqrt(x.spread**2 / len(self.x.runs) + r.spread**2 / len(self.r.runs))
        return Estimate(x.mean - r.mean, error)

    def estimate_paired(self, metric: str) -> Estimate | None:
        """Take the mean difference at equal seeds and its standard error; None below two seeds."""
        x, r = self.x.average_by_seed(metric), self.r.average_by_seed(metric)
        values = [x[seed] - r[seed] for seed in self.seeds]
        if len(values) < 2:
            return None
        return Estimate(statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values)))

    @property
    def seeds(self) -> tuple[int, ...]:
        """List the seeds that both networks were trained with."""
        x, r = ({run.seed for run in row.runs} for row in (self.x, self.r))
        return tuple(sorted(seed for seed in x & r if seed is not None))

    @property
    def name(self) -> str:
        """Name both: "X-50 32x4d - R-50 1x64d"."""
        return f"{self.x.name} - {self.r.name}"

    @property
    def label(self) -> str:
        """Write the names in several lines, for an axis."""
        return f"{self.x.name}\n- {self.r.name}".replace(" (", "\n(")

    @property
    def protocol(self) -> str | None:
        """Name the protocol of both rows; None where only the paper has figures."""
        return self.x.protocol
