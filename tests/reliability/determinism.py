"""Measure what --deterministic costs a training step, in turns with steps without it.

    python -m tests.reliability.determinism --threads 1

Medians of the processor's time of this process, which other programs hardly change. Some 3 minutes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch

from resnext_det.architecture import Architecture
from resnext_det.benchmark.engines import DETECTORS, PORTABLE, build_engine, draw_samples
from resnext_det.training.optimizer import OptimizerSettings, build_optimizer


def make_step(network: str, kind: str, size: Sequence[int]) -> Callable[[], None]:
    """Make a training step on two random images of (height, width), by the same draws each time."""
    model = build_engine(PORTABLE, Architecture.parse(network), kind).train()
    optimizer = build_optimizer(model, OptimizerSettings(base_lr=1e-6))
    samples = draw_samples(2, *size)

    def step() -> None:
        torch.manual_seed(0)
        optimizer.zero_grad()
        sum(model(samples).values(), torch.zeros(())).backward()
        optimizer.step()

    return step


def measure(step: Callable[[], None], repeats: int) -> dict[bool, list[float]]:
    """Time a step without and with deterministic algorithms, in turns, after one of each."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    try:
        for turn in range(2 * repeats + 2):
            deterministic = turn % 2 == 1
            torch.use_deterministic_algorithms(deterministic)
            began = time.process_time()
            step()
            if turn > 1:
                seconds[deterministic].append(time.process_time() - began)
    finally:
        torch.use_deterministic_algorithms(False)
    return seconds


def main() -> int:
    """Measure, and print a line for each kind of detector."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="X-50-32x4d")
    parser.add_argument("--detectors", nargs="+", choices=DETECTORS, default=["C4", "FPN"])
    parser.add_argument("--size", nargs=2, type=int, default=[320, 416], metavar="PIXELS")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for kind in options.detectors:
        seconds = measure(make_step(options.network, kind, options.size), options.repeats)
        free, bound = (statistics.median(seconds[each]) for each in (False, True))
        print(
            f"{kind} of {options.network}: {free:.2f} s a step, {bound:.2f} s deterministic, "
            f"{100 * (bound / free - 1):+.1f} %"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
