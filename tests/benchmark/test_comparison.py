"""Check that only what agrees is timed, and the text, JSON and bars that tell of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from resnext_det.benchmark import comparison as module
from resnext_det.benchmark.cases import hold_precision, measure_difference
from resnext_det.benchmark.chart import draw_chart
from resnext_det.benchmark.comparison import run_case
from resnext_det.benchmark.others import OthersWatch
from resnext_det.benchmark.presentation import (
    compute_numbers,
    format_comparison,
    format_report,
    format_timings,
)
from resnext_det.benchmark.timing import Timing
from resnext_det.training.machine import Machine, describe_machine
from tests.benchmark.helpers import FakeCase, FakeClock

MACHINE = Machine("a processor", 2.0, 1, "AVX2", {"Python": "3.11", "torch": "2.6"})
SECONDS = {
    ("R-50", "theirs", "float32"): 4.0,
    ("R-50", "resnext_det", "float32"): 2.0,
    ("R-50", "resnext_det", "bfloat16"): 1.0,
    ("X-50-32x4d", "theirs", "float32"): 8.0,
    ("X-50-32x4d", "resnext_det", "float32"): 2.5,
    ("X-50-32x4d", "wrong", "float32"): 0.1,
    ("X-50-32x4d", "absent", "float32"): 0.1,
}
OUTPUTS = {
    "theirs": np.array([1.0, -2.0]),
    "resnext_det": torch.tensor([1.0, -2.001]),
    "wrong": np.array([1.0, -1.0]),
    "absent": RuntimeError("no such instruction\nand more"),
}


@pytest.fixture(scope="module")
def compared() -> module.Comparison:
    clock = FakeClock()
    case = FakeCase(clock, SECONDS, OUTPUTS, multiply_adds=1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PRODUCT_SIZES", {"cpu": 10})

        def make_product(size: int, dtype: str, device: torch.device) -> object:
            return clock.make_step({"float32": 0.5, "bfloat16": 0.1}[dtype])

        patch.setattr(module, "make_product", make_product)
        return run_case(case, repeats=3, clock=clock)


def test_only_what_agrees_is_timed(compared: module.Comparison) -> None:
    assert [(t.network, t.name, t.dtype) for t in compared.timings] == list(SECONDS)[:-2]
    for timing, seconds in zip(compared.timings, SECONDS.values()):
        assert timing.seconds == pytest.approx((seconds,) * 3)
    assert compared.timings[1].difference == pytest.approx(0.0005, rel=1e-3)
    assert compared.left_out == {
        "X-50-32x4d, wrong, float32": "not timed, as it computes something else: it differs from "
        "theirs by 0.5, and 0.001 is allowed",
        "X-50-32x4d, absent, float32": "it does not run: no such instruction",
    }


def test_a_reference_that_does_not_run_ends_the_comparison() -> None:
    case = FakeCase(FakeClock(), SECONDS, {"theirs": RuntimeError("broken")})
    with pytest.raises(ValueError, match="R-50, theirs, float32 does not run: broken"):
        run_case(case, repeats=1)


def test_numbers_are_worked_out_turn_by_turn(compared: module.Comparison) -> None:
    """10^3 multiply-adds of the product take 0.5 s in float32, and those of a step 2.5 s."""
    numbers = {(t.network, t.name, t.dtype): compute_numbers(compared, t) for t in compared.timings}
    assert numbers["X-50-32x4d", "resnext_det", "float32"] == {
        "speed_up": pytest.approx(8 / 2.5),
        "x_over_r": pytest.approx(2.5 / 2),
        "product": pytest.approx(0.5 / 2.5),
    }
    lower = numbers["R-50", "resnext_det", "bfloat16"]
    assert (lower["speed_up"], lower["product"]) == (pytest.approx(4.0), pytest.approx(0.1))
    assert lower["x_over_r"] is None


def test_the_tables(compared: module.Comparison) -> None:
    text = format_comparison(compared)
    assert text.count("a fake") == 2  # a table for each network
    row = next(line for line in text.splitlines() if "resnext_det" in line and "2500" in line)
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        *("resnext_det", "float32", "2500", "2500 to 2500", "3.20", "1.25", "20 %", "5e-04")
    ]
    assert "R-50: a fake" in text and "wrong, float32: not timed" in text


def test_timings_alone() -> None:
    text = format_timings([Timing("a", (1.0, 2.0, 1.0)), Timing("b", (0.5, 2.0, 1.0), 3 * 2**20)])
    assert [cell.strip() for cell in text.splitlines()[-1].strip("|").split("|")] == [
        *("b", "float32", "1000", "500 to 2000", "1.00", "3 MiB")
    ]


def test_json_has_every_turn(compared: module.Comparison) -> None:
    content = json.loads(format_report(MACHINE, "quiet", [compared]))
    assert content["machine"]["versions"] == {"Python": "3.11", "torch": "2.6"}
    (table,) = content["comparisons"]
    assert table["timings"][1]["seconds"] == pytest.approx([2.0, 2.0, 2.0])
    assert table["timings"][1]["speed_up"] == pytest.approx(2.0)
    assert table["matrix_products"]["float32"]["gflops"] == pytest.approx(2 * 1000 / 0.5 / 1e9)
    assert set(table["left_out"]) == set(compared.left_out)


def test_bars_are_sorted_and_long_as_the_medians(
    compared: module.Comparison, tmp_path: Path, figures: list[Figure]
) -> None:
    draw_chart(tmp_path / "bars.png", MACHINE, [compared])
    assert Image.open(tmp_path / "bars.png").size[0] > 1000
    resnet, resnext = figures[0].axes
    assert [bar.get_width() for bar in resnet.patches] == pytest.approx([1000, 2000, 4000])
    labels = [label.get_text() for label in resnext.get_yticklabels()]
    assert labels == ["resnext_det", "theirs"]
    assert resnext.texts[0].get_text() == "2500 ms   3.20x"
    with pytest.raises(ValueError, match="nothing was timed"):
        draw_chart(tmp_path / "none.png", MACHINE, [])


def test_a_difference_is_a_part_of_the_largest_value() -> None:
    expected = {"a": np.array([1.0, -4.0]), "b": np.zeros(0)}
    assert measure_difference({"a": np.array([1.0, -3.0]), "b": []}, expected) == 0.25
    for wrong in ([1.0], [1.0, np.nan], [1.0, np.inf]):
        assert measure_difference({"a": np.array(wrong), "b": []}, expected) == float("inf")
    assert measure_difference({"a": expected["a"]}, expected) == float("inf")


def test_tf32_is_on_for_itself_alone() -> None:
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    for dtype in ("float32", "tf32", "bfloat16"):
        found = hold_precision(dtype, lambda: [flag.allow_tf32 for flag in flags])()
        assert found == [dtype == "tf32"] * 2
    assert [flag.allow_tf32 for flag in flags] == before


def test_others_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 7 seconds that processors were busy, this process had 1; 4 have passed."""
    from resnext_det.benchmark import others

    now, own, stat = [100.0], [10.0], tmp_path / "stat"
    ticks = others.os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(others.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(others, "_read_own", lambda: own[0])

    def write(busy: int) -> None:
        stat.write_text(f"cpu  {busy * ticks} 0 0 999 999 0 0 0 0 0\ncpu0 1 2\n")

    write(50)
    watch = OthersWatch(stat)
    now[0], own[0] = 104.0, 11.0
    write(57)
    assert watch.measure() == pytest.approx(1.5)
    assert "1.50 of" in watch.describe() and "no times for the record" in watch.describe()
    write(51)
    assert "the machine was quiet" in watch.describe()
    assert OthersWatch(tmp_path / "none").measure() is None


def test_the_machine_is_described() -> None:
    found = describe_machine(torch.device("cpu"))
    assert found.versions["torch"] == torch.__version__.partition("+")[0] or (
        found.versions["torch"] == torch.__version__
    )
    assert found.cpu and f"{torch.get_num_threads()} thread" in found.describe()
