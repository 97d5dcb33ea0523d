"""The table of GPUs, on the CPU with tiny sizes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from resnext_det.benchmark import gpu_table
from resnext_det.benchmark.cases import Candidate, Key
from resnext_det.benchmark.gpu_table import GpuTable, format_gpu_table
from resnext_det.benchmark.trunks import TrunkCase

NETWORKS = ("R-26", "X-26-2x4d")


class Clock:
    """Tell seconds of which each question takes one."""

    now = 0

    def __call__(self) -> float:
        self.now += 1
        return float(self.now)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> GpuTable:
    monkeypatch.setattr(gpu_table, "PRODUCT_SIZES", {"cpu": 16})
    monkeypatch.setattr(gpu_table, "list_peers", lambda mode, device: ("torchvision", "timm"))
    return GpuTable(
        torch.device("cpu"),
        NETWORKS,
        precisions=("bfloat16", "float32"),
        runs=(("training", 1),),
        height=32,
        width=32,
        repeats=2,
    )


def test_every_run_is_in_the_table(table: GpuTable) -> None:
    lines = list(table.run())
    assert [line.rpartition(":")[0] for line in lines] == [
        f"R-26, X-26-2x4d: training, 1 images, {precision}" for precision in ("bfloat16", "float32")
    ]
    text = format_gpu_table(table.comparisons)
    heads = [line for line in text.splitlines() if line.startswith("| network")]
    assert len(heads) == 2
    assert [cell.strip() for cell in heads[0].strip("|").split("|")] == [
        *("network", "implementation", "train 1: ms", "train 1: X/R")
    ]
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith(("| R", "| X"))]
    names = [[cell.strip() for cell in row] for row in rows]
    assert names == 2 * [[net, name] for net in NETWORKS for name in ("torchvision", "resnext_det")]


def test_the_table_is_there_when_the_time_is_over(table: GpuTable) -> None:
    table = dataclasses.replace(table, minutes=0.15, clock=Clock(), comparisons=[])
    *_, last = table.run()
    assert last.startswith("Not timed, as 0.15 minutes were over: ") and "float32" in last
    assert "bfloat16" in format_gpu_table(table.comparisons)


def test_what_does_not_fit_is_dropped_with_a_word(
    table: GpuTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = TrunkCase.build

    def build_until_full(case: TrunkCase, key: Key) -> Candidate:
        if key.network == "X-26-2x4d" and key.name == "torchvision" and case.height == 32:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return build(case, key)

    monkeypatch.setattr(TrunkCase, "build", build_until_full)
    table.precisions, table.runs = ("float32",), (("inference", 1),)
    lines = list(table.run())
    assert "  X-26-2x4d, torchvision, float32: it does not fit in the memory" in lines
    (compared,) = table.comparisons
    assert [(t.network, t.name) for t in compared.timings] == [
        *(("R-26", "torchvision"), ("R-26", "resnext_det"), ("X-26-2x4d", "resnext_det"))
    ]
