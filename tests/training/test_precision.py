"""Test what is said of measured speeds; the measuring itself has no right value."""

from __future__ import annotations

import logging

import pytest
import torch

from resnext_det.training import precision
from resnext_det.training.precision import judge_speed, tell_speed_of_precision

SETTING = "SOLVER.AMP.ENABLED True"


@pytest.mark.parametrize(
    ("speed", "level", "words"),
    [
        (0.05, logging.WARNING, "bfloat16 takes 20.0 times as long as in float32; leave that out"),
        (0.5, logging.WARNING, "takes 2.0 times as long"),
        (0.9, logging.INFO, "takes about the time in float32"),
        (1.2, logging.INFO, "takes about the time in float32"),
        (3.0, logging.INFO, "takes 1/3.0 of the time in float32"),
    ],
)
def test_a_speed_in_words(speed: float, level: int, words: str) -> None:
    found = judge_speed(speed, torch.bfloat16, SETTING)
    assert found[0] == level
    assert found[1].startswith(f"{SETTING}: on this CPU") and words in found[1]


def test_it_is_measured_on_the_cpu_alone_and_draws_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = torch.get_rng_state()
    with caplog.at_level(logging.INFO, precision.__name__):
        tell_speed_of_precision(torch.device("cpu"), None)
        tell_speed_of_precision(torch.device("cuda"), torch.bfloat16)
        assert not caplog.records
        tell_speed_of_precision(torch.device("cpu"), torch.bfloat16, "--amp")
    (record,) = caplog.records
    assert record.getMessage().startswith("--amp: on this CPU a small convolution in bfloat16")
    assert torch.equal(torch.get_rng_state(), before)
