"""Test what is made of processors, control groups, step times and loads; nothing is timed."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest
import torch

from resnext_det.training import threads
from resnext_det.training.loop import Step
from resnext_det.training.processes import Processes, launch
from resnext_det.training.threads import (
    CrowdingWatch,
    find_crowding,
    fit_threads,
    parse_limit,
    read_cgroup_limit,
    watch_crowding,
)

QUIET = [0.3] * 30
SLOW = [*QUIET, *[4.0] * 5]


@pytest.mark.parametrize(
    ("seconds", "load", "processors", "machine", "told"),
    [
        (
            SLOW,
            4.0,
            2,
            2,
            "the last steps took 4 s each, 0.3 s are usual, and the load is 4.0 on 2",
        ),
        (SLOW, 4.0, 2, 64, "on 2 processors"),  # others hold the same two of many
        (SLOW, 2.2, 2, 2, None),  # slow, and no one else is there: larger images, a slow disk
        (QUIET, 4.0, 2, 2, None),  # others, who do no harm
        (QUIET, 5.0, 2, 2, "a step takes 0.3 s, and the load is 5.0 on 2 processors, of which"),
        (QUIET, 40.0, 2, 64, None),  # a container on a machine with much to do, and much left
        (SLOW[-24:], 9.0, 2, 2, None),  # too early to tell
        ([*QUIET, *[0.85] * 5], 4.0, 2, 2, None),
        ([*QUIET, *[4.0] * 2, *[0.3] * 3], 4.0, 2, 2, None),  # two slow steps are none
    ],
)
def test_crowding_is_slow_steps_and_a_load(
    seconds: list[float], load: float, processors: float, machine: int, told: str | None
) -> None:
    found = find_crowding(seconds, load=load, processors=processors, machine=machine, own=3)
    assert (found is None) == (told is None) and (told or "") in (found or "")


def make_step(seconds: float) -> Step:
    return Step(0, 99, {}, 0.1, 0.25, seconds + 0.25, lambda: None)  # 0.25 s wait for data


def test_it_is_told_once_and_what_to_set(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "count_processors", lambda: 4.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    watch = CrowdingWatch(2, lambda: (6.5, 0.0, 0.0))
    for seconds in SLOW * 3:
        watch(make_step(seconds))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for words in ("OMP_WAIT_POLICY=PASSIVE", "OMP_NUM_THREADS=2", "DATALOADER.NUM_WORKERS", "4 s"):
        assert words in record.getMessage()
    assert watch_crowding(torch.device("cuda"), 2) == []


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("200000 100000\n", 2.0),
        ("150000 100000", 1.5),
        *((text, math.inf) for text in ("max 100000", "-1 100000", "-1\n 100000\n", "", "junk")),
    ],
)
def test_limits_of_time(text: str, limit: float) -> None:
    assert parse_limit(text) == limit


@pytest.mark.parametrize(
    ("group", "files", "limit"),
    [
        ("0::/", {"cpu.max": "200000 100000"}, 2.0),  # in a container
        ("0::/a/b", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3.0),
        ("0::/a", {}, math.inf),
        (
            "4:memory:/x\n3:cpu,cpuacct:/d/x",
            {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            0.5,
        ),
    ],
)
def test_the_limit_of_a_control_group(
    tmp_path: Path, group: str, files: dict[str, str], limit: float
) -> None:
    assert read_cgroup_limit(tmp_path) == math.inf
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(group + "\n")
    for name, text in files.items():
        file = tmp_path / "sys" / "fs" / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert read_cgroup_limit(tmp_path) == limit


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("processors", "processes", "left"),
    [(2.5, 1, 2), (64.0, 8, 8), (64.0, 1, 16), (2.0, 4, 1)],
)
def test_threads_are_a_share_of_the_processors(
    monkeypatch: pytest.MonkeyPatch, processors: float, processes: int, left: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "count_processors", lambda: processors)
    torch.set_num_threads(16)
    fit_threads(processes)
    assert torch.get_num_threads() == left
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    torch.set_num_threads(16)
    fit_threads(processes)
    assert torch.get_num_threads() == 16


@pytest.mark.usefixtures("quick_start")
def test_processes_share_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    whole = math.floor(threads.count_processors())
    assert launch(torch.get_num_threads, Processes(num_gpus=2), device="cpu") <= max(1, whole // 2)
