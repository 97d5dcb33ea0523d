"""Fit the threads of a process to its processors, and notice where other processes hold them."""

from __future__ import annotations

import logging
import math
import os
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from resnext_det.training.loop import Step

logger = logging.getLogger(__name__)

_RECENT = 5  # steps that have to be slow
_USUAL = 20  # steps before them, at least, to compare with
_WINDOW = 1000
_SLOWER = 3.0  # images of other sizes make a step at most twice as long
_BUSY = 1.25  # the load is a mean over a minute, and lags behind


def fit_threads(processes: int = 1) -> None:
    """Limit torch's threads to this process's share of the processors; OMP_NUM_THREADS goes before.

    torch starts a thread for every processor that it sees: in a container with 2 of 64, and in each
    of several processes. Threads that wait for one another then spin in each other's place.

    Args:
        processes: that compute on this machine, this one among them.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        share = max(1, math.floor(count_processors() / processes))
        torch.set_num_threads(min(share, torch.get_num_threads()))


def count_processors() -> float:
    """Count the processors that this process may use, by its affinity and its cgroup's limit."""
    known = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(float(known or 1), read_cgroup_limit())


def read_cgroup_limit(root: Path = Path("/")) -> float:
    """Read how many processors the control groups of this process allow; infinity without a limit.

    Args:
        root: of the file system.
    """
    limits = [math.inf]
    try:
        groups = Path(root, "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.inf
    for group in groups:
        _, controllers, path = group.split(":", 2)
        base = Path(root, "sys/fs/cgroup", *(["cpu"] if controllers else []))
        folder = base / path.lstrip("/")
        for place in {base, folder, *folder.parents}:  # in a container its own group is the base
            if controllers == "":
                limits.append(parse_limit(_read(place / "cpu.max")))
            elif "cpu" in controllers.split(","):
                names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                limits.append(parse_limit(" ".join(_read(place / name) for name in names)))
    return min(limits)


def parse_limit(text: str) -> float:
    """Parse "QUOTA PERIOD" in microseconds, as in cpu.max: "200000 100000" is 2 processors."""
    words = text.split()
    if len(words) != 2 or not all(word.isdecimal() for word in words) or words[0] == "0":
        return math.inf  # "max 100000"; in the older form "-1 100000"; no such file
    return int(words[0]) / int(words[1])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def find_crowding(
    seconds: Sequence[float], *, load: float, processors: float, machine: int, own: int
) -> str | None:
    """Tell whether other processes hold the processors, from the times of the steps and the load.

    Either the last steps were much slower than usual while more was to do than the processors can
    take, or the others alone would fill the machine.

    Args:
        seconds: of every step so far, without waiting for its batch.
        load: of the machine, in runnable processes and threads (``os.getloadavg``).
        processors: that this process may use.
        machine: all processors of the machine, over which the load is.
        own: this training's threads and loading processes.

    Returns:
        What was seen, in words; None where nothing was.
    """
    if len(seconds) < _USUAL + _RECENT:
        return None
    usual, recent = (statistics.median(part) for part in (seconds[:-_RECENT], seconds[-_RECENT:]))
    seen = f"the load is {load:.1f} on {min(processors, machine):g} processors"
    if recent >= _SLOWER * usual and load > _BUSY * processors:
        return f"the last steps took {recent:.3g} s each, {usual:.3g} s are usual, and {seen}"
    if load - own >= machine:
        return f"a step takes {recent:.3g} s, and {seen}, of which this training needs {own}"
    return None


class CrowdingWatch:
    """Warn once of other processes that hold the processors; call it after each ``Step``.

    Args:
        num_workers: loading processes of this training.
        measure_load: gives the load of the last minute first.
    """

    def __init__(self, num_workers: int, measure_load: Callable[[], Sequence[float]]) -> None:
        self._num_workers, self._measure_load = num_workers, measure_load
        self._seconds: deque[float] = deque(maxlen=_WINDOW)
        self._processors = count_processors()
        self._told = False

    def __call__(self, step: Step) -> None:
        if self._told:
            return
        self._seconds.append(step.seconds - step.data_seconds)
        threads = torch.get_num_threads()
        seen = find_crowding(
            list(self._seconds),
            load=self._measure_load()[0],
            processors=self._processors,
            machine=os.cpu_count() or 1,
            own=threads + self._num_workers,
        )
        if seen is not None:
            self._told = True
            fewer = ", lower DATALOADER.NUM_WORKERS" if self._num_workers > 0 else ""
            logger.warning(
                "Other processes hold the processors: %s. Threads that wait for one another spin "
                "meanwhile, which can make a step ten times slower. Ctrl-C leaves a checkpoint; "
                "set OMP_WAIT_POLICY=PASSIVE and OMP_NUM_THREADS=%d in the environment%s, and go "
                "on with --resume, or end other programs.",
                *(seen, max(1, threads // 2), fewer),
            )


def watch_crowding(device: torch.device, num_workers: int) -> list[Callable[[Step], None]]:
    """Make the watch of a training, for ``after_step``: on the CPU, where a load is measured."""
    if device.type != "cpu" or not hasattr(os, "getloadavg"):
        return []
    return [CrowdingWatch(num_workers, os.getloadavg)]
