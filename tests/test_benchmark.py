"""The benchmark compares networks that compute the same features, and reports what it timed."""

from __future__ import annotations

import importlib.util
import runpy
from pathlib import Path

import pytest
import torch

from resnext_det.architecture import Architecture
from resnext_det.benchmark import (
    FEATURES,
    MODES,
    Timing,
    build_trunks,
    format_timings,
    time_detectors,
    time_loading,
    time_trunks,
)
from resnext_det.weights.formats import convert_to_native

DETECTRON2 = importlib.util.find_spec("detectron2") is not None
TOOL = Path(__file__).parents[1] / "tools" / "benchmark.py"


@pytest.mark.parametrize("name", ["R-26", "X-26-8x4d"])
def test_the_networks_that_are_timed_are_equal(name: str) -> None:
    torch.manual_seed(0)
    ours, *others = build_trunks(Architecture.parse(name), freeze_at=2).values()
    assert len(others) == 1 + DETECTRON2
    images = torch.randn(1, 3, 64, 96)
    for theirs in others:
        state = {
            key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")
        }
        ours.load_state_dict(convert_to_native(state)[1])
        with torch.no_grad():
            found, expected = ours(images), theirs(images)
        assert list(found) == list(expected) == list(FEATURES)
        for feature in FEATURES:
            error = (found[feature] - expected[feature]).abs().max() / expected[feature].abs().max()
            assert error < 1e-5
    for trunk in (ours, *others):
        frozen = {key.split(".")[0] for key, p in trunk.named_parameters() if not p.requires_grad}
        assert frozen in ({"stem", "res2"}, {"conv1", "layer1"})


@pytest.mark.parametrize("mode", MODES)
def test_every_turn_is_reported(mode: str) -> None:
    sizes = {"batch": 1, "height": 32, "width": 32, "repeats": 2}
    timings = time_trunks(Architecture(26, 2, 4), mode=mode, device=torch.device("cpu"), **sizes)
    assert [timing.name for timing in timings] == ["resnext_det", "torchvision", "detectron2"][
        : 2 + DETECTRON2
    ]
    assert all(len(timing.seconds) == 2 and min(timing.seconds) > 0 for timing in timings)


@pytest.mark.parametrize(("kind", "mode"), [("FPN", "training"), ("C4", "inference")])
def test_whole_detectors_are_timed(kind: str, mode: str) -> None:
    sizes = {"batch": 1, "height": 32, "width": 32, "repeats": 1}
    timings = time_detectors(
        Architecture(50, 2, 4), kind, mode=mode, device=torch.device("cpu"), **sizes
    )
    names = ["resnext_det", "detectron2", "portable"] if DETECTRON2 else ["portable"]
    assert [timing.name for timing in timings] == names
    assert all(len(timing.seconds) == 1 and min(timing.seconds) > 0 for timing in timings)


def test_loading_is_timed_on_one_thread() -> None:
    threads = torch.get_num_threads()
    timings = time_loading(height=40, width=60, images=2, repeats=3)
    assert [timing.name for timing in timings] == ["resnext_det", "torchvision"]
    assert all(len(timing.seconds) == 3 and min(timing.seconds) > 0 for timing in timings)
    assert torch.get_num_threads() == threads


def test_what_has_no_effect_on_loading_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(TOOL))["main"](
            ["--mode", "loading", "--batch", "4", "--networks", "R-101"]
        )
    assert stop.value.code == 2
    assert "--networks, --batch: of no effect with --mode loading" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--batch", "--height", "--width", "--repeats"])
def test_numbers_below_one_are_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(TOOL))["main"]([flag, "0"])
    assert stop.value.code == 2
    assert f"{flag} 0: write 1 or more" in capsys.readouterr().err


def test_ratios_are_medians_of_turns() -> None:
    text = format_timings([Timing("a", (1.0, 2.0, 1.0)), Timing("b", (2.0, 4.0, 9.0), 3 * 2**20)])
    assert [cell.strip() for cell in text.splitlines()[-1].strip("|").split("|")] == [
        *("b", "2000", "4000", "9000", "2.00", "3 MiB")
    ]


def test_the_tool(capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(TOOL))["main"]
    assert (
        main(["--networks", "X-26-2x4d", "--height", "32", "--width", "32", "--repeats", "1"]) == 0
    )
    assert "X-26-2x4d, inference, 1x3x32x32, float32, cpu" in capsys.readouterr().out
    assert main(["--networks", "X-51"]) == 1
    assert "error:" in capsys.readouterr().err
