"""Measure how fast a training goes: the time left, the wait for data, and the memory."""

from __future__ import annotations

import sys
import time
from collections import deque

import torch

PERIOD = 20
"""Iterations between two lines, and the window of the medians and of the present speed."""

WAITING = 0.25
"""From this share of the time on that is spent waiting for batches, data is the bound."""

_WARM_UP = 3  # first iterations of a run, which are slower than the others


class Pace:
    """Follow the times of a training's steps; call ``note`` once after each.

    The time left is that of the last 20 steps for each step to come, so that it follows a speed
    that changes. Evaluations and checkpoints are added as they fell on a step so far, from the
    first one on.
    """

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=PERIOD)
        self._line: list[tuple[float, float]] = []  # seconds of the steps since the last line
        self._steps = 0
        self._paused = 0.0  # between the steps
        self._pause_per_step = 0.0
        self._noted: float | None = None

    def note(self, seconds: float, data_seconds: float) -> None:
        """Note a step that just ended.

        Args:
            seconds: of the whole step.
            data_seconds: of these, the wait for the batch.
        """
        now = time.perf_counter()
        pause = 0.0 if self._noted is None else max(0.0, now - self._noted - seconds)
        self._noted = now
        self._steps += 1
        self._paused += pause
        if self._steps < _WARM_UP:
            return
        self._recent.append(seconds)
        self._line.append((seconds, data_seconds))
        # Right after an evaluation its share is known; until the next one it would seem to fall.
        if pause > seconds:
            self._pause_per_step = self._paused / self._steps

    def estimate(self, steps: int) -> float | None:
        """Estimate the seconds that so many steps will take; None while nothing is known."""
        if not self._recent:
            return None
        return (sum(self._recent) / len(self._recent) + self._pause_per_step) * steps

    def finish_line(self) -> tuple[float, float] | None:
        """Return the mean seconds of the steps since the last call, and the share that was waiting.

        A mean: on a GPU most steps only queue work, and one of them waits for all of it.
        """
        if not self._line:
            return None
        seconds, waits = (sum(values) for values in zip(*self._line, strict=True))
        mean = seconds / len(self._line)
        self._line.clear()
        return mean, waits / max(seconds, 1e-9)


def read_peak_memory() -> float | None:
    """Read the most memory that this process has held: a GPU's if it computes there, in MiB.

    Loading processes are not counted. None where the system does not tell.
    """
    if torch.cuda.is_available() and (peak := torch.cuda.max_memory_allocated()):
        return peak / 2**20
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
