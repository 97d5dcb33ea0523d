"""Test which trainings are warned of, and that a sound one is not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from resnext_det.training import watches
from resnext_det.training.watches import DataWatch, OverfittingWatch, RisingLossWatch, find_rise


def test_waiting_for_data_is_told_once_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watches, "count_processors", lambda: 8.0)
    watch = DataWatch(2)
    for share in (0.5, 0.5, 0.1, 0.4, 0.4, math.nan, 0.4, 0.4):
        watch(0, {"data_share": share, "time": 2.0})
        watch(0, {"bbox/AP": 1.0})  # a line without steps
    assert not caplog.records
    for _ in range(9):
        watch(0, {"data_share": 0.4, "time": 2.0})
    (record,) = caplog.records
    told = record.getMessage()
    assert "40% of the time of a step, 0.8 of 2 s" in told and "NUM_WORKERS 4 in place of 2" in told


@pytest.mark.parametrize(
    ("workers", "processes", "words"),
    [(0, 1, "write 2"), (8, 1, "store the images"), (3, 2, "NUM_WORKERS 4"), (4, 2, "store the")],
)
def test_what_is_advised_fits_the_machine(
    workers: int,
    processes: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(watches, "count_processors", lambda: 8.0)
    watch = DataWatch(workers, processes)
    for _ in range(3):
        watch(0, {"data_share": 0.9, "time": 2.0})
    assert words in caplog.text


def test_a_rising_loss_is_told_once_and_a_sound_one_not(caplog: pytest.LogCaptureFixture) -> None:
    random = np.random.RandomState(0)
    falling = 0.6 + 4 * np.exp(-np.arange(60) / 5)
    bump = 0.4 * np.exp(-((np.arange(60) - 25) ** 2) / 50)  # as the first objects are found
    sound = (falling + bump) * random.uniform(0.8, 1.25, 60)
    sound[40] = 9.0  # one bad line
    diverging = np.concatenate([sound[:30], np.linspace(1, 8, 30)])
    for values, told in ((sound, 0), (diverging, 1)):
        caplog.clear()
        watch = RisingLossWatch()
        for line, value in enumerate(values):
            watch(20 * line + 19, {"total_loss": value, "lr": 0.5})
            watch(20 * line + 19, {"bbox/AP": 2.0})
        assert caplog.text.count("The training loss rises") == told
    assert "lower SOLVER.BASE_LR" in caplog.text and "rate, 0.5," in caplog.text


def test_a_resumed_run_warns_when_an_unbroken_one_does() -> None:
    values = [1.0] * 12 + [3.0] * 12
    first = next(n for n in range(len(values)) if find_rise(values[:n]))
    resumed = RisingLossWatch(values[: first - 1])
    resumed(0, {"total_loss": math.nan})
    assert not resumed._told
    resumed(0, {"total_loss": 3.0})
    assert resumed._told and find_rise(values[:first]) == (1.0, 3.0)


def test_a_validation_loss_that_rises_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    name = f"cells_val/{OverfittingWatch.NAME}"  # of one of several sets
    sound, overfitted = [3.0, 1.0, 1.02, 1.05, 1.01, 0.9, 0.95], [3.0, 1.0, 1.1, 1.2, 1.3, 1.4]
    for values, told in ((sound, 0), (overfitted, 1)):
        caplog.clear()
        watch = OverfittingWatch({name: {100: values[0], 200: values[1]}})
        for number, value in enumerate(values[2:], 3):
            watch(100 * number, {OverfittingWatch.NAME: 1.0, name: value})
            watch(100 * number, {name: math.nan})
        risen = "The loss on cells_val has risen since iteration 200, from 1 to 1.3"
        assert caplog.text.count(risen) == told


def test_no_overfitting_is_told_while_the_first_objects_are_found(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Losses of a sound training of the quickstart, measured every 20 iterations."""
    totals = [2.62, 2.23, 2.76, 2.52, 2.29, 2.22, 2.27, 2.15]
    values = [2.22, 2.63, 2.62, 2.47, 2.42, 2.33, 2.24, 2.14]
    for warm_up, lower in ((100, 0.0), (0, 0.6)):  # without a warm-up by the training loss
        watch = OverfittingWatch(warm_up=warm_up)
        for line, (total, value) in enumerate(zip(totals, values)):
            watch(20 * line + 19, {"total_loss": total + lower * (line > 0), watch.NAME: value})
    assert not caplog.records
    earlier = {watch.NAME: {119: 1.0, 139: 1.2, 159: 1.2}, "total_loss": {99: 2.0, 159: 1.0}}
    OverfittingWatch(earlier, warm_up=100)(179, {watch.NAME: 1.2})
    assert "since iteration 119" in caplog.text


def test_earlier_training_losses_are_known(tmp_path: Path) -> None:
    lines = [{"iteration": n, "total_loss": 1.0, "validation/total_loss": 2.0} for n in (9, 19)]
    (tmp_path / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    watch = watches.watch_training(tmp_path, 1, 15, warm_up=5)[-1]
    assert isinstance(watch, OverfittingWatch)
    assert (watch._totals, watch._warm_up) == ({9: 1.0}, 5)
    assert watch._values == {"validation/total_loss": {9: 2.0}}
