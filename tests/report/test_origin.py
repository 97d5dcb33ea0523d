"""A run's network is told in a few words."""

from __future__ import annotations

import pytest

from resnext_det.config import load_config
from resnext_det.config.rules import collect_values
from resnext_det.report.origin import describe_network
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
