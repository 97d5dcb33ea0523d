"""A run's network is told in a few words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from resnext_det.config import load_config
from resnext_det.config.rules import collect_values
from resnext_det.report.examination import Examination
from resnext_det.report.origin import describe_network, list_facts
from resnext_det.report.runs import RunFolder, Series
from tests.report.test_run_groups import make_run
from tests.tools.helpers import ROOT


@pytest.mark.parametrize("head", ["C4", "DC5", "FPN"])
def test_the_head_of_shipped_configurations_is_told(head: str) -> None:
    """The C4 head of configs/modern/ computes once what its regions share."""
    cfg = load_config(ROOT / "configs" / "modern" / f"faster_rcnn_X50_32x4d_{head}_1x.yaml")
    run = make_run("run", **collect_values(cfg))
    assert describe_network(run) == f"X-50-32x4d, {head}"


def test_other_pyramids_are_told_and_other_heads_are_not() -> None:
    name = "build_retinanet_resnet_fpn_backbone"  # of detectron2
    assert describe_network(make_run("run", MODEL__BACKBONE__NAME=name)) == f"{name}, FPN"
    assert describe_network(make_run("run")) == "a network that is not known here"


def make_training(config_file: str, *overrides: Any) -> RunFolder:
    """Make the run of a shipped configuration."""
    cfg = load_config(ROOT / "configs" / config_file, overrides)
    run = make_run("run", **collect_values(cfg))
    return replace(run, cfg=cfg, series={"lr": Series(np.arange(2), np.ones(2))})


KINDS = {
    "modern/mask_rcnn_X50_32x4d_FPN_1x.yaml": "X-50-32x4d, FPN, Mask R-CNN",
    "modern/cascade_rcnn_X50_32x4d_FPN_1x.yaml": "X-50-32x4d, FPN, Cascade R-CNN",
    "modern/cascade_mask_rcnn_X50_32x4d_FPN_1x.yaml": "X-50-32x4d, FPN, Cascade Mask R-CNN",
    "modern/retinanet_X50_32x4d_FPN_1x.yaml": "X-50-32x4d, FPN, RetinaNet",
}


@pytest.mark.parametrize("config_file", KINDS)
def test_the_kind_of_detector_is_told(config_file: str) -> None:
    assert describe_network(make_training(config_file)) == KINDS[config_file]


SIZES = {
    "MIN_SIZE_TRAIN": (
        (640, 800),
        "to train: shorter sides of 640, 800 (choice), flip: horizontal;",
    ),
    "SCALE_JITTER": ((0.1, 2.0), "of 1024 pixels of images scaled by 0.1 to 2.0, flip: horizontal"),
    "STRETCH": ((600, 800), "to train: all images stretched to 800 x 600 pixels, flip: hori"),
}


@pytest.mark.parametrize("key", SIZES)
def test_the_sizes_that_hold_are_told(key: str) -> None:
    value, words = SIZES[key]
    run = make_training("modern/retinanet_X50_32x4d_FPN_1x.yaml", f"INPUT.{key}", value)
    facts = {row[0]: str(row[1]) for row in list_facts(Examination(run, (), None, (), ()))}
    assert words in facts["image sizes"]
    assert facts["image sizes"].endswith(
        "to test: 800 x 600 pixels, whatever the aspect ratio"
        if key == "STRETCH"
        else "to test: a shorter side of 800 pixels, or a longer one of 1333"
    )
    assert ("640" in facts["image sizes"]) == (key == "MIN_SIZE_TRAIN")
