"""The table of grouped convolution on a GPU: ResNeXt beside ResNet, in a budget of time."""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from tabulate import tabulate

from resnext_det.benchmark.cases import Candidate, Key
from resnext_det.benchmark.comparison import (
    PRODUCT_SIZES,
    Comparison,
    build_all,
    label_timings,
    make_product,
)
from resnext_det.benchmark.presentation import compute_numbers, format_milliseconds
from resnext_det.benchmark.timing import Step, Timing, take_turns
from resnext_det.benchmark.trunks import TrunkCase, group_networks, list_peers

GPU_NETWORKS = ("R-50", "X-50-32x4d", "R-101", "X-101-32x4d", "X-101-64x4d")
PRECISIONS = ("bfloat16", "tf32", "float32")
RUNS = (("training", 2), ("inference", 1), ("training", 16), ("inference", 8))
MINUTES = 8.0

REPEATS, _FEWEST = 15, 3
_SECONDS = 0.4  # of turns for one implementation of a network, if there is time
_CHECKED = (64, 96)  # pixels of the image by which outputs are compared


@dataclass
class GpuTable:
    """Time trunks in every precision, mode and batch until the time is over.

    Networks of one depth take turns together, so that X/R compares turns of the same seconds. What
    does not fit in memory is dropped.

    Args:
        minutes: in all; what is not begun by then is left out.
        runs: pairs of a mode and a batch, the most important first.
        clock: tells seconds.
    """

    device: torch.device
    networks: Sequence[str] = GPU_NETWORKS
    precisions: Sequence[str] = PRECISIONS
    runs: Sequence[tuple[str, int]] = RUNS
    height: int = 800
    width: int = 1333
    minutes: float = MINUTES
    repeats: int = REPEATS
    clock: Callable[[], float] = time.perf_counter
    comparisons: list[Comparison] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._end = self.clock() + 60 * self.minutes
        self._checked: dict[object, tuple[dict[Key, float], dict[str, str]]] = {}

    def run(self) -> Iterator[str]:
        """Time everything; yields a line for each part that is done, and why others are not."""
        late = []
        for precision in self.precisions:
            for mode, batch in self.runs:
                for networks in group_networks(self.networks):
                    case = self._make_case(networks, precision, mode, batch)
                    label = f"{', '.join(networks)}: {mode}, {batch} images, {precision}"
                    if self._is_over():
                        late.append(label)
                        continue
                    began = self.clock()
                    try:
                        comparison = self._time(case, precision)
                    except ValueError as error:
                        yield f"{label}: {error}"
                        continue
                    self.comparisons.append(comparison)
                    yield f"{label}: {self.clock() - began:.0f} s"
                    yield from (f"  {key}: {text}" for key, text in comparison.left_out.items())
        if late:
            yield f"Not timed, as {self.minutes:g} minutes were over: {'; '.join(late)}."

    def _is_over(self) -> bool:
        return self.clock() >= self._end

    def _make_case(
        self, networks: Sequence[str], precision: str, mode: str, batch: int
    ) -> TrunkCase:
        return TrunkCase(
            networks,
            mode,
            batch,
            self.height,
            self.width,
            self.device,
            dtypes=(precision,),
            peers=[name for name in list_peers("training", self.device) if name != "timm"],
        )

    def _time(self, case: TrunkCase, precision: str) -> Comparison:
        """Time those that agree on a small image and fit in memory, in turns."""
        differences, left_out = self._check(case, precision)
        candidates: dict[Key, Candidate] = {}
        for key in differences:
            if key.dtype != precision:  # the reference in float32
                continue
            if self._is_over():
                left_out[str(key)] = "the time was over"
                continue
            try:
                candidates[key] = _warm_up(case.build(key))
            except RuntimeError as error:
                left_out[str(key)] = _explain(error)
                _free(self.device)
        size = PRODUCT_SIZES[self.device.type]
        product = make_product(size, precision, self.device)
        try:
            steps = {str(key): candidate.step for key, candidate in candidates.items()}
            timed = self._take_turns({**steps, "matrix product": product})
        except RuntimeError as error:
            left_out.update({str(key): _explain(error) for key in candidates})
            candidates, timed = {}, []
        timings = label_timings(candidates, timed, differences, {})
        _free(self.device)
        products = {}
        if timed:
            products[precision] = replace(timed[-1], dtype=precision, multiply_adds=size**3)
        return Comparison(case.title, case.reference, timings, products, left_out)

    def _check(self, case: TrunkCase, precision: str) -> tuple[Mapping[Key, float], dict[str, str]]:
        """Check outputs on a small image, once for all batches: see ``build_all``."""
        asked = (tuple(case.networks), precision, case.mode)
        if asked not in self._checked:
            small = replace(case, batch=1, height=_CHECKED[0], width=_CHECKED[1])
            self._checked[asked] = build_all(small)[1:]
        differences, left_out = self._checked[asked]
        return differences, dict(left_out)

    def _take_turns(self, steps: Mapping[str, Step]) -> list[Timing]:
        """Take as many turns as there is time for, some in any case."""
        began, done = self.clock(), itertools.count(1)

        def is_over() -> bool:
            long = self.clock() - began > _SECONDS * len(steps)
            return (next(done) >= _FEWEST and long) or self._is_over()

        return take_turns(
            steps, self.device, self.repeats, warm_ups=0, clock=self.clock, is_over=is_over
        )


def _warm_up(candidate: Candidate) -> Candidate:
    for _ in range(2):  # in the first, kernels are chosen
        candidate.step()
    return candidate


def _explain(error: RuntimeError) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "it does not fit in the memory"
    return f"it does not run: {next(iter(str(error).splitlines()), '')}"


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def format_gpu_table(comparisons: Sequence[Comparison]) -> str:
    """Format a table for each precision: networks and implementations down, runs across.

    Of every run there are the median milliseconds, the time by the ResNet's (X/R), and the memory.
    """
    parts = []
    every = [timing for one in comparisons for timing in one.timings]
    networks = list(dict.fromkeys(timing.network for timing in every))
    precisions = dict.fromkeys(timing.dtype for timing in every)
    for precision in precisions:
        rows: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
        rates = []
        for one in comparisons:
            timings = [timing for timing in one.timings if timing.dtype == precision]
            for timing in timings:
                row = rows.setdefault((timing.network, timing.name), {})
                row.update(_make_cells(one, timing))
            if timings and (product := one.products.get(precision)):
                rates.append(2 * (product.multiply_adds or 0) / product.median / 1e12)
        rows = dict(sorted(rows.items(), key=lambda row: networks.index(row[0][0])))
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        columns = [one for one in columns if any(row.get(one) for row in rows.values())]
        table = [[*key, *(row.get(column, "") for column in columns)] for key, row in rows.items()]
        heads = ["network", "implementation", *(f"{run} {what}".strip() for run, what in columns)]
        align = ["left", "left", *["right"] * len(columns)]
        text = tabulate(table, heads, tablefmt="pipe", disable_numparse=True, colalign=align)
        speed = f"; a matrix product: {statistics.median(rates):.3g} TFLOP/s" if rates else ""
        parts.append(f"{precision}{speed}\n\n{text}")
    return "\n\n".join(parts)


def _make_cells(comparison: Comparison, timing: Timing) -> dict[tuple[str, str], str]:
    mode, shape = comparison.title.split(", ")[1:3]
    run = f"{'train' if 'backward' in mode else 'infer'} {shape.partition('x')[0]}:"
    pair = compute_numbers(comparison, timing)["x_over_r"]
    memory = timing.peak_memory
    return {
        (run, "ms"): format_milliseconds(timing.median),
        (run, "X/R"): "" if pair is None else f"{pair:.2f}",
        (run, "GiB"): "" if memory is None else f"{memory / 2**30:.1f}",
    }
