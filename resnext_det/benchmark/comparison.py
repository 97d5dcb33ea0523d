"""Compare implementations: check that they compute the same, and time those that do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from resnext_det.benchmark.cases import DTYPES, Candidate, Case, Key, hold_precision
from resnext_det.benchmark.memory import measure_peak
from resnext_det.benchmark.timing import Step, Timing, take_turns

logger = logging.getLogger(__name__)

PRODUCT_SIZES = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices that are multiplied."""


@dataclass(frozen=True)
class Comparison:
    """Hold what was timed together.

    Attributes:
        timings: of those that agree with the reference, in its order.
        products: of a matrix product in each precision, in the same turns, with its multiply-adds.
        left_out: why others are not there, by their keys.
    """

    title: str
    reference: str
    timings: tuple[Timing, ...]
    products: Mapping[str, Timing] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def find_reference(self, network: str) -> Timing | None:
        """Find the reference's timing of a network, in float32 where it has several."""
        found = [t for t in self.timings if (t.network, t.name) == (network, self.reference)]
        return next(iter(sorted(found, key=lambda timing: timing.dtype != "float32")), None)

    def find_resnet(self, timing: Timing) -> Timing | None:
        """Find the same implementation's timing of the ResNet of as many layers as a ResNeXt."""
        family, _, rest = timing.network.partition("-")
        wanted = (f"R-{rest.partition('-')[0]}", timing.name, timing.dtype)
        pairs = (other for other in self.timings if family == "X")
        return next((t for t in pairs if (t.network, t.name, t.dtype) == wanted), None)


def run_case(
    case: Case,
    *,
    repeats: int,
    memory: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> Comparison:
    """Build who takes part, check that their outputs agree with the reference's, and time them.

    Args:
        repeats: turns that count, after one that does not.
        memory: measure on the CPU what each takes at most, in a process of its own.

    Raises:
        ValueError: the reference itself cannot be built.
    """
    candidates, differences, left_out = build_all(case)
    counted = any(candidate.multiply_adds for candidate in candidates.values())
    dtypes = dict.fromkeys(key.dtype for key in candidates if counted and key.dtype != "int8")
    steps = {str(key): candidate.step for key, candidate in candidates.items()}
    size = PRODUCT_SIZES[case.device.type]
    for dtype in dtypes:
        steps[f"matrix product, {dtype}"] = make_product(size, dtype, case.device)
    logger.info("Timing %d in %d turns, after turn 0, which does not count.", len(steps), repeats)
    threads = torch.get_num_threads()
    torch.set_num_threads(case.threads or threads)
    try:
        timed = take_turns(steps, case.device, repeats, clock=clock)
    finally:
        torch.set_num_threads(threads)
    peaks = {}
    if memory and case.device.type == "cpu":
        peaks = {key: measure_peak(case, key) for key in candidates}
    timings = label_timings(candidates, timed, differences, peaks)
    products = {
        dtype: replace(timing, dtype=dtype, multiply_adds=size**3)
        for dtype, timing in zip(dtypes, timed[len(candidates) :])
    }
    return Comparison(case.title, case.reference, timings, products, left_out)


def label_timings(
    candidates: Mapping[Key, Candidate],
    timed: Sequence[Timing],
    differences: Mapping[Key, float],
    peaks: Mapping[Key, int | None],
) -> tuple[Timing, ...]:
    """Add to timings, which are in the candidates' order, what is known of the candidates."""
    labelled = []
    for (key, candidate), timing in zip(candidates.items(), timed):
        peak = peaks.get(key)
        if timing.peak_memory is not None:  # on a GPU
            peak = timing.peak_memory + candidate.weights
        labelled.append(
            Timing(
                key.name,
                timing.seconds,
                peak,
                network=key.network,
                dtype=key.dtype,
                difference=differences.get(key),
                multiply_adds=candidate.multiply_adds,
            )
        )
    return tuple(labelled)


def build_all(
    case: Case,
) -> tuple[dict[Key, Candidate], dict[Key, float], dict[str, str]]:
    """Build those whose outputs agree with the reference's.

    Returns:
        Those, how far their outputs are, and why others are left out.

    Raises:
        ValueError: the reference cannot be built.
    """
    candidates: dict[Key, Candidate] = {}
    differences: dict[Key, float] = {}
    left_out: dict[str, str] = {}
    expected: dict[str, Any] = {}
    for key in case.list_keys():
        first = key.network not in expected
        logger.info("Building %s and comparing what it computes.", key)
        try:
            candidate = case.build(key)
            found = candidate.compute()
        except Exception as error:  # whatever a library raises: the others are compared
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            if first:
                raise ValueError(f"{key} does not run: {reason}") from error
            left_out[str(key)] = f"it does not run: {reason}"
            continue
        if first:
            expected[key.network] = found
        difference = case.compare(found, expected[key.network])
        if not difference <= case.limits[key.dtype]:
            left_out[str(key)] = (
                f"not timed, as it computes something else: it differs from {case.reference} by "
                f"{difference:.2g}, and {case.limits[key.dtype]:g} is allowed"
            )
            continue
        candidates[key], differences[key] = candidate, difference
    return candidates, differences, left_out


def make_product(size: int, dtype: str, device: torch.device) -> Step:
    """Make a step that multiplies two square matrices in a precision of ``DTYPES``."""
    left, right = (torch.rand(size, size, device=device).to(DTYPES[dtype]) for _ in range(2))
    return hold_precision(dtype, lambda: torch.mm(left, right))
