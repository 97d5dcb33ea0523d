"""Test what ends a process: a signal, or the end of the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.utils.data import Dataset

from resnext_det.data.workers import start_loader
from resnext_det.signals import STOP_SIGNALS, handle_stop, interrupt
from tests.training.helpers import run_in_another_process


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_interrupts(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), handle_stop(interrupt):
        signal.raise_signal(number)
    assert signal.getsignal(number) == before


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there are no terminals to close")
def test_nohup_is_heeded() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handle_stop(interrupt):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


class Stuck(Dataset):
    """A file that never comes: reading it waits for ever."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __getitem__(self, index: int) -> int:
        Path(self.folder, f"{os.getpid()}.pid").touch()
        with open(Path(self.folder, "fifo"), "rb") as file:
            return len(file.read())


def load_and_be_killed(folder: str) -> None:
    """Die by SIGKILL while two workers wait for their files."""
    os.mkfifo(Path(folder, "fifo"))
    batches = start_loader(Stuck(folder), [[0], [1], [2]], 2, collate=len)
    signal.signal(signal.SIGALRM, lambda number, frame: kill_when_two_wait(folder))
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    list(batches)


def kill_when_two_wait(folder: str) -> None:
    if len(list(Path(folder).glob("*.pid"))) == 2:
        os.kill(os.getpid(), signal.SIGKILL)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc and FIFOs")
def test_stuck_workers_end_with_their_parent(tmp_path: Path) -> None:
    assert run_in_another_process(load_and_be_killed, str(tmp_path)) == -signal.SIGKILL
    workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert len(workers) == 2
    wait_for_the_end(workers)


def wait_for_the_end(processes: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(map(is_running, processes)):
        assert time.monotonic() < deadline, "processes outlive the one that started them"
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_process_ends_with_its_launcher() -> None:
    wait = "import time; from resnext_det.signals import end_with_parent; end_with_parent(); "
    wait += "print(flush=True); time.sleep(300)"
    start = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {wait!r}]); "
    command = [sys.executable, "-c", start + "print(p.pid, flush=True); p.wait()"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        lines = [launcher.stdout.readline() for _ in range(2)]  # in either order
        launcher.kill()
        launcher.wait()
        wait_for_the_end([int(line) for line in lines if line.strip()])
