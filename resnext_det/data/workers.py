"""Start worker processes that load samples, and pass on their errors with the name of the file."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from resnext_det.signals import STOP_SIGNALS, end_with_parent


class Failure:
    """Carry an error out of a worker; DataLoader would bury its message in a traceback."""

    def __init__(self, error: Exception, file_name: str) -> None:
        text = str(error)
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        self.error = kind(text if file_name in text else f"image {file_name}: {text}")


class Loader:
    """Give batches; an error in a worker is raised as itself and names the file."""

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        failure = None
        with _hold_signals_back():
            batches = iter(self._loader)  # starts the workers
        try:
            for batch in batches:
                samples = batch if isinstance(batch, list) else [batch]
                failure = next((sample for sample in samples if isinstance(sample, Failure)), None)
                if failure is not None:
                    break
                yield batch
        finally:
            del batches  # ends the workers now: the traceback of an error would keep them
        if failure is not None:
            raise failure.error

    def __len__(self) -> int:
        """Count the batches; a training loader is endless and raises TypeError."""
        return len(self._loader)


class Repeatable:
    """Sample batches that begin anew each time they are iterated."""

    def __init__(self, plan: Callable[[], Iterator[Any]]) -> None:
        self._plan = plan

    def __iter__(self) -> Iterator[Any]:
        return self._plan()


def start_loader(
    dataset: Dataset,
    plan: Iterable[list[Any]],
    num_workers: int,
    *,
    collate: Callable[[list[Any]], Any],
    pin_memory: bool = False,
) -> Loader:
    """Make a loader of the batches that ``plan`` lists.

    Args:
        plan: what ``dataset`` is asked for, batch by batch.
        num_workers: loading processes; 0 loads in this one.
        collate: turns a batch's samples into the batch.
        pin_memory: pin tensors, which a GPU then fetches while it computes.
    """
    options: dict[str, Any] = {
        "collate_fn": collate,
        # Without one of its own DataLoader draws from torch's global generator at each start.
        "generator": torch.Generator(),
        "pin_memory": pin_memory,
    }
    if num_workers > 0:
        options |= {"prefetch_factor": 2, "worker_init_fn": _start_worker}
        if sys.platform == "linux":
            # A spawned process would spawn its workers too, and each would import everything first.
            options["multiprocessing_context"] = "fork"
    return Loader(DataLoader(dataset, batch_sampler=plan, num_workers=num_workers, **options))


def check_loading(batch_size: int, num_workers: int) -> None:
    """Raise ValueError where a batch has no image, or num_workers is negative."""
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; give at least 1 image a process")
    if num_workers < 0:
        raise ValueError(f"num_workers is {num_workers}; give 0 or more loading processes")


@contextmanager
def _hold_signals_back() -> Iterator[None]:
    """Deliver signals afterwards, so that workers started within can leave the process group."""
    if sys.platform == "win32":
        yield
        return
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _start_worker(worker: int) -> None:
    """Limit a worker to one thread, and leave requests to stop to the main process.

    The main process finishes its step first. Signals to its process group (Ctrl-C, a scheduler's or
    timeout's SIGTERM, a terminal's SIGHUP) do not reach a worker in a group of its own. The worker
    cannot ignore SIGTERM: torch ends workers by that. Where the main process is killed, a worker
    ends by itself, also one that reads a file that never comes.
    """
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        os.setpgrp()
        while pending := signal.sigpending() & set(STOP_SIGNALS):  # before it left the group
            signal.sigwait(pending)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    sys.excepthook = _report_error
    torch.set_num_threads(1)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(0)


def _report_error(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print an error of a worker's thread, unless the main process broke off a connection.

    A thread hands the tensors of a batch over. Where a training is asked to stop while it waits for
    the batch, it leaves at once, maybe in the middle of that. Errors of samples are batches.
    """
    if not issubclass(kind, (EOFError, ConnectionError)):
        sys.__excepthook__(kind, error, trace)
