"""Cascade R-CNN equals the real detectron2's with the same weights, samples and seed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from resnext_det.detection.portable.build import _build_roi_heads, build_detector
from tests.detection.detectron2_reference import (
    assert_same_instances,
    copy_cfg_to_detectron2,
    copy_samples_to_detectron2,
)
from tests.detection.helpers import CASCADE_CHANGES, add_masks, override
from tests.detection.portable.test_against_detectron2 import (
    build_pair,
    make_samples,
)
from tests.detection.portable.test_against_detectron2 import configuration as configure
from tests.detection.portable.test_faster_rcnn import batch
from tests.detection.portable.test_faster_rcnn import configuration as configure_tiny

VARIANTS: dict[str, list[Any]] = {
    "as it is": CASCADE_CHANGES,
    "with masks": [
        *(*CASCADE_CHANGES, "MODEL.MASK_ON", True),
        *override("MODEL.ROI_MASK_HEAD", NUM_CONV=1, CONV_DIM=8),
    ],
    "with masks, faster heads": [
        *(*CASCADE_CHANGES, "MODEL.MASK_ON", True),
        *override("MODEL.ROI_HEADS", NAME="ResNeXtCascadeROIHeads"),
        *override("MODEL.ROI_MASK_HEAD", NUM_CONV=1, CONV_DIM=8),
    ],
    "ten keys changed": [
        *CASCADE_CHANGES,
        *override("MODEL.ROI_BOX_CASCADE_HEAD", IOUS=(0.4, 0.65)),
        *override(
            "MODEL.ROI_BOX_CASCADE_HEAD",
            BBOX_REG_WEIGHTS=((8.0, 9.0, 4.0, 5.0), (20.0, 20.0, 10.0, 10.0)),
        ),
        *override("MODEL.ROI_HEADS", IOU_THRESHOLDS=[0.4], BATCH_SIZE_PER_IMAGE=48),
        *override("MODEL.ROI_HEADS", SCORE_THRESH_TEST=0.15, NMS_THRESH_TEST=0.3),
        *override("MODEL.ROI_BOX_HEAD", NUM_CONV=1, CONV_DIM=32, NORM="GN"),
        *override("MODEL.ROI_BOX_HEAD", BBOX_REG_LOSS_TYPE="giou", BBOX_REG_LOSS_WEIGHT=10.0),
    ],
}


@pytest.fixture(
    params=[
        pytest.param("as it is", marks=pytest.mark.slow),
        "with masks",
        pytest.param("with masks, faster heads", marks=pytest.mark.slow),
        "ten keys changed",
    ],
    scope="module",
)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    # Of the first seed the second stage has no region on an object.
    return build_pair(configure("FPN", *VARIANTS[request.param]), seed=1)


def draw(pair: tuple[Any, Any]) -> list[dict[str, Any]]:
    """Make the samples, with masks where the detectors have them."""
    samples = make_samples()
    return list(map(add_masks, samples)) if pair[0].roi_heads.mask_head is not None else samples


@pytest.mark.detectron2
def test_parameters_stand_in_the_same_order(pair: tuple[Any, Any]) -> None:
    ours, theirs = ([(n, p.shape) for n, p in model.named_parameters()] for model in pair)
    assert ours == theirs
    names = [name for name, _ in ours]
    assert "roi_heads.box_head.0.fc1.weight" in names
    assert "roi_heads.box_predictor.1.bbox_pred.bias" in names


@pytest.mark.detectron2
def test_detections_are_equal(pair: tuple[Any, Any]) -> None:
    ours, theirs = (model.eval() for model in pair)
    with torch.no_grad():
        found = ours(draw(pair))
        expected = theirs(copy_samples_to_detectron2(draw(pair)))
    assert sum(len(one["instances"]) for one in found) > 20
    for mine, wanted in zip(found, expected, strict=True):
        assert_same_instances(mine["instances"], wanted["instances"])


@pytest.mark.detectron2
def test_losses_and_gradients_are_equal(pair: tuple[Any, Any]) -> None:
    from detectron2.utils.events import EventStorage

    results = []
    for model, samples in zip(pair, (draw(pair), copy_samples_to_detectron2(draw(pair)))):
        model.train().zero_grad()
        torch.manual_seed(7)
        with EventStorage():
            losses = model(samples)
        sum(losses.values()).backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        results.append((losses, gradients))
    (losses, gradients), (expected_losses, expected_gradients) = results
    assert losses.keys() == expected_losses.keys()
    assert all(losses[f"loss_{kind}_stage1"] > 0 for kind in ("cls", "box_reg"))
    for name, expected in expected_losses.items():
        torch.testing.assert_close(losses[name], expected, rtol=2e-7, atol=0)
    assert gradients.keys() == expected_gradients.keys()
    for name, expected in expected_gradients.items():
        assert torch.equal(gradients[name], expected), name


@pytest.mark.detectron2
def test_the_heads_begin_with_equal_weights() -> None:
    """One seed gives the stages the weights that detectron2's have."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import build_roi_heads

    cfg = configure_tiny(*CASCADE_CHANGES, "MODEL.ROI_BOX_HEAD.NUM_CONV", 1)
    backbone: Any = build_detector(cfg).backbone
    shapes = {
        name: ShapeSpec(channels=backbone.out_channels[name], stride=stride)
        for name, stride in backbone.out_strides.items()
    }
    states = []
    for make in (
        lambda: _build_roi_heads(cfg, backbone),
        lambda: build_roi_heads(copy_cfg_to_detectron2(cfg), shapes),
    ):
        torch.manual_seed(5)
        states.append(make().state_dict())
    ours, theirs = states
    assert list(ours) == list(theirs)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize(
    "changes",
    [
        override("MODEL.RESNETS", NORM="FrozenBN"),
        [
            *override("MODEL.PROPOSAL_GENERATOR", MIN_SIZE=1000),
            *override("MODEL.ROI_HEADS", PROPOSAL_APPEND_GT=False),
        ],
    ],
    ids=["one image without an object", "no box is proposed"],
)
def test_a_step_is_trained_and_detections_are_sane(changes: list[Any]) -> None:
    cfg = configure_tiny(*CASCADE_CHANGES, *changes, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    torch.manual_seed(0)
    model = build_detector(cfg)
    losses = model.train()(batch())
    of_stages = {f"loss_{kind}_stage{k}" for kind in ("cls", "box_reg") for k in range(3)}
    assert set(losses) == of_stages | {"loss_rpn_cls", "loss_rpn_loc"}
    sum(losses.values()).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert all(bool(torch.isfinite(one).all()) for one in gradients if one is not None)
    assert None not in gradients
    empty = "MODEL.PROPOSAL_GENERATOR.MIN_SIZE" in changes
    assert (losses["loss_cls_stage2"] == 0) == empty
    with torch.no_grad():
        found = [one["instances"] for one in model.eval()(batch())]
    assert all((len(one) == 0) == empty for one in found)


def test_a_diverging_stage_is_told() -> None:
    model = build_detector(configure_tiny(*CASCADE_CHANGES)).train()
    model.roi_heads.box_predictor[0].bbox_pred.weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="a stage of the cascade predicts boxes"):
        model(batch())
