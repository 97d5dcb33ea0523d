"""Worker processes that load samples: what goes wrong in one arrives as itself, by the name of the file."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

_POSIX = os.name == "posix"
_HELD_BACK = (signal.SIGINT, signal.SIGTERM)


class Failure:
    """An error on its way from a worker; DataLoader would bury its message in a traceback."""

    def __init__(self, error: Exception, file_name: str) -> None:
        text = str(error)
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        self.error = kind(text if file_name in text else f"image {file_name}: {text}")


class Loader:
    """Batches; an error in a worker arrives as itself and names the file."""

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        failure = None
        with _signals_held_back():
            batches = iter(self._loader)  # starts the workers
        for batch in batches:
            samples = batch if isinstance(batch, list) else [batch]
            failure = next((sample for sample in samples if isinstance(sample, Failure)), None)
            if failure is not None:
                break  # ends the workers before the error is raised
            yield batch
        if failure is not None:
            raise failure.error

    def __len__(self) -> int:
        """Number of batches; a training loader is endless and raises TypeError."""
        return len(self._loader)


class Repeatable:
    """A batch sampler that begins anew each time it is iterated."""

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
    """A loader of the batches that ``plan`` lists.

    Args:
        plan: what ``dataset`` is asked for, batch by batch.
        num_workers: loading processes; 0 loads in this one.
        collate: from a batch's samples to the batch.
        pin_memory: of tensors, which a GPU then fetches while it computes.
    """
    # Without a generator of its own DataLoader draws from torch's global one at each start, as a model does.
    options: dict[str, Any] = {
        "collate_fn": collate,
        "generator": torch.Generator(),
        "pin_memory": pin_memory,
    }
    if num_workers > 0:
        options |= {"prefetch_factor": 2, "worker_init_fn": _start_worker}
        if sys.platform == "linux":
            # A process that was spawned would spawn its workers too, and each would first import everything.
            options["multiprocessing_context"] = "fork"
    return Loader(DataLoader(dataset, batch_sampler=plan, num_workers=num_workers, **options))


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """A worker that is started within has time to leave the process group; this process gets what was sent afterwards."""
    if not _POSIX:
        yield
        return
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def check_loading(batch_size: int, num_workers: int) -> None:
    """Raise ValueError where a batch has no image, or the number of loading processes is negative."""
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; give at least 1 image a process")
    if num_workers < 0:
        raise ValueError(f"num_workers is {num_workers}; give 0 or more loading processes")


def _start_worker(worker: int) -> None:
    """One thread a worker; a request to stop is left to the main process, which finishes its step.

    What is sent to its process group (Ctrl-C, a scheduler's or timeout's SIGTERM) does not reach the worker in a group of its own. It
    cannot ignore SIGTERM: torch ends workers by that. Where the main process is killed, a worker ends by itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _POSIX:
        os.setpgrp()
        while (
            signal.SIGTERM in signal.sigpending()
        ):  # it was sent to the group before the worker left that
            signal.sigwait((signal.SIGTERM,))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)
    torch.set_num_threads(1)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(0)
