"""Run several trainings at a time on one machine, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import FrameType
from typing import TypeVar

from resnext_det.signals import end_with_parent, handle_stop
from resnext_det.training.processes import ORPHAN_SECONDS
from resnext_det.training.threads import fit_threads

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


def run_in_pool(
    work: Callable[[Item], Outcome], items: Sequence[Item], processes: int
) -> list[Outcome]:
    """Call ``work`` with every item, in so many processes at a time; return the outcomes in order.

    Each process has its share of the machine's processors, see ``fit_threads``, and takes the next
    item when it has finished one. With one process the calls are made here, one after another.

    Args:
        work: a function of a module; it, the items and the outcomes have to be picklable.

    Raises:
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP came, and the trainings were left in order,
            each with a checkpoint. A second Ctrl-C kills them.
        ChildProcessError: a process was killed.
        Exception: the first error of any call; the other trainings are left in the same way.
    """
    if processes == 1:
        return [work(item) for item in items]
    interrupts, stopped = 0, False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts, stopped
        stopped = True
        interrupts += number == signal.SIGINT
        _end_children(kill=interrupts > 1)

    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(processes, context, _begin_process, (processes,)) as pool,
        handle_stop(stop),
    ):
        futures = [pool.submit(_call, work, item) for item in items]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            failed = [future for future in futures if future.done() and future.exception()]
            return [future.result() for future in failed or futures]
        except BrokenProcessPool as error:
            if stopped:
                raise KeyboardInterrupt from error
            raise ChildProcessError(
                f"{error}; where that was SIGKILL the machine's memory was full: train fewer at a "
                "time"
            ) from error
        finally:
            for future in futures:
                future.cancel()
            if not stopped and any(future.running() for future in futures):
                _end_children(kill=False)
            pool.shutdown()  # waits until they have left, while a second Ctrl-C is heard


def _begin_process(processes: int) -> None:
    """Prepare a process: its threads, and what ends it. Ctrl-C comes by way of the first one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked process has its parent's handler
    end_with_parent(grace=ORPHAN_SECONDS)
    fit_threads(processes)


_left = False


def _call(work: Callable[[Item], Outcome], item: Item) -> Outcome:
    """Call, unless an earlier call of this process was left on request."""
    global _left
    if _left:
        raise KeyboardInterrupt
    try:
        return work(item)
    except KeyboardInterrupt:
        _left = True
        raise


def _end_children(*, kill: bool) -> None:
    """End the processes: by SIGTERM a training is left in order, and another one at once."""
    for child in multiprocessing.active_children():
        if kill:
            child.kill()
        else:
            child.terminate()
