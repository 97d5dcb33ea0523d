"""Turns of several implementations, since machines are noisy: what a ratio compares was measured in the same seconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from tabulate import tabulate


@dataclass(frozen=True)
class Timing:
    """Seconds of each turn of one implementation, and on a GPU the largest memory in bytes."""

    name: str
    seconds: tuple[float, ...]
    peak_memory: int | None = None


def take_turns(
    steps: Mapping[str, Callable[[], None]], device: torch.device, repeats: int
) -> list[Timing]:
    """Call every implementation's step in turn, ``repeats`` times, after one time that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    memory: dict[str, int] = {}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            taken, memory[name] = _measure(step, device)
            if turn:
                seconds[name].append(taken)
    on_gpu = device.type == "cuda"
    return [
        Timing(name, tuple(taken), memory[name] if on_gpu else None)
        for name, taken in seconds.items()
    ]


def _measure(step: Callable[[], None], device: torch.device) -> tuple[float, int]:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter() - began, torch.cuda.max_memory_allocated(device)
    return time.perf_counter() - began, 0


def table(timings: list[Timing]) -> str:
    """Milliseconds (minimum, median, maximum), the median ratio to the first, turn by turn, and memory."""
    first = timings[0].seconds
    rows = []
    for timing in timings:
        milliseconds = [1000 * value for value in timing.seconds]
        ratio = statistics.median(other / own for other, own in zip(timing.seconds, first))
        memory = "" if timing.peak_memory is None else f"{timing.peak_memory / 2**20:.0f} MiB"
        rows.append(
            [
                timing.name,
                min(milliseconds),
                statistics.median(milliseconds),
                max(milliseconds),
                ratio,
                memory,
            ]
        )
    headers = [
        "implementation",
        "min ms",
        "median ms",
        "max ms",
        f"ratio to {timings[0].name}",
        "memory",
    ]
    return tabulate(rows, headers, tablefmt="pipe", floatfmt=("", ".0f", ".0f", ".0f", ".2f", ""))
