"""A network that is trained while frozen at random is warned of once, and others never."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from resnext_det import write_weights
from resnext_det.architecture import Architecture
from resnext_det.resnext import ResNeXt
from resnext_det.weights import load_weights

TINY = Architecture(26, 2, 4, stem_channels=8, res2_channels=16)
IMAGES = torch.zeros(2, 3, 64, 64)


def build(norm: Any = "FrozenBN", at: int = 0) -> ResNeXt:
    return ResNeXt(TINY, norm=norm, out_features=("res5",)).freeze(at)


def count_warnings(model: Any, caplog: pytest.LogCaptureFixture, passes: int = 2) -> int:
    caplog.clear()
    for _ in range(passes):
        model(IMAGES)
    return len([record for record in caplog.records if record.levelno == logging.WARNING])


@pytest.mark.parametrize(
    ("norm", "at", "told"),
    [
        ("FrozenBN", 0, "29 of 29 convolutions"),
        ("FrozenStatisticsBN", 0, "29 of 29 convolutions"),
        ("BN", 2, "8 of 29 convolutions"),  # what FREEZE_AT freezes: stem and res2
        ("GN", 1, "1 of 29 convolutions"),
    ],
)
def test_it_is_told_once_with_counts_and_a_remedy(
    norm: str, at: int, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = ResNeXt(Architecture(26, 8, 4), norm=norm, out_features=("res5",)).freeze(at)
    assert count_warnings(model.eval(), caplog) == 0
    with torch.no_grad():
        assert count_warnings(model.train(), caplog) == 0
    assert count_warnings(model, caplog) == 1
    message = caplog.records[0].getMessage()
    assert told in message and "MODEL.WEIGHTS" in message and "FREEZE_AT 0" in message
    assert caplog.records[0].name == "resnext_det.resnext"
    assert count_warnings(model.eval().train(), caplog) == 0


@pytest.mark.parametrize("norm", ["BN", "SyncBN", ""])
def test_what_is_trained_is_not_told(norm: str, caplog: pytest.LogCaptureFixture) -> None:
    assert count_warnings(build(norm), caplog) == 0


def move_norms(model: nn.Module, *, folded: bool = False) -> nn.Module:
    """Make norms as a trained file has them; folded: with means of 0 and variances of 1."""
    for name, value in model.state_dict().items():
        if "norm" in name and not (folded and "running" in name):
            value.uniform_(0.5, 1.5)
    return model


def load_random_state(model: nn.Module) -> None:
    model.load_state_dict(build().state_dict())  # of a run of the user's that had begun so


def load_into_parent(model: nn.Module) -> None:
    parent = nn.Sequential(model)
    parent.load_state_dict(nn.Sequential(build()).state_dict())


@pytest.mark.parametrize(
    "load",
    [load_random_state, load_into_parent, move_norms, lambda m: move_norms(m, folded=True)],
    ids=["load_state_dict", "of a parent", "values", "folded"],
)
def test_loaded_weights_are_not_told(load: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = build(at=2)
    load(model)
    assert count_warnings(model, caplog) == 0
    assert count_warnings(copy.deepcopy(model), caplog) == 0


def test_a_stem_of_a_users_is_taken_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    model: Any = build()
    model.stem = nn.Conv2d(3, 8, 4, stride=4)
    assert count_warnings(model, caplog) == 1
    assert "28 of 28 convolutions" in caplog.text


def test_a_file_of_weights_is_not_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_weights(move_norms(build()), tmp_path / "weights.pkl")
    model = build()
    load_weights(model, tmp_path / "weights.pkl")
    assert count_warnings(model, caplog) == 0


def test_weights_that_fit_nowhere_or_in_part_are_told(caplog: pytest.LogCaptureFixture) -> None:
    model = build()
    model.load_state_dict(
        {f"encoder.{k}": v for k, v in build().state_dict().items()}, strict=False
    )
    assert count_warnings(model, caplog) == 1
    model, given = build(), move_norms(build()).state_dict()
    model.load_state_dict({k: v for k, v in given.items() if "res5" not in k}, strict=False)
    assert count_warnings(model, caplog) == 1
    assert "7 of 29 convolutions" in caplog.text
    model = build()
    model.load_state_dict({k: v for k, v in given.items() if ".norm." not in k}, strict=False)
    assert count_warnings(model, caplog) == 1
    assert "29 of 29 convolutions" in caplog.text


def test_a_compiled_network_tells_it_without_a_break(caplog: pytest.LogCaptureFixture) -> None:
    """One graph, compiled once, which computes nothing of it."""
    graphs = []

    def record(graph: Any, inputs: Any) -> Any:
        graphs.append(graph.code)
        return graph.forward

    model = nn.Sequential(ResNeXt(TINY, out_features=("stem",)))
    compiled = torch.compile(model, fullgraph=True, backend=record)
    assert count_warnings(compiled, caplog, passes=3) == 1
    assert len(graphs) == 1 and "any(" not in graphs[0]


def test_what_is_written_of_a_network_holds_nothing_of_it(caplog: pytest.LogCaptureFixture) -> None:
    """Traces, scripts and exports in training; the network itself is then told of."""
    model = ResNeXt(TINY, out_features=("res2",))
    traced = torch.jit.trace(model, IMAGES, strict=False, check_trace=False)
    exported = torch.export.export(model, (IMAGES,)).module()
    scripted = torch.jit.script(model)
    with torch.device("meta"):
        build()(IMAGES.to("meta"))
    for written in (traced, exported, scripted):
        assert count_warnings(written, caplog) == 0
    assert count_warnings(model, caplog) == 1


def test_the_first_of_several_processes_tells_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1
    )
    try:
        wrapped = nn.parallel.DistributedDataParallel(build())
        assert count_warnings(wrapped, caplog) == 1
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
        assert count_warnings(build(), caplog) == 0
    finally:
        torch.distributed.destroy_process_group()
