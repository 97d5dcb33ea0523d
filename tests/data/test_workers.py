"""Workers that are asked to stop along with the main process, and what it costs to start them."""

from __future__ import annotations

import os
import signal
import socket
from multiprocessing import resource_sharer
from typing import Any

import pytest
from torch.utils.data import Dataset

from resnext_det.data import workers
from resnext_det.training.processes import Processes, launch
from tests.training.helpers import run_in_another_process


class Numbers(Dataset):
    def __getitem__(self, index: int) -> int:
        return index


def load(num_workers: int = 2) -> list[int]:
    loader = workers.start_loader(
        Numbers(), [[0], [1], [2], [3]], num_workers, collate=lambda batch: batch[0]
    )
    return list(loader)


def load_while_all_are_asked_to_stop() -> None:
    """SIGTERM goes to the whole group when a worker has been started and has not left it yet."""
    os.setpgrp()
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    start = workers._start_worker

    def start_late(worker: int) -> None:
        os.killpg(os.getpgrp(), signal.SIGTERM)
        start(worker)

    workers._start_worker = start_late
    assert load() == [0, 1, 2, 3]
    assert signal.SIGTERM in asked
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.skipif(os.name != "posix", reason="there are no process groups")
def test_a_worker_that_starts_survives_a_stop_of_the_group() -> None:
    assert run_in_another_process(load_while_all_are_asked_to_stop) == 0


def workers_that_were_forked() -> list[Any]:
    """A local function cannot be sent to a worker that is spawned."""
    return load()


@pytest.mark.usefixtures("quick_start")
def test_a_process_of_a_group_forks_its_workers() -> None:
    assert launch(workers_that_were_forked, Processes(num_gpus=2), device="cpu") == [0, 1, 2, 3]


class BrokenOff(Dataset):
    """Offer what is shared to a connection that ends at once."""

    def __getitem__(self, index: int) -> int:
        sharer = resource_sharer._resource_sharer
        address, _ = sharer.register(lambda *_: None, lambda: None)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address)
        sharer.stop(5)  # what the first connection raised was printed before
        return index


@pytest.mark.skipif(os.name != "posix", reason="there are no sockets of this kind")
def test_a_connection_that_is_broken_off_is_not_told(capfd: pytest.CaptureFixture[str]) -> None:
    """It is where a training is stopped while it takes over a batch."""
    loader = workers.start_loader(BrokenOff(), [[0]], 1, collate=lambda batch: batch[0])
    assert list(loader) == [0]
    assert capfd.readouterr().err == ""
