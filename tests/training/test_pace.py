"""The time left, the wait for data and the memory of a training, on a clock of the test's own."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from resnext_det.training import pace
from resnext_det.training.pace import Pace, read_peak_memory


class Clock:
    """Stand in for time.perf_counter."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(pace.time, "perf_counter", lambda: self.now)

    def step(self, followed: Pace, seconds: float, pause: float = 0.0) -> None:
        self.now += seconds + pause
        followed.note(seconds, seconds / 4)


def test_the_time_left_follows_a_speed_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """After 600 fast steps others take the processors: 20 steps later the time left is true."""
    clock, followed = Clock(monkeypatch), Pace()
    assert followed.estimate(10) is None
    for _ in range(600):
        clock.step(followed, 0.23)
    assert followed.estimate(400) == pytest.approx(92)  # 1:32, and 40 minutes are to come
    for done in range(1, 21):
        clock.step(followed, 6.0)
        left = followed.estimate(400 - done)
        assert left is not None and left > 0.23 * (400 - done)
    assert left == pytest.approx(6.0 * 380)
    assert followed.finish_line() == pytest.approx(((598 * 0.23 + 120) / 618, 0.25))


def test_evaluations_count_as_often_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every 100 of 1000 steps one of 30 seconds; right after one the time left is the true one."""
    clock, followed = Clock(monkeypatch), Pace()
    for done in range(1, 801):
        due = done % 100 == 0
        clock.step(followed, 0.5, 30.0 * due)
        true = 0.5 * (1000 - done) + 30 * (10 - done // 100)
        if due:
            assert followed.estimate(1000 - done) == pytest.approx(true)
        elif done > 100:
            left = followed.estimate(1000 - done)
            assert left is not None and true - 30 <= left <= true


def test_first_steps_and_empty_lines_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, followed = Clock(monkeypatch), Pace()
    for _ in range(2):
        clock.step(followed, 100.0)
    assert followed.finish_line() is None and followed.estimate(5) is None
    clock.step(followed, 2.0)
    assert followed.finish_line() == (2.0, 0.25) and followed.finish_line() is None
    assert followed.estimate(5) == 10.0


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own number is compared")
def test_the_peak_of_memory_is_the_kernels() -> None:
    before = read_peak_memory()
    held = np.ones(80 * 2**20, np.uint8)
    peak = read_peak_memory()
    known = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert before is not None and peak is not None and known is not None and held.all()
    assert peak == pytest.approx(int(known[1]) / 1024, rel=0.02)
