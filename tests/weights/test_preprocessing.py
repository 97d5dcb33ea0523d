"""Store, compare and convert the preprocessing that weights need."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
import yaml
from fvcore.common.config import CfgNode
from torchvision.models.resnet import Bottleneck, ResNet

from resnext_det.config import get_cfg
from resnext_det.weights import (
    check_preprocessing,
    find_differences,
    list_overrides,
)
from resnext_det.weights.file import WeightFile
from resnext_det.weights.preprocessing import KNOWN, Preprocessing, find_batch_norm
from tests.weights.foreign_names import detectron2_state, random_network

RGB_MEAN, RGB_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def configuration(*changes: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(list(changes))
    return cfg


def file_with(preprocessing: Preprocessing | None, format: str = "detectron2") -> WeightFile:
    return WeightFile("weights.pkl", format, {}, preprocessing=preprocessing)


# --- data


@pytest.mark.parametrize("kind", KNOWN)
def test_known_ones_survive_json(kind: str) -> None:
    assert Preprocessing.from_dict(json.loads(json.dumps(KNOWN[kind].as_dict()))) == KNOWN[kind]


def test_whole_numbers_are_read_as_floats() -> None:
    values = {**KNOWN["msra"].as_dict(), "std": [1, 1, 1]}
    assert Preprocessing.from_dict(values).as_dict() == KNOWN["msra"].as_dict()
    assert Preprocessing.from_dict(values).std == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"channel_order": "GBR"}, "channel_order is 'GBR'; write 'RGB' or 'BGR'"),
        ({"channel_order": ["RGB"]}, "channel_order is ['RGB']"),
        ({"batch_norm": "frozen"}, "write 'statistics' or 'folded' or 'none'"),
        ({"stride_in_1x1": 1}, "stride_in_1x1 is 1; write True or False"),
        ({"mean": [1.0, 2.0]}, "mean is (1.0, 2.0); write three numbers"),
        ({"mean": "abc"}, "mean is 'abc'; write three numbers"),
        ({"mean": [1.0, 2.0, True]}, "write three numbers"),
        ({"std": [1.0, 2.0, float("nan")]}, "write three numbers"),
        ({"std": [1.0, 0.0, 1.0]}, "write numbers above 0"),
        ({"std": None}, "std is None"),
        ({"size": 224}, "and this has"),
    ],
)
def test_broken_ones_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        Preprocessing.from_dict({**KNOWN["torchvision"].as_dict(), **change})
    assert words in str(caught.value)


@pytest.mark.parametrize("values", [{}, {"mean": [1, 2, 3]}, [1], "RGB", None])
def test_what_is_no_preprocessing_is_refused(values: Any) -> None:
    with pytest.raises(
        ValueError, match="a preprocessing has batch_norm, channel_order, mean, std, stride_in_1x1"
    ):
        Preprocessing.from_dict(values)


# --- folded norms


def test_folded_norms_are_told_by_their_values() -> None:
    trained = detectron2_state(random_network(26))
    fresh = detectron2_state(ResNet(Bottleneck, [2, 2, 2, 2]))
    folded = dict(trained)
    for name, tensor in trained.items():
        if name.endswith(("running_mean", "running_var")):
            folded[name] = torch.full_like(tensor, 1.0 if name.endswith("var") else 0.0)
    assert [find_batch_norm(state) for state in (trained, fresh, folded)] == [
        "statistics",
        "statistics",
        "folded",
    ]
    folded["res2.0.conv1.norm.running_var"] = torch.full((128,), 1 - 1e-5)
    assert find_batch_norm(folded) == "folded"
    folded["res2.0.conv1.norm.running_var"] = torch.full((128,), 1.1)
    assert find_batch_norm(folded) == "statistics"
    without = {name: tensor for name, tensor in trained.items() if "running" not in name}
    assert find_batch_norm(without) == "none"  # as group norms


# --- against a configuration


def test_a_configuration_that_fits_passes(caplog: pytest.LogCaptureFixture) -> None:
    cfg = configuration("INPUT.FORMAT", "RGB", "MODEL.PIXEL_MEAN", [123.68, 116.28, 103.53])
    cfg.merge_from_list(
        ["MODEL.PIXEL_STD", [58.4, 57.12, 57.4], "MODEL.RESNETS.STRIDE_IN_1X1", False]
    )
    with caplog.at_level(logging.WARNING):
        check_preprocessing(cfg, file_with(KNOWN["torchvision"]))
        check_preprocessing(
            configuration(), file_with(KNOWN["msra"])
        )  # the defaults are made for it
    assert find_differences(KNOWN["torchvision"], cfg) == []
    assert caplog.text == ""


@pytest.mark.parametrize(
    "norm", ["FrozenBN", "FrozenStatisticsBN", "BN", "SyncBN", "naiveSyncBN_N", "GN", "LN"]
)
@pytest.mark.parametrize("batch_norm", ["statistics", "folded", "none"])
def test_folded_norms_go_with_frozen_ones_alone(batch_norm: str, norm: str) -> None:
    found = find_differences(
        replace(KNOWN["msra"], batch_norm=batch_norm), configuration("MODEL.RESNETS.NORM", norm)
    )
    fits = (
        norm.startswith("Frozen")
        or batch_norm == "none"
        or (batch_norm == "statistics" and norm not in ("GN", "LN"))
    )
    assert found == ([] if fits else [("MODEL.RESNETS.NORM", norm, "FrozenBN")])


def test_a_contradiction_prints_the_lines_to_write() -> None:
    cfg = configuration("MODEL.RESNETS.NORM", "SyncBN")
    with pytest.raises(ValueError) as caught:
        check_preprocessing(cfg, file_with(replace(KNOWN["torchvision"], batch_norm="folded")))
    text = str(caught.value)
    assert text.startswith(
        "MODEL.WEIGHTS = weights.pkl needs another configuration (INPUT.FORMAT is BGR; "
    )
    assert "add --fit-config" in text
    assert "convert_weights" not in text  # the stride cannot be convert_preprocessing
    lines = text.partition("Write\n")[2].partition("\nor add")[0]
    assert yaml.safe_load(lines) == {
        "INPUT": {"FORMAT": "RGB"},
        "MODEL": {
            "PIXEL_MEAN": RGB_MEAN,
            "PIXEL_STD": RGB_STD,
            "RESNETS": {"STRIDE_IN_1X1": False, "NORM": "FrozenBN"},
        },
    }


def test_what_could_be_converted_instead_is_said() -> None:
    cfg = configuration("MODEL.RESNETS.STRIDE_IN_1X1", False)  # BGR, std 1
    with pytest.raises(ValueError, match=r"resnext-det convert --channel-order and --pixel-std"):
        check_preprocessing(cfg, file_with(KNOWN["torchvision"]))
    with pytest.raises(ValueError) as caught:  # another mean
        check_preprocessing(cfg, file_with(replace(KNOWN["detectron1"], batch_norm="statistics")))
    assert "convert_weights" not in str(caught.value)
    cfg = configuration(
        "MODEL.RESNETS.STRIDE_IN_1X1", False, "MODEL.PIXEL_MEAN", RGB_MEAN
    )  # under BGR
    with pytest.raises(ValueError) as caught:
        check_preprocessing(cfg, file_with(KNOWN["torchvision"]))
    assert "convert_weights" not in str(caught.value)


@pytest.mark.parametrize("kind", KNOWN)
@pytest.mark.parametrize(
    "changes",
    [[], ["INPUT.FORMAT", "RGB", "MODEL.PIXEL_MEAN", RGB_MEAN], ["MODEL.RESNETS.NORM", "BN"]],
)
def test_a_fitted_configuration_fits(kind: str, changes: list[Any]) -> None:
    cfg = configuration(*changes)
    overrides = list_overrides(cfg, KNOWN[kind])
    assert all(isinstance(word, str) for word in overrides)
    cfg.merge_from_list(overrides)
    check_preprocessing(cfg, file_with(KNOWN[kind]))
    assert list_overrides(cfg, KNOWN[kind]) == []
    assert (cfg.INPUT.FORMAT, tuple(cfg.MODEL.PIXEL_MEAN)) == (
        KNOWN[kind].channel_order,
        KNOWN[kind].mean,
    )
    assert type(cfg.MODEL.RESNETS.STRIDE_IN_1X1) is bool


def test_images_of_one_channel_have_no_order() -> None:
    cfg = configuration("INPUT.FORMAT", "L", "MODEL.PIXEL_MEAN", [115.0], "MODEL.PIXEL_STD", [57.0])
    assert find_differences(KNOWN["torchvision"], cfg) == [
        ("MODEL.RESNETS.STRIDE_IN_1X1", True, False)
    ]


@pytest.mark.parametrize(("format", "warned"), [("detectron2", True), ("detector", False)])
def test_what_is_not_known_is_said(
    format: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        check_preprocessing(configuration(), file_with(None, format))
    assert [record.levelname for record in caplog.records] == ["WARNING" if warned else "INFO"]
    assert "does not say which preprocessing its weights were trained with" in caplog.text
    assert "INPUT.FORMAT BGR" in caplog.text


@pytest.mark.parametrize("name", ["channel_order", "mean", "stride_in_1x1", "batch_norm"])
def test_lists_in_each_other_take_no_time(name: str) -> None:
    """To write such a list out would take 2**60 steps."""
    endless: list[Any] = []
    for _ in range(60):
        endless = [endless, endless]
    with pytest.raises(ValueError, match=f"{name} is .*; write"):
        Preprocessing.from_dict({**KNOWN["torchvision"].as_dict(), name: endless})
