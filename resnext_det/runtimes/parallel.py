"""Compute the pieces of a work side by side, each by one thread.

torch divides every operation among its threads, which then wait for one another after each of them,
and their numbers leave their processor's cache. Pieces that need nothing of each other have no need
to wait.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Piece = TypeVar("Piece")

_LARGE = 2**18  # numbers of an operation that torch divides among its threads


def run_in_parallel(compute: Callable[[Piece], None], pieces: Iterable[Piece]) -> None:
    """Call a function for each piece, in as many threads as torch computes with.

    Args:
        compute: for inference; what it returns is dropped. Its operations are not divided further,
            unless torch has one thread: then they are called in this one.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        for piece in pieces:
            compute(piece)
        return

    def compute_alone(piece: Piece) -> None:
        with torch.inference_mode():  # it holds for one thread alone
            compute(piece)

    for _ in _start_workers(threads, os.getpid()).map(compute_alone, pieces):
        pass


@cache
def _start_workers(count: int, process: int) -> ThreadPoolExecutor:
    """Start threads that compute without torch's own; a forked process needs others.

    A thread's first parallel operation gives it settings of its own, which it is to change alone:
    before, ``set_num_threads`` changes those of all threads.
    """
    ready = threading.Barrier(count + 1)

    def prepare() -> None:
        torch.ones(_LARGE).exp_()
        torch.set_num_threads(1)
        ready.wait()

    workers = ThreadPoolExecutor(count, "resnext_det", prepare)
    for _ in range(count):
        workers.submit(int)
    ready.wait()
    torch.set_num_threads(count)  # torch starts later threads with what was set last
    return workers
