"""Requests, errors and small machines: what a user is told."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from resnext_det.training import distributed
from resnext_det.training.interruption import StopRequest
from resnext_det.training.processes import (
    TESTING,
    TRAINING,
    Advice,
    Processes,
    check_restarts,
    explain_small_machines,
    launch,
)


@pytest.mark.parametrize(
    ("advice", "gpu", "workers"),
    [
        (TRAINING, "lower SOLVER.IMS_PER_BATCH", "lower DATALOADER.NUM_WORKERS"),
        (TESTING, "lower --batch-size", "lower --num-workers"),
    ],
)
def test_full_memory_is_explained(advice: Advice, gpu: str, workers: str) -> None:
    with (
        pytest.raises(ValueError, match=rf"GPU's memory is full \(CUDA out of memory\); {gpu}"),
        explain_small_machines(advice),
    ):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory\nTried to allocate")
    with (
        pytest.raises(
            ChildProcessError, match=rf"DataLoader worker .* is killed.*ulimit -n allows: {workers}"
        ),
        explain_small_machines(advice),
    ):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
    with pytest.raises(RuntimeError, match="something else"), explain_small_machines(advice):
        raise RuntimeError("something else")


def test_deterministic_algorithms_compute_in_the_job_alone() -> None:
    def compute() -> tuple[bool, bool]:
        return torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic

    before = compute()
    assert launch(compute, device="cpu", deterministic=True) == (True, True)
    assert compute() == before
    error = RuntimeError(
        "f_cuda does not have a deterministic implementation, but you set 'torch.use_...'"
    )
    with (
        pytest.raises(ValueError, match=r"\(f_cuda does not .* implementation\); leave it out"),
        explain_small_machines(),
    ):
        raise error


def fail(kind: type[Exception]) -> None:
    if distributed.get_rank() == 1:
        raise kind("the images of process 1 are missing; write another folder")
    distributed.barrier()


def test_an_error_in_one_process_is_raised_as_itself() -> None:
    began = time.perf_counter()
    with pytest.raises(ValueError, match="images of process 1 are missing"):
        launch(fail, Processes(num_gpus=2), device="cpu", args=(ValueError,))
    assert time.perf_counter() - began < 300  # a group that waits gives up after half an hour


def wait_with_one_stopped(folder: str) -> None:
    """Wait for process 1, which stops; nothing but SIGKILL ends either of them."""
    Path(folder, f"{os.getpid()}.pid").touch()
    with StopRequest():
        if distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        distributed.barrier()


@pytest.mark.skipif(os.name != "posix", reason="no process can be stopped")
@pytest.mark.usefixtures("quick_start")
def test_the_second_interrupt_ends_all_processes(tmp_path: Path) -> None:
    def press_twice() -> None:
        while len(list(tmp_path.glob("*.pid"))) < 2:
            time.sleep(0.02)
        for _ in range(2):
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press_twice, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        launch(wait_with_one_stopped, Processes(num_gpus=2), device="cpu", args=(str(tmp_path),))
    for child in multiprocessing.active_children():
        child.join(60)
    for path in tmp_path.glob("*.pid"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.stem), 0)


def test_torchrun_started_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {
        "RANK": 0,
        "WORLD_SIZE": 1,
        "LOCAL_RANK": 0,
        "LOCAL_WORLD_SIZE": 1,
        "MASTER_PORT": 0,
    }
    for name, value in {**settings, "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, str(value))
    assert launch(torch.distributed.is_initialized, device="cpu") is True
    assert not torch.distributed.is_initialized()
    with pytest.raises(ValueError, match="torchrun started 1 processes"):
        launch(print, Processes(num_gpus=4), device="cpu")


def test_torchrun_would_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    check_restarts(resume=False)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_MAX_RESTARTS"):
        monkeypatch.setenv(name, "3")
    check_restarts(resume=True)
    with pytest.raises(ValueError, match=r"--max-restarts 3 .*add --resume"):
        check_restarts(resume=False)


def test_too_few_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"--num-gpus 4, but torch finds 0.*MODEL\.DEVICE cpu"):
        launch(print, Processes(num_gpus=4))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"--num-gpus 4, but torch finds 2.*--num-gpus 2"):
        launch(print, Processes(num_gpus=4))
    with pytest.raises(ValueError, match=r"MODEL\.DEVICE is 'cuda:1', but 2 processes.*write cuda"):
        launch(print, Processes(num_gpus=2), device="cuda:1")


def test_machines_that_cannot_meet() -> None:
    with pytest.raises(ValueError, match="--machine-rank 2"):
        launch(print, Processes(num_machines=2, machine_rank=2), device="cpu")
    with pytest.raises(ValueError, match=r"--dist-url auto.*tcp://HOST:PORT"):
        launch(print, Processes(num_machines=2), device="cpu")
