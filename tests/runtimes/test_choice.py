"""The backend is chosen by its time, which is measured once for what it depends on."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from resnext_det.runtimes import choice
from resnext_det.runtimes.parts import Part, RegionNetwork

CPU = torch.device("cpu")


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Give the backends times of our own; list those that are timed."""
    monkeypatch.setenv("RESNEXT_DET_CACHE", str(tmp_path))
    names: list[str] = []
    times = {"folded": 30.0, "compiled": 20.0, "openvino": 10.0}

    def time_backend(name: str, *arguments: Any) -> float:
        names.append(name)
        return times[name]

    monkeypatch.setattr(choice, "_time_backend", time_backend)
    monkeypatch.setattr(choice, "list_backends", lambda *arguments: tuple(times))
    return names


def make_part(channels: int = 3) -> Part:
    network, example = RegionNetwork(nn.Conv2d(channels, 4, 1)), torch.ones(1, channels, 8, 8)
    return Part("regions", network, example, network(example), {0: 1})


def choose(channels: int = 3, dtype: torch.dtype = torch.float32) -> str:
    return choice.choose_backend([make_part(channels)], dtype, CPU)


def test_the_times_are_read_back(timed: list[str]) -> None:
    assert choose() == choose() == "openvino"
    assert timed == ["folded", "compiled", "openvino"]


def test_they_are_taken_anew_where_something_changes(
    timed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    choose()
    choose(channels=5)
    choose(dtype=torch.bfloat16)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        choose()
    finally:
        torch.set_num_threads(threads)
    version = importlib.metadata.version
    newer = {"openvino": "9999.0"}
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: newer.get(name) or version(name)
    )
    choose()
    assert len(timed) == 5 * 3
    choose()
    assert len(timed) == 5 * 3


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"key": {}, "milliseconds": {"folded": 1}}'])
def test_a_damaged_file_is_written_anew(timed: list[str], tmp_path: Path, content: str) -> None:
    choose()
    (path,) = (tmp_path / "backends").glob("*.json")
    path.write_text(content)
    assert choose() == "openvino"
    assert len(timed) == 2 * 3
    assert choose() == "openvino"
    assert len(timed) == 2 * 3


def test_a_real_time_is_measured() -> None:
    assert choice._time_backend("folded", [make_part()], torch.float32, CPU) > 0
