"""The backend is chosen by its time, which is measured once for what it depends on."""

from __future__ import annotations

import importlib.metadata
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from resnext_det import optimize
from resnext_det.runtimes import choice
from resnext_det.runtimes.backends import list_backends
from resnext_det.runtimes.parts import Part, RegionNetwork

CPU = torch.device("cpu")


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Give the backends times of our own; list those that are timed."""
    monkeypatch.setenv("RESNEXT_DET_CACHE", str(tmp_path))
    names: list[str] = []
    times = {"folded": 30.0, "onnxruntime": 20.0, "openvino": 10.0}

    def prepare_turn(name: str, *arguments: Any) -> Callable[[], float]:
        names.append(name)
        return lambda: times[name]

    monkeypatch.setattr(choice, "_prepare_turn", prepare_turn)
    monkeypatch.setattr(choice, "list_backends", lambda *arguments: ("compiled", *times))
    return names


def make_part(channels: int = 3) -> Part:
    network, example = RegionNetwork(nn.Conv2d(channels, 4, 1)), torch.ones(1, channels, 8, 8)
    return Part("regions", network, example, network(example), {0: 1})


def choose(channels: int = 3, dtype: torch.dtype = torch.float32) -> str:
    return choice.choose_backend([make_part(channels)], dtype, CPU)


def test_the_times_are_read_back(timed: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """torch.compile, which takes a minute, is not among those tried."""
    with caplog.at_level(logging.INFO):
        choose()
    first, second = caplog.messages
    assert first.startswith("Backend auto times folded, onnxruntime, openvino on this network, ")
    assert second.startswith("Backend auto takes openvino, 2.00 times as fast as onnxruntime: fold")
    assert choose() == choose() == "openvino"
    assert timed == ["folded", "onnxruntime", "openvino"]


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


@pytest.mark.parametrize(
    "content", ["", "{}", "[1]", "[" * 100_000, '{"key": {}, "milliseconds": {"folded": 1}}']
)
def test_a_damaged_file_is_written_anew(timed: list[str], tmp_path: Path, content: str) -> None:
    choose()
    (path,) = (tmp_path / "backends").glob("*.json")
    path.write_text(content)
    assert choose() == "openvino"
    assert len(timed) == 2 * 3
    assert choose() == "openvino"
    assert len(timed) == 2 * 3


def test_real_backends_are_timed_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RESNEXT_DET_CACHE", str(tmp_path))
    network, images = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), torch.ones(1, 3, 8, 8)
    expected = network(images)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert torch.allclose(optimize(network, example=images)(images), expected, atol=1e-5)
    names = [name for name in list_backends() if name != "compiled"]
    if len(names) > 1:
        (path,) = (tmp_path / "backends").glob("*.json")
        times = json.loads(path.read_text())["milliseconds"]
        assert list(times) == names and min(times.values()) > 0
        assert caplog.text.count("Backend auto times ") == 1
    assert caplog.text.count("Backend auto takes ") == 2


def test_a_moment_of_other_work_does_not_choose(
    timed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of five turns of the fastest are disturbed, and one of another is lucky."""
    turns = {
        "folded": [30.0, 30, 30, 30, 30],
        "onnxruntime": [20.0, 9, 20, 20, 20],
        "openvino": [90.0, 90, 10, 10, 10],
    }

    def prepare_turn(name: str, *arguments: Any) -> Callable[[], float]:
        return iter([500.0, *turns[name]]).__next__  # the first run does not count

    monkeypatch.setattr(choice, "_prepare_turn", prepare_turn)
    assert choose() == "openvino"


def test_a_backend_that_fails_is_left_out(
    timed: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    work = choice._prepare_turn

    def fail(name: str, *arguments: Any) -> Callable[[], float]:
        turn = work(name, *arguments)
        if turn() < 30:
            raise RuntimeError("Unsupported: aten::nothing\nand much more")
        return turn

    monkeypatch.setattr(choice, "_prepare_turn", fail)
    with caplog.at_level(logging.INFO):
        assert choose() == choose() == "folded"
    told = (
        "takes folded, the only one that can compute this model: folded 30 ms, onnxruntime cannot"
    )
    assert caplog.text.count(told) == 2
    assert len(timed) == len(set(timed))
    assert "The backend openvino is left out: it cannot compute this model" in caplog.text
    assert "(RuntimeError: Unsupported: aten::nothing)" in caplog.text
