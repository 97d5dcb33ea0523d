"""Loading, evaluation and start-up beside other libraries, with tiny sizes."""

from __future__ import annotations

import pytest
import torch

from resnext_det.benchmark import EvaluationCase, LoadingCase, StartupCase, run_case, time_loading
from resnext_det.benchmark.cases import Case


def test_loading_is_timed_on_one_thread() -> None:
    threads = torch.get_num_threads()
    timings = time_loading(height=40, width=60, images=2, repeats=3)
    assert [timing.name for timing in timings] == ["torchvision", "resnext_det"]
    assert all(len(timing.seconds) == 3 and min(timing.seconds) > 0 for timing in timings)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    "case",
    [
        LoadingCase("detector", height=40, width=60, images=1),
        EvaluationCase(images=6, categories=2),
        StartupCase("help"),
        pytest.param(StartupCase("build", "X-50-2x4d"), marks=pytest.mark.slow),
        StartupCase("weights", "X-26-2x4d"),
    ],
    ids=lambda case: case.title.partition(":")[0],
)
def test_all_agree(case: Case) -> None:
    compared = run_case(case, repeats=1)
    assert compared.left_out == {}
    assert [timing.name for timing in compared.timings] == [key.name for key in case.list_keys()]
