"""Which shipped configuration is chosen for which weights."""

from __future__ import annotations

from typing import Any

import pytest

from resnext_det.architecture import Architecture
from resnext_det.config import config_file, load_config
from resnext_det.weights.doctor.shipped_configs import Fit, choose_config
from resnext_det.weights.file import WeightFile
from resnext_det.weights.preprocessing import KNOWN, find_differences


def choose(name: str, publisher: str = "torchvision", **options: Any) -> Fit:
    return choose_config(describe_file(Architecture.parse(name), publisher), **options)


def describe_file(architecture: Architecture, publisher: str) -> WeightFile:
    """A file of which no weight is looked at."""
    return WeightFile(
        "w.pth", "native", {}, architecture=architecture, preprocessing=KNOWN[publisher]
    )


@pytest.mark.parametrize("name", ["R-50", "X-50-32x4d", "R-101", "X-101-32x4d"])
def test_the_networks_of_table_8_need_no_change(name: str) -> None:
    chosen, overrides = choose(name)
    nets = {"R-50": "R50_1x64d", "R-101": "R101_1x64d"}
    net = nets.get(name, name.replace("-", "_").replace("X_", "X"))
    assert chosen == f"modern/faster_rcnn_{net}_FPN_1x.yaml" and overrides == {}


@pytest.mark.parametrize(
    ("name", "chosen", "overrides"),
    [
        ("X-101-64x4d", "X101_32x4d", {"NUM_GROUPS": 64}),
        ("X-101-32x8d", "X101_32x4d", {"WIDTH_PER_GROUP": 8}),
        ("R-152", "R101_1x64d", {"DEPTH": 152}),
        ("X-50-32x8d", "X50_32x4d", {"WIDTH_PER_GROUP": 8}),
        ("X-26-32x8d", "X50_32x4d", {"DEPTH": 26, "WIDTH_PER_GROUP": 8}),
    ],
)
def test_other_networks_change_the_nearest(
    name: str, chosen: str, overrides: dict[str, int]
) -> None:
    file, found = choose(name)
    assert file == f"modern/faster_rcnn_{chosen}_FPN_1x.yaml"
    assert found == {f"MODEL.RESNETS.{key}": value for key, value in overrides.items()}


@pytest.mark.parametrize("publisher", KNOWN)
@pytest.mark.parametrize("kind", ["FPN", "C4", "DC5", "RPN"])
def test_what_is_chosen_fits(publisher: str, kind: str) -> None:
    file, overrides = choose("X-101-64x4d", publisher, kind=kind, classes=3)
    cfg = load_config(config_file(file), [word for pair in overrides.items() for word in pair])
    assert not find_differences(KNOWN[publisher], cfg)
    assert cfg.MODEL.RESNETS.NUM_GROUPS == 64 and cfg.MODEL.RESNETS.DEPTH == 101
    assert kind == "RPN" or cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3
    assert kind in file or (kind, file) == ("RPN", "two_step/rpn_X101_32x4d.yaml")


def test_the_quickstart_is_for_its_own_network_alone() -> None:
    for publisher, groups, fits in (
        ("torchvision", 8, True),
        ("fair", 8, False),
        ("torchvision", 4, False),
    ):
        small = Architecture(26, groups, 4, stem_channels=32, res2_channels=64)
        file, _ = choose_config(describe_file(small, publisher))
        assert file.startswith("quickstart" if fits else "modern"), publisher
