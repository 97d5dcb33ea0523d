"""Turns, ratios and the end of the time, by a clock that steps move."""

from __future__ import annotations

import logging

import pytest
import torch

from resnext_det.benchmark.timing import Timing, compute_ratio, take_turns
from tests.benchmark.helpers import FakeClock

CPU = torch.device("cpu")


def test_implementations_take_turns_and_the_first_does_not_count() -> None:
    clock, order = FakeClock(), []
    slow, fast = clock.make_step(9.0, 3.0, 5.0), clock.make_step(7.0, 1.0)
    steps = {
        "slow": lambda: (order.append("slow"), slow()),
        "fast": lambda: (order.append("fast"), fast()),
    }
    timings = take_turns(steps, CPU, 3, clock=clock)
    assert timings == [Timing("slow", (3.0, 5.0, 5.0)), Timing("fast", (1.0, 1.0, 1.0))]
    assert order == ["slow", "fast"] * 4
    assert timings[0].median == 5.0


def test_the_log_tells_how_far_it_is(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    steps = {"slow": clock.make_step(4.0), "fast": clock.make_step(1.5)}
    with caplog.at_level(logging.INFO):
        take_turns(steps, CPU, 2, clock=clock)
    assert caplog.messages == [
        "Turn 0 of 2: fast took 1.50 s.",
        "Turn 1 of 2: fast took 1.50 s.",
        "Turn 2 of 2: fast took 1.50 s.",
    ]


def test_no_turn_begins_when_the_time_is_over() -> None:
    clock = FakeClock()
    steps = {"a": clock.make_step(2.0), "b": clock.make_step(1.0)}
    timings = take_turns(steps, CPU, 9, clock=clock, is_over=lambda: clock() > 8)
    assert [timing.seconds for timing in timings] == [(2.0, 2.0), (1.0, 1.0)]


def test_a_ratio_is_the_median_of_turns() -> None:
    assert compute_ratio((2.0, 4.0, 9.0), (1.0, 2.0, 1.0)) == pytest.approx(2.0)
