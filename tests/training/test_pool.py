"""Trainings side by side: outcomes, the first error, and an end in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from resnext_det.training import pool
from resnext_det.training.interruption import StopRequest, TrainingInterrupted
from resnext_det.training.pool import run_in_pool

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the tests fork")


@pytest.fixture(autouse=True)
def fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is spawned loads torch for seconds."""
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(pool.multiprocessing, "get_context", lambda method: context)


def describe(item: int) -> tuple[int, int, int]:
    time.sleep(0.05 * (item == 0))
    return item, os.getpid(), torch.get_num_threads()


def test_outcomes_come_in_order_from_several_processes() -> None:
    outcomes = run_in_pool(describe, range(6), 2)
    assert [item for item, *_ in outcomes] == list(range(6))
    assert os.getpid() not in {process for _, process, _ in outcomes}
    assert {threads for *_, threads in outcomes} <= {1, torch.get_num_threads() // 2}
    assert {process for _, process, _ in run_in_pool(describe, [1, 2], 1)} == {os.getpid()}


def train_until_asked(folder: Path | None) -> Any:
    """Stand for a training that fails, or that ends only where it is asked to."""
    if folder is None:
        raise ValueError("the images are missing; write another folder")
    with StopRequest() as request:
        (folder / f"{os.getpid()}.began").touch()
        while not request.is_made():
            time.sleep(0.01)
        (folder / f"{os.getpid()}.left").touch()
    raise TrainingInterrupted(folder / "model_0000009.pth", 9)


def test_an_error_ends_the_others_in_order(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the images are missing"):
        run_in_pool(train_until_asked, [tmp_path, None, tmp_path], 2)
    assert len(list(tmp_path.glob("*.began"))) == len(list(tmp_path.glob("*.left")))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_in_order(tmp_path: Path, number: int) -> None:
    def press() -> None:
        while len(list(tmp_path.glob("*.began"))) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(TrainingInterrupted, match=r"left .*model_0000009\.pth; run the same"):
        run_in_pool(train_until_asked, [tmp_path] * 4, 2)
    assert len(list(tmp_path.glob("*.left"))) == 2
