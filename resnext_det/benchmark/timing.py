"""Time steps in turn, on a machine that is never quiet.

A ratio compares turns of the same seconds, so that what slows one of them slows the other.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

logger = logging.getLogger(__name__)

Step = Callable[[], object]

_SILENCE = 5.0  # seconds, after which the log tells how far it is


@dataclass(frozen=True)
class Timing:
    """Hold the seconds of each turn of one implementation.

    Attributes:
        peak_memory: in bytes, what a step takes at most; None where it was not measured.
        network: the name of an architecture, "" where there is none.
        dtype: the precision that was asked for: "float32", "tf32" or "bfloat16".
        difference: of its outputs from the reference's, as ``Case.compare`` counts it.
        multiply_adds: of a step; None where they are not counted.
    """

    name: str
    seconds: tuple[float, ...]
    peak_memory: int | None = None
    network: str = ""
    dtype: str = "float32"
    difference: float | None = None
    multiply_adds: int | None = None

    @property
    def median(self) -> float:
        """The median of the turns, in seconds."""
        return statistics.median(self.seconds)


def compute_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Compute the median of the ratios, turn by turn."""
    return statistics.median(upper / lower for upper, lower in zip(numerator, denominator))


def take_turns(
    steps: Mapping[str, Step],
    device: torch.device,
    repeats: int,
    *,
    warm_ups: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    is_over: Callable[[], bool] = lambda: False,
) -> list[Timing]:
    """Call each implementation's step in turn, ``repeats`` times.

    Args:
        warm_ups: turns before these, which do not count.
        clock: tells seconds.
        is_over: asked after every turn; where it says so, no other turn begins.

    Returns:
        One timing for each step; its memory is what the step took on a GPU beyond what stood there.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    memory: dict[str, int | None] = {}
    told = clock()
    for turn in range(-warm_ups, repeats):
        for name, step in steps.items():
            taken, memory[name] = _measure(step, device, clock)
            if turn >= 0:
                seconds[name].append(taken)
            if clock() - told >= _SILENCE:
                told = clock()
                logger.info("Turn %d of %d: %s took %.2f s.", turn + 1, repeats, name, taken)
        if is_over():
            break
    return [Timing(name, tuple(taken), memory.get(name)) for name, taken in seconds.items()]


def _measure(
    step: Step, device: torch.device, clock: Callable[[], float]
) -> tuple[float, int | None]:
    if device.type != "cuda":
        began = clock()
        step()
        return clock() - began, None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    began = clock()
    step()
    torch.cuda.synchronize(device)
    return clock() - began, torch.cuda.max_memory_allocated(device) - before
