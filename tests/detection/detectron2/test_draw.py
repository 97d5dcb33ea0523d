"""One seed gives one detector on our backbone and on detectron2's own, to the last bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.config import get_cfg  # noqa: E402
from detectron2.layers import ShapeSpec  # noqa: E402
from detectron2.modeling import build_backbone, build_model  # noqa: E402

from tests.detection.helpers import STAGES, override  # noqa: E402

NARROW = override("MODEL.RESNETS", WIDTH_PER_GROUP=8, STEM_OUT_CHANNELS=32, RES2_OUT_CHANNELS=64)
SIZES: dict[str, list[Any]] = {
    "narrow R-50": [*NARROW, *override("MODEL.RESNETS", NUM_GROUPS=4)],
    "R-50": override("MODEL.RESNETS", NUM_GROUPS=1, WIDTH_PER_GROUP=64),
    "X-50": override("MODEL.RESNETS", NUM_GROUPS=32, WIDTH_PER_GROUP=4),
}
FPN = [*override("MODEL.RESNETS", OUT_FEATURES=STAGES), *override("MODEL.FPN", IN_FEATURES=STAGES)]
PYRAMID = ["p2", "p3", "p4", "p5"]
DETECTORS: dict[str, list[Any]] = {
    "C4": [],
    "Mask R-CNN C4": [
        "MODEL.MASK_ON",
        True,
        *override("MODEL.ROI_MASK_HEAD", POOLER_RESOLUTION=14),
    ],
    "DC5": [
        *override("MODEL.RESNETS", OUT_FEATURES=["res5"], RES5_DILATION=2),
        *override("MODEL.RPN", IN_FEATURES=["res5"]),
        *override("MODEL.ROI_HEADS", NAME="StandardROIHeads", IN_FEATURES=["res5"]),
        *override("MODEL.ROI_BOX_HEAD", NAME="FastRCNNConvFCHead", NUM_FC=1, FC_DIM=8),
    ],
    "FPN": [
        *FPN,
        *override("MODEL.BACKBONE", NAME="build_resnet_fpn_backbone"),
        *override("MODEL.FPN", OUT_CHANNELS=16, NORM="BN"),
        *override("MODEL.RPN", IN_FEATURES=PYRAMID),
        *override("MODEL.ANCHOR_GENERATOR", SIZES=[[32], [64], [128], [256]]),
        *override("MODEL.ROI_HEADS", NAME="StandardROIHeads", IN_FEATURES=PYRAMID),
        *override("MODEL.ROI_BOX_HEAD", NAME="FastRCNNConvFCHead", NUM_FC=1, FC_DIM=8),
    ],
    "RetinaNet": [
        *override("MODEL", META_ARCHITECTURE="RetinaNet"),
        *override("MODEL.BACKBONE", NAME="build_retinanet_resnet_fpn_backbone"),
        *override("MODEL.RESNETS", OUT_FEATURES=STAGES[1:]),
        *override("MODEL.FPN", IN_FEATURES=STAGES[1:], OUT_CHANNELS=16),
        *override("MODEL.ANCHOR_GENERATOR", SIZES=[[32], [64], [128], [256], [512]]),
    ],
    "RPN on the stem": [
        *override("MODEL", META_ARCHITECTURE="ProposalNetwork"),
        *override("MODEL.RESNETS", OUT_FEATURES=["stem"]),
        *override("MODEL.RPN", IN_FEATURES=["stem"]),
    ],
}


def configure(size: str, *changes: Any) -> Any:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *SIZES[size], *changes])
    return cfg


def name_ours(cfg: Any) -> Any:
    """Copy a configuration of detectron2's own network, with our names in it."""
    cfg = cfg.clone()
    cfg.MODEL.BACKBONE.NAME = cfg.MODEL.BACKBONE.NAME.replace("resnet", "resnext")
    if cfg.MODEL.ROI_HEADS.NAME == "Res5ROIHeads":
        cfg.MODEL.ROI_HEADS.NAME = "ResNeXtRes5ROIHeads"
    return cfg


def build_both(cfg: Any, *, seed: int = 7) -> tuple[Any, Any]:
    """Build our backbone and detectron2's from one seed."""
    built = []
    for each in (name_ours(cfg), cfg):
        torch.manual_seed(seed)
        built.append(build_backbone(each, ShapeSpec(channels=3)))
    return built[0], built[1]


def assert_one_draw(size: str, detector: str) -> None:
    cfg = configure(size, *DETECTORS[detector])
    states: list[dict[str, Tensor]] = []
    for each in (name_ours(cfg), cfg):
        torch.manual_seed(7)
        model = build_model(each)
        states.append({**model.state_dict(), "generator": torch.get_rng_state()})
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])


@pytest.mark.parametrize("detector", DETECTORS)
def test_one_seed_gives_one_detector(detector: str) -> None:
    """The generator, too, stands as after detectron2's own network."""
    assert_one_draw("narrow R-50", detector)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["R-50", "X-50"])
@pytest.mark.parametrize("detector", DETECTORS)
def test_one_seed_gives_one_detector_of_full_size(size: str, detector: str) -> None:
    assert_one_draw(size, detector)


def test_one_seed_gives_one_detector_in_the_portable_engine() -> None:
    """Of every part, also behind a C4 network, whose res5 is drawn and thrown away."""
    from resnext_det import build_detector
    from resnext_det import get_cfg as get_portable_cfg

    portable = get_portable_cfg()
    portable.merge_from_list([*SIZES["narrow R-50"], "MODEL.DEVICE", "cpu"])
    models = []
    for build in (
        lambda: build_detector(portable),
        lambda: build_model(configure("narrow R-50")),
    ):
        torch.manual_seed(7)
        models.append((build().state_dict(), torch.get_rng_state()))
    (ours, our_generator), (theirs, their_generator) = models
    assert set(ours) <= set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(our_generator, their_generator)
