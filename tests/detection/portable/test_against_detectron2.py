"""The portable detector equals the real detectron2 with the same weights, samples and seed.

Results, losses and gradients are compared to the last bit, of whole detectors and of the two steps
of the paper's protocol: the RPN alone, and Fast R-CNN on given proposals.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from fvcore.common.config import CfgNode

from resnext_det.config import get_cfg
from resnext_det.detection.portable.boxes import BoxTransform, compute_box_loss
from resnext_det.detection.portable.build import _build_roi_heads, _build_rpn, build_detector
from resnext_det.detection.portable.detector import restore_size
from resnext_det.detection.portable.fpn import FPN
from resnext_det.instances import Boxes, Instances
from tests.detection.detectron2_reference import (
    assert_same_instances,
    build_detectron2_detector,
    copy_cfg_to_detectron2,
    copy_samples_to_detectron2,
    randomize,
)
from tests.detection.helpers import STAGES, override

pytestmark = pytest.mark.detectron2

COMMON = [
    *override("MODEL.RESNETS", STEM_OUT_CHANNELS=32, RES2_OUT_CHANNELS=64, STRIDE_IN_1X1=False),
    *override("MODEL.RESNETS", DEPTH=26, NUM_GROUPS=8, WIDTH_PER_GROUP=4),
    *override("MODEL.ROI_HEADS", NUM_CLASSES=5, BATCH_SIZE_PER_IMAGE=32),
    *("MODEL.DEVICE", "cpu", "MODEL.RPN.POST_NMS_TOPK_TEST", 60),
]
BOX_HEAD = [
    *override("MODEL.ROI_HEADS", NAME="StandardROIHeads"),
    *override("MODEL.ROI_BOX_HEAD", NAME="FastRCNNConvFCHead", NUM_FC=2, FC_DIM=128),
    *override("MODEL.ROI_BOX_HEAD", POOLER_RESOLUTION=7),
]
PYRAMID = [
    *override("MODEL.BACKBONE", NAME="build_resnext_fpn_backbone"),
    *override("MODEL.FPN", IN_FEATURES=STAGES, OUT_CHANNELS=64),
    *override("MODEL.RESNETS", OUT_FEATURES=STAGES),
    *override("MODEL.RPN", IN_FEATURES=["p2", "p3", "p4", "p5", "p6"]),
    *override("MODEL.ROI_HEADS", IN_FEATURES=["p2", "p3", "p4", "p5"]),
    *override("MODEL.ANCHOR_GENERATOR", SIZES=[[32], [64], [128], [256], [512]]),
    *BOX_HEAD,
]

SIZES = [[16, 24], [48, 64], [96, 128], [192, 256], [384, 512]]
CONFIGURATIONS: dict[str, list[Any]] = {
    "C4": [],
    "C4, shared": override("MODEL.ROI_HEADS", NAME="ResNeXtSharedRes5ROIHeads"),
    "DC5": [
        *override("MODEL.RESNETS", OUT_FEATURES=["res5"], RES5_DILATION=2),
        *BOX_HEAD,
        *override("MODEL.RPN", IN_FEATURES=["res5"]),
        *override("MODEL.ROI_HEADS", IN_FEATURES=["res5"]),
    ],
    "FPN": [*PYRAMID, *override("MODEL.RPN", PRE_NMS_TOPK_TRAIN=2000, PRE_NMS_TOPK_TEST=1000)],
    "FPN, faster heads": [
        *PYRAMID,
        *override("MODEL.RPN", HEAD_NAME="ResNeXtSparseRPNHead"),
        *override("MODEL.ROI_HEADS", NAME="ResNeXtStandardROIHeads"),
    ],
    "twenty keys changed": [
        *PYRAMID,
        *override("MODEL.FPN", OUT_CHANNELS=64, FUSE_TYPE="avg", NORM="GN"),
        *override("MODEL.ANCHOR_GENERATOR", SIZES=SIZES),
        *override("MODEL.ANCHOR_GENERATOR", ASPECT_RATIOS=[[0.4, 1.0, 2.5]], OFFSET=0.5),
        *override("MODEL.RPN", CONV_DIMS=[32, -1], BOUNDARY_THRESH=8, IOU_THRESHOLDS=[0.25, 0.6]),
        *override("MODEL.RPN", BATCH_SIZE_PER_IMAGE=100, POSITIVE_FRACTION=0.4),
        *override("MODEL.RPN", SMOOTH_L1_BETA=0.11, BBOX_REG_WEIGHTS=(2.0, 2.0, 1.5, 1.5)),
        *override("MODEL.RPN", BBOX_REG_LOSS_WEIGHT=1.7, LOSS_WEIGHT=0.8, NMS_THRESH=0.6),
        *override("MODEL.RPN", POST_NMS_TOPK_TEST=150),
        *override("MODEL.PROPOSAL_GENERATOR", MIN_SIZE=4),
        *override("MODEL.ROI_HEADS", IOU_THRESHOLDS=[0.3, 0.55], IOU_LABELS=[0, -1, 1]),
        *override("MODEL.ROI_HEADS", BATCH_SIZE_PER_IMAGE=64, PROPOSAL_APPEND_GT=False),
        *override("MODEL.ROI_HEADS", SCORE_THRESH_TEST=0.15),
        *override("MODEL.ROI_BOX_HEAD", POOLER_TYPE="ROIAlign", POOLER_SAMPLING_RATIO=2),
        *override("MODEL.ROI_BOX_HEAD", CLS_AGNOSTIC_BBOX_REG=True, BBOX_REG_LOSS_TYPE="giou"),
        *override("MODEL.ROI_BOX_HEAD", NUM_CONV=1, CONV_DIM=32, NORM="GN"),
        *override("MODEL.ROI_HEADS", NMS_THRESH_TEST=0.3),
        *override("TEST", DETECTIONS_PER_IMAGE=20),
    ],
    "ROIPool and beta": [
        *override("MODEL.ROI_BOX_HEAD", POOLER_TYPE="ROIPool", SMOOTH_L1_BETA=1.0),
        *override("MODEL.RPN", SMOOTH_L1_BETA=1.0 / 9, BOUNDARY_THRESH=0),
        *override("MODEL.RESNETS", STRIDE_IN_1X1=True),
    ],
}
STEPS: dict[str, list[Any]] = {
    "whole": [],
    "RPN alone": override("MODEL", META_ARCHITECTURE="ProposalNetwork"),
    "proposals given": [
        *override("MODEL", LOAD_PROPOSALS=True),
        *override("MODEL.PROPOSAL_GENERATOR", NAME="PrecomputedProposals"),
    ],
}
RPN_LOSSES, HEAD_LOSSES = {"loss_rpn_cls", "loss_rpn_loc"}, {"loss_cls", "loss_box_reg"}


def configuration(name: str, *changes: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list([*COMMON, *CONFIGURATIONS[name], *changes])
    return cfg


def make_samples() -> list[dict[str, Any]]:
    """Make three images of several sizes with proposals; the last has no object."""
    images, proposals = (torch.Generator().manual_seed(seed) for seed in (1, 2))

    def make(height: int, width: int, truth: list[list[float]], *classes: int) -> dict[str, Any]:
        boxes = torch.tensor(truth).reshape(-1, 4)
        objects = torch.tensor(classes, dtype=torch.int64)
        count = {150: 50, 180: 31, 128: 2}[height]
        space = torch.tensor([width - 30.0, height - 30.0])
        low = torch.rand(count, 2, generator=proposals) * space
        sides = 2 + torch.rand(count, 2, generator=proposals) * 28
        given = torch.cat([low, low + sides], dim=1)
        given[: len(boxes)] = boxes + 2.5
        logits = torch.randn(count, generator=proposals).sort(descending=True)[0]
        return {
            "image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=images),
            "height": height * 2,
            "width": int(width * 1.5),
            "instances": Instances((height, width), gt_boxes=Boxes(boxes), gt_classes=objects),
            "proposals": Instances(
                (height, width), proposal_boxes=Boxes(given), objectness_logits=logits
            ),
        }

    return [
        make(150, 203, [[10.0, 12.5, 90.0, 120.0], [60.0, 40.0, 190.0, 149.0]], 0, 4),
        make(180, 120, [[5.0, 100.0, 40.5, 170.0]], 2),
        make(128, 128, []),
    ]


def build_pair(cfg: CfgNode, seed: int = 0) -> tuple[Any, Any]:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    torch.manual_seed(seed)  # of the convolutions, which "randomize" leaves as they are
    ours = build_detector(cfg)
    randomize(ours)
    theirs = build_detectron2_detector(cfg)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


@pytest.fixture(
    params=[
        case
        for case in itertools.product(CONFIGURATIONS, STEPS)
        if case != ("C4, shared", "RPN alone")  # which has no heads: it is that of C4
    ],
    ids=lambda param: ", ".join(param),
    scope="module",
)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    name, step = request.param
    return build_pair(configuration(name, *STEPS[step]))


def test_parameters_stand_in_the_same_order(pair: tuple[Any, Any]) -> None:
    ours, theirs = ([(n, p.requires_grad) for n, p in model.named_parameters()] for model in pair)
    assert ours == theirs
    parts = {name.split(".")[0] for name, _ in ours}
    assert {"backbone"} < parts <= {"backbone", "proposal_generator", "roi_heads"}


def test_results_are_equal(pair: tuple[Any, Any]) -> None:
    """They are in pixels of the original images, which are larger."""
    ours, theirs = (model.eval() for model in pair)
    with torch.no_grad():
        found = ours(make_samples())
        expected = theirs(copy_samples_to_detectron2(make_samples()))
    assert len(found) == len(expected) == 3
    for mine, wanted in zip(found, expected):
        ((key, instances),) = mine.items()
        assert list(wanted) == [key]
        fields = {"proposals": {"proposal_boxes", "objectness_logits"}}
        wanted_fields = fields.get(key, {"pred_boxes", "scores", "pred_classes"})
        assert instances.get_fields().keys() == wanted_fields and len(instances) > 0
        assert_same_instances(instances, wanted[key])


def test_losses_and_gradients_are_equal(pair: tuple[Any, Any]) -> None:
    from detectron2.utils.events import EventStorage

    results = []
    for model, batch in zip(pair, (make_samples(), copy_samples_to_detectron2(make_samples()))):
        model.train().zero_grad()
        torch.manual_seed(7)
        with EventStorage():
            losses = model(batch)
        sum(losses.values()).backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        results.append((losses, gradients))
    (losses, gradients), (expected_losses, expected_gradients) = results
    assert losses.keys() == expected_losses.keys()
    assert set(losses) in (RPN_LOSSES, HEAD_LOSSES, RPN_LOSSES | HEAD_LOSSES)
    for name, expected in expected_losses.items():
        torch.testing.assert_close(losses[name], expected, rtol=2e-7, atol=0)
    assert gradients.keys() == expected_gradients.keys()
    for name, expected in expected_gradients.items():
        assert torch.equal(gradients[name], expected), name


def test_their_checkpoint_and_samples_serve_our_detector(pair: tuple[Any, Any]) -> None:
    """detectron2's state dict loads strictly; its samples are taken as they are."""
    ours, theirs = pair
    ours.load_state_dict(theirs.state_dict(), strict=True)
    ours.train()
    torch.manual_seed(3)
    with_ours = ours(make_samples())
    torch.manual_seed(3)
    with_theirs = ours(copy_samples_to_detectron2(make_samples()))
    assert all(torch.equal(with_ours[name], with_theirs[name]) for name in with_ours)


@pytest.mark.parametrize("loss_type", ["giou", "diou", "ciou"])
def test_box_losses_are_detectron2s(loss_type: str) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.modeling.box_regression import Box2BoxTransform, _dense_box_regression_loss

    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(50, 2, generator=generator) * 100
    boxes = torch.cat([corners, corners + torch.rand(50, 2, generator=generator) * 80 + 1], dim=1)
    targets = boxes + torch.rand(50, 4, generator=generator) * torch.tensor([-5.0, -5.0, 5.0, 5.0])
    deltas = (torch.randn(50, 4, generator=generator) * 0.3).requires_grad_()
    weights = (10.0, 10.0, 5.0, 5.0)
    options: dict[str, Any] = {"loss_type": loss_type, "smooth_l1_beta": 0.0}
    loss = compute_box_loss(boxes, deltas, targets, transform=BoxTransform(weights), **options)
    (gradient,) = torch.autograd.grad(loss, deltas)
    expected = _dense_box_regression_loss(
        [boxes], Box2BoxTransform(weights=weights), [deltas[None]], [targets], ..., loss_type, 0.0
    )
    (expected_gradient,) = torch.autograd.grad(expected, deltas)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("field", ["pred_boxes", "proposal_boxes"])
def test_results_are_scaled_to_the_original_image_as_theirs(field: str) -> None:
    """Boxes beyond the border are clipped; those that are empty then are dropped."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2 import structures
    from detectron2.modeling.postprocessing import detector_postprocess

    generator = torch.Generator().manual_seed(0)
    low = torch.rand(60, 2, generator=generator) * 140 - 20
    boxes = torch.cat([low, low + torch.rand(60, 2, generator=generator) * 20], dim=1)
    boxes[:2, 2] = boxes[:2, 0]
    scores, size = torch.rand(60, generator=generator), (97, 101)
    given = structures.Instances(size, **{field: structures.Boxes(boxes.clone()), "scores": scores})
    wanted = detector_postprocess(given, 211, 60)
    assert 0 < len(wanted) < 58
    mine = Instances(size, **{field: Boxes(boxes), "scores": scores})
    assert_same_instances(restore_size(mine, {"height": 211, "width": 60}, field), wanted)
    assert restore_size(mine, {}, field).image_size == size


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_parts_begin_with_equal_weights(name: str) -> None:
    """One seed gives the RPN, the heads and the pyramid the weights that detectron2's have."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import build_proposal_generator, build_roi_heads
    from detectron2.modeling.backbone.fpn import FPN as TheirFPN
    from detectron2.modeling.backbone.fpn import LastLevelMaxPool

    more = ["MODEL.ROI_BOX_HEAD.NUM_CONV", 2] if "FPN" in name else []
    cfg = configuration(name, *more)
    ours: Any = build_detector(cfg)
    backbone = ours.backbone
    theirs = copy_cfg_to_detectron2(cfg)
    shapes = {
        key: ShapeSpec(channels=backbone.out_channels[key], stride=stride)
        for key, stride in backbone.out_strides.items()
    }
    builders = [
        (lambda: _build_rpn(cfg, backbone), lambda: build_proposal_generator(theirs, shapes)),
        (lambda: _build_roi_heads(cfg, backbone), lambda: build_roi_heads(theirs, shapes)),
    ]
    if isinstance(backbone, FPN):
        bottom_up: Any = build_detectron2_detector(cfg).backbone.bottom_up
        fpn = cfg.MODEL.FPN
        options = {"out_channels": fpn.OUT_CHANNELS, "norm": fpn.NORM}
        names, top = fpn.IN_FEATURES, LastLevelMaxPool()
        builders.append(
            (
                lambda: FPN(backbone.bottom_up, in_features=names, **options),
                lambda: TheirFPN(bottom_up, names, **options, top_block=top),
            )
        )
    for make_ours, make_theirs in builders:
        states = []
        for make in (make_ours, make_theirs):
            torch.manual_seed(5)
            part: Any = make()
            state = part.state_dict().items()
            states.append({k: v for k, v in state if "res" not in k and "stem" not in k})
        mine, wanted = states
        assert mine.keys() == wanted.keys() and len(mine) >= 4
        # detectron2's own res5 is drawn otherwise, and what comes after it then too.
        c4 = name in ("C4", "ROIPool and beta")
        after_res5 = {key for key in mine if "box_predictor" in key and c4}
        assert {key for key in mine if not torch.equal(mine[key], wanted[key])} <= after_res5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["C4", "DC5", "FPN"])
def test_a_full_size_x50_detects_the_same(name: str) -> None:
    size = override("MODEL.RESNETS", DEPTH=50, NUM_GROUPS=32)
    stem = override("MODEL.RESNETS", STEM_OUT_CHANNELS=64, RES2_OUT_CHANNELS=256)
    ours, theirs = (model.eval() for model in build_pair(configuration(name, *size, *stem)))
    with torch.no_grad():
        found = ours(make_samples())
        expected = theirs(copy_samples_to_detectron2(make_samples()))
    for mine, wanted in zip(found, expected):
        assert len(mine["instances"]) > 0
        assert_same_instances(mine["instances"], wanted["instances"])
