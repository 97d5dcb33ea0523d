"""The portable detector and the real detectron2, with the same network, weights, images and seed, agree to the last bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fvcore.common.config import CfgNode

from resnext_det.config import get_cfg
from resnext_det.detection.portable.build import build_detector
from resnext_det.instances import Boxes, Instances
from tests.detection.detectron2_reference import (
    build_detectron2_detector,
    detectron2_samples,
    randomize,
)

pytestmark = pytest.mark.detectron2

COMMON = ["MODEL.RESNETS.STEM_OUT_CHANNELS", 32, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64]
COMMON += [
    "MODEL.RESNETS.NUM_GROUPS",
    8,
    "MODEL.RESNETS.WIDTH_PER_GROUP",
    4,
    "MODEL.RESNETS.STRIDE_IN_1X1",
    False,
]
COMMON += ["MODEL.RESNETS.DEPTH", 26, "MODEL.ROI_HEADS.NUM_CLASSES", 5, "MODEL.DEVICE", "cpu"]
COMMON += ["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 32, "MODEL.RPN.POST_NMS_TOPK_TEST", 60]
BOX_HEAD = [
    "MODEL.ROI_HEADS.NAME",
    "StandardROIHeads",
    "MODEL.ROI_BOX_HEAD.NAME",
    "FastRCNNConvFCHead",
]
BOX_HEAD += [
    "MODEL.ROI_BOX_HEAD.NUM_FC",
    2,
    "MODEL.ROI_BOX_HEAD.FC_DIM",
    128,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION",
    7,
]
STAGES = ["res2", "res3", "res4", "res5"]
FPN = ["MODEL.BACKBONE.NAME", "build_resnext_fpn_backbone", "MODEL.FPN.IN_FEATURES", STAGES]
FPN += [
    "MODEL.RESNETS.OUT_FEATURES",
    STAGES,
    "MODEL.RPN.IN_FEATURES",
    ["p2", "p3", "p4", "p5", "p6"],
]
FPN += ["MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"], *BOX_HEAD]
FPN += ["MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64], [128], [256], [512]]]

CONFIGURATIONS: dict[str, list[Any]] = {
    "C4": [],
    "DC5": [
        *("MODEL.RESNETS.OUT_FEATURES", ["res5"], "MODEL.RESNETS.RES5_DILATION", 2, *BOX_HEAD),
        *("MODEL.RPN.IN_FEATURES", ["res5"], "MODEL.ROI_HEADS.IN_FEATURES", ["res5"]),
    ],
    "FPN": [*FPN, "MODEL.RPN.PRE_NMS_TOPK_TRAIN", 2000, "MODEL.RPN.PRE_NMS_TOPK_TEST", 1000],
    "twenty keys changed": [
        *FPN,
        *("MODEL.FPN.OUT_CHANNELS", 64, "MODEL.FPN.FUSE_TYPE", "avg", "MODEL.FPN.NORM", "GN"),
        *("MODEL.ANCHOR_GENERATOR.SIZES", [[16, 24], [48, 64], [96, 128], [192, 256], [384, 512]]),
        *(
            "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS",
            [[0.4, 1.0, 2.5]],
            "MODEL.ANCHOR_GENERATOR.OFFSET",
            0.5,
        ),
        *(
            "MODEL.RPN.CONV_DIMS",
            [32, -1],
            "MODEL.RPN.BOUNDARY_THRESH",
            8,
            "MODEL.RPN.IOU_THRESHOLDS",
            [0.25, 0.6],
        ),
        *(
            "MODEL.RPN.BATCH_SIZE_PER_IMAGE",
            100,
            "MODEL.RPN.POSITIVE_FRACTION",
            0.4,
            "MODEL.RPN.SMOOTH_L1_BETA",
            0.11,
        ),
        *(
            "MODEL.RPN.BBOX_REG_WEIGHTS",
            (2.0, 2.0, 1.5, 1.5),
            "MODEL.RPN.BBOX_REG_LOSS_WEIGHT",
            1.7,
        ),
        *(
            "MODEL.RPN.LOSS_WEIGHT",
            0.8,
            "MODEL.RPN.NMS_THRESH",
            0.6,
            "MODEL.RPN.POST_NMS_TOPK_TEST",
            150,
        ),
        *("MODEL.PROPOSAL_GENERATOR.MIN_SIZE", 4, "MODEL.ROI_HEADS.IOU_THRESHOLDS", [0.3, 0.55]),
        *("MODEL.ROI_HEADS.IOU_LABELS", [0, -1, 1], "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 64),
        *("MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", False, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.15),
        *(
            "MODEL.ROI_BOX_HEAD.POOLER_TYPE",
            "ROIAlign",
            "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO",
            2,
        ),
        *(
            "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG",
            True,
            "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE",
            "giou",
        ),
        *(
            "MODEL.ROI_BOX_HEAD.NUM_CONV",
            1,
            "MODEL.ROI_BOX_HEAD.CONV_DIM",
            32,
            "MODEL.ROI_BOX_HEAD.NORM",
            "GN",
        ),
        *("MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.3, "TEST.DETECTIONS_PER_IMAGE", 20),
    ],
    "ROIPool and beta": [
        *("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPool", "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA", 1.0),
        *(
            "MODEL.RPN.SMOOTH_L1_BETA",
            1.0 / 9,
            "MODEL.RPN.BOUNDARY_THRESH",
            0,
            "MODEL.RESNETS.STRIDE_IN_1X1",
            True,
        ),
    ],
}


def configuration(name: str) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list([*COMMON, *CONFIGURATIONS[name]])
    return cfg


def samples() -> list[dict[str, Any]]:
    """Three images of several sizes; the last has no object."""
    generator = torch.Generator().manual_seed(1)

    def sample(
        height: int, width: int, boxes: list[list[float]], classes: list[int]
    ) -> dict[str, Any]:
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
        truth = Instances(
            (height, width),
            gt_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)),
            gt_classes=torch.tensor(classes, dtype=torch.int64),
        )
        return {"image": image, "height": height * 2, "width": int(width * 1.5), "instances": truth}

    return [
        sample(150, 203, [[10.0, 12.5, 90.0, 120.0], [60.0, 40.0, 190.0, 149.0]], [0, 4]),
        sample(180, 120, [[5.0, 100.0, 40.5, 170.0]], [2]),
        sample(128, 128, [], []),
    ]


@pytest.fixture(params=CONFIGURATIONS, scope="module")
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    cfg = configuration(request.param)
    ours = build_detector(cfg)
    randomize(ours)
    theirs = build_detectron2_detector(cfg)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def test_parameters_stand_in_the_same_order(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    assert [name for name, _ in ours.named_parameters()] == [
        name for name, _ in theirs.named_parameters()
    ]
    assert [p.requires_grad for p in ours.parameters()] == [
        p.requires_grad for p in theirs.parameters()
    ]


def test_detections_are_equal(pair: tuple[Any, Any]) -> None:
    ours, theirs = (model.eval() for model in pair)
    with torch.no_grad():
        found, expected = ours(samples()), theirs(detectron2_samples(samples()))
    for our_image, their_image in zip(found, expected):
        got, wanted = our_image["instances"], their_image["instances"]
        assert got.image_size == wanted.image_size
        assert len(wanted) > 0
        assert torch.equal(got.pred_classes, wanted.pred_classes)
        assert torch.equal(got.scores, wanted.scores)
        assert torch.equal(got.pred_boxes.tensor, wanted.pred_boxes.tensor)


def test_losses_and_gradients_are_equal(pair: tuple[Any, Any]) -> None:
    from detectron2.utils.events import EventStorage

    results = []
    for model, batch in zip(pair, (samples(), detectron2_samples(samples()))):
        model.train()
        model.zero_grad()
        torch.manual_seed(7)
        with EventStorage():
            losses = model(batch)
        sum(losses.values()).backward()
        results.append(
            (losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        )
    (losses, gradients), (expected_losses, expected_gradients) = results
    assert losses.keys() == expected_losses.keys()
    for name, expected in expected_losses.items():
        torch.testing.assert_close(losses[name], expected, rtol=2e-7, atol=0)
    assert gradients.keys() == expected_gradients.keys()
    differing = [
        name
        for name, expected in expected_gradients.items()
        if not torch.equal(gradients[name], expected)
    ]
    assert differing == []


def test_their_checkpoint_and_samples_serve_our_detector(pair: tuple[Any, Any]) -> None:
    """detectron2's state dict loads strictly into ours, and ours takes detectron2's dicts and Instances."""
    ours, theirs = pair
    ours.load_state_dict(theirs.state_dict(), strict=True)
    ours.train()
    torch.manual_seed(3)
    with_ours = ours(samples())
    torch.manual_seed(3)
    with_theirs = ours(detectron2_samples(samples()))
    assert all(torch.equal(with_ours[name], with_theirs[name]) for name in with_ours)


@pytest.mark.parametrize("loss_type", ["giou", "diou", "ciou"])
def test_box_losses_are_detectron2s(loss_type: str) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.modeling.box_regression import Box2BoxTransform, _dense_box_regression_loss

    from resnext_det.detection.portable.boxes import BoxTransform, compute_box_loss

    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(50, 2, generator=generator) * 100
    boxes = torch.cat([corners, corners + torch.rand(50, 2, generator=generator) * 80 + 1], dim=1)
    targets = boxes + torch.rand(50, 4, generator=generator) * torch.tensor([-5.0, -5.0, 5.0, 5.0])
    deltas = (torch.randn(50, 4, generator=generator) * 0.3).requires_grad_()
    weights = (10.0, 10.0, 5.0, 5.0)
    loss = compute_box_loss(
        boxes,
        deltas,
        targets,
        transform=BoxTransform(weights),
        loss_type=loss_type,
        smooth_l1_beta=0.0,
    )
    (gradient,) = torch.autograd.grad(loss, deltas)
    expected = _dense_box_regression_loss(
        [boxes], Box2BoxTransform(weights=weights), [deltas[None]], [targets], ..., loss_type, 0.0
    )
    (expected_gradient,) = torch.autograd.grad(expected, deltas)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["C4", "DC5", "FPN"])
def test_a_full_size_x50_detects_the_same(name: str) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    cfg = configuration(name)
    full = {"STEM_OUT_CHANNELS": 64, "RES2_OUT_CHANNELS": 256, "DEPTH": 50, "NUM_GROUPS": 32}
    cfg.merge_from_list(
        [word for key, value in full.items() for word in (f"MODEL.RESNETS.{key}", value)]
    )
    ours = build_detector(cfg).eval()
    randomize(ours)
    theirs = build_detectron2_detector(cfg).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    with torch.no_grad():
        found, expected = ours(samples()), theirs(detectron2_samples(samples()))
    for our_image, their_image in zip(found, expected):
        got, wanted = our_image["instances"], their_image["instances"]
        assert len(wanted) > 0
        assert torch.equal(got.pred_boxes.tensor, wanted.pred_boxes.tensor)
        assert torch.equal(got.scores, wanted.scores)
        assert torch.equal(got.pred_classes, wanted.pred_classes)
