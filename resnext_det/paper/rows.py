"""Rows of the table: the runs of one network, their mean and spread, and the difference of two networks."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from dataclasses import dataclass

from resnext_det.architecture import Architecture
from resnext_det.paper.figures import TABLE_8
from resnext_det.paper.runs import Run


@dataclass(frozen=True)
class Estimate:
    """A mean and its spread, which a single run does not have."""

    mean: float
    spread: float | None

    def text(self, sign: str = "") -> str:
        """Two decimals, such as "27.50 ± 0.12"; with ``sign`` "+" a sign always."""
        return f"{self.mean:{sign}.2f}" + ("" if self.spread is None else f" ± {self.spread:.2f}")


@dataclass(frozen=True)
class Row:
    """The runs of a network that follow one protocol; no runs where the network stands in the paper alone."""

    network: Architecture
    protocol: str | None = None
    runs: tuple[Run, ...] = ()

    def paper(self, metric: str) -> float | None:
        """The paper's figure; None for a network that table 8 lacks."""
        return TABLE_8.get(self.network, {}).get(metric)

    def measured(self, metric: str) -> Estimate | None:
        """Mean and sample standard deviation over the runs."""
        values = [getattr(run, metric) for run in self.runs]
        if not values:
            return None
        return Estimate(
            statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
        )

    def by_seed(self, metric: str) -> dict[int, float]:
        """The figure of every seed; the mean where several runs have one."""
        values: dict[int, list[float]] = defaultdict(list)
        for run in self.runs:
            if run.seed is not None:
                values[run.seed].append(getattr(run, metric))
        return {seed: statistics.fmean(of_seed) for seed, of_seed in values.items()}

    @property
    def net(self) -> str:
        """Such as "X-50"; cardinality 1 is a ResNet, "R-50", of any width."""
        return f"{'R' if self.network.cardinality == 1 else 'X'}-{self.network.depth}"

    @property
    def setting(self) -> str:
        """Such as "32x4d", and the channels where they are not the usual ones."""
        own, usual = self.network, Architecture(self.network.depth)
        text = f"{own.cardinality}x{own.width}d"
        if (own.stem_channels, own.res2_channels) != (usual.stem_channels, usual.res2_channels):
            text += f" (stem {own.stem_channels}, res2 {own.res2_channels})"
        return text

    @property
    def name(self) -> str:
        """Net and setting: "X-50 32x4d"."""
        return f"{self.net} {self.setting}"


@dataclass(frozen=True)
class Difference:
    """A ResNeXt minus the ResNet of equal depth and protocol."""

    x: Row
    r: Row

    def paper(self, metric: str) -> float | None:
        """The difference of the paper's figures; None where it lacks one of them."""
        x, r = self.x.paper(metric), self.r.paper(metric)
        return None if x is None or r is None else x - r

    def measured(self, metric: str) -> Estimate | None:
        """The difference of the means and its standard error, as of runs that do not depend on one another."""
        x, r = self.x.measured(metric), self.r.measured(metric)
        if x is None or r is None:
            return None
        if x.spread is None or r.spread is None:
            return Estimate(x.mean - r.mean, None)
        error = math.sqrt(x.spread**2 / len(self.x.runs) + r.spread**2 / len(self.r.runs))
        return Estimate(x.mean - r.mean, error)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that both networks were trained with."""
        return tuple(sorted(self.x.by_seed("AP").keys() & self.r.by_seed("AP").keys()))

    def paired(self, metric: str) -> Estimate | None:
        """The mean difference at equal seeds and its standard error; None with fewer than two such seeds."""
        x, r = self.x.by_seed(metric), self.r.by_seed(metric)
        values = [x[seed] - r[seed] for seed in self.seeds]
        if len(values) < 2:
            return None
        return Estimate(statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values)))
