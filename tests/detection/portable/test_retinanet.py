"""The portable RetinaNet equals the real detectron2's with the same weights, samples and seed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from resnext_det.detection.portable.build import build_detector
from resnext_det.detection.portable.focal_loss import sum_focal_loss
from tests.detection.detectron2_reference import (
    assert_same_instances,
    build_detectron2_detector,
    copy_samples_to_detectron2,
    randomize,
)
from tests.detection.helpers import RETINANET_CHANGES, STAGES, override
from tests.detection.portable.test_faster_rcnn import batch, configuration

TWO_SIZES = [[12, 15], [24, 30], [48, 60], [96, 120], [192, 240]]
VARIANTS: dict[str, list[Any]] = {
    "as it is": [],
    "beta and other weights": [
        *override(
            "MODEL.RETINANET", SMOOTH_L1_LOSS_BETA=0.1, BBOX_REG_WEIGHTS=(2.0, 2.0, 1.5, 1.5)
        ),
        *override("MODEL.RETINANET", FOCAL_LOSS_ALPHA=0.4, FOCAL_LOSS_GAMMA=1.5, PRIOR_PROB=0.1),
        *override("MODEL.RETINANET", IOU_THRESHOLDS=[0.3, 0.45], NMS_THRESH_TEST=0.3),
        *override("MODEL.RETINANET", SCORE_THRESH_TEST=0.1, TOPK_CANDIDATES_TEST=50),
        *override("MODEL.ANCHOR_GENERATOR", SIZES=TWO_SIZES, ASPECT_RATIOS=[[0.5, 2.0]]),
        *override("TEST", DETECTIONS_PER_IMAGE=20),
    ],
    "giou, no alpha": override(
        "MODEL.RETINANET", BBOX_REG_LOSS_TYPE="giou", FOCAL_LOSS_ALPHA=-1.0, NUM_CONVS=2
    ),
    "group norm": [
        *override("MODEL.FPN", OUT_CHANNELS=32),
        *override("MODEL.RETINANET", NORM="GN"),
    ],
    "a norm a level": override("MODEL.RETINANET", NORM="BN", NUM_CONVS=2),
    "p6 from p5": override("MODEL.BACKBONE", NAME="build_retinanet_resnext_fpn_p5_backbone"),
    "a pyramid from res2, with p6 alone": [
        *override("MODEL.BACKBONE", NAME="build_resnext_fpn_backbone"),
        *override("MODEL.FPN", IN_FEATURES=STAGES),
        *override("MODEL.RETINANET", IN_FEATURES=["p2", "p3", "p4", "p5", "p6"]),
    ],
}


@pytest.fixture(params=VARIANTS, scope="module")
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from resnext_det.detection.detectron2.engine import compile_focal_loss

    compile_focal_loss()
    cfg = configuration(*RETINANET_CHANGES, *VARIANTS[request.param])
    ours = build_detector(cfg)
    theirs = build_detectron2_detector(cfg)
    randomize(ours)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


@pytest.mark.detectron2
def test_parameters_stand_in_the_same_order(pair: tuple[Any, Any]) -> None:
    ours, theirs = ([(n, p.requires_grad) for n, p in model.named_parameters()] for model in pair)
    assert ours == theirs
    assert ("head.cls_subnet.0.weight", True) in ours


@pytest.mark.detectron2
def test_detections_are_equal(pair: tuple[Any, Any]) -> None:
    ours, theirs = (model.eval() for model in pair)
    samples = [{**sample, "height": 130, "width": 77} for sample in batch()]
    with torch.no_grad():
        found = ours(samples)
        expected = theirs(copy_samples_to_detectron2(samples))
    assert len(found) == len(expected) == 3
    for mine, wanted in zip(found, expected):
        assert len(mine["instances"]) > 0
        assert_same_instances(mine["instances"], wanted["instances"])


@pytest.mark.detectron2
def test_losses_and_gradients_of_several_steps_are_equal(pair: tuple[Any, Any]) -> None:
    """Each step moves the average that divides the losses."""
    from detectron2.utils.events import EventStorage

    ours, theirs = (model.train() for model in pair)
    for step in range(3):
        samples = batch(seed=step)
        ours.zero_grad()
        theirs.zero_grad()
        losses = ours(samples)
        with EventStorage():
            expected = theirs(copy_samples_to_detectron2(samples))
        assert losses.keys() == expected.keys() == {"loss_cls", "loss_box_reg"}
        for name in expected:
            torch.testing.assert_close(losses[name], expected[name], rtol=2e-7, atol=0)
        assert ours.loss_normalizer == theirs.loss_normalizer
        sum(losses.values()).backward()
        sum(expected.values()).backward()
        for (name, mine), wanted in zip(ours.named_parameters(), theirs.parameters()):
            assert torch.equal(mine.grad, wanted.grad), (
                step,
                name,
                (mine.grad - wanted.grad).abs().max(),
            )


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (-1.0, 2.0), (0.4, 1.5)])
def test_the_focal_loss_equals_fvcores(
    alpha: float, gamma: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is computed in parts; anchors are left out, and one image has none but these."""
    from fvcore.nn import sigmoid_focal_loss_jit

    monkeypatch.setattr("resnext_det.detection.portable.focal_loss._AT_ONCE", 100)
    generator = torch.Generator().manual_seed(0)
    sizes, classes = (50, 20, 5, 1), 6
    drawn = torch.randn(3, sum(sizes), classes, generator=generator) * 2 - 2
    labels = torch.randint(-1, classes + 1, (3, sum(sizes)), generator=generator)
    labels[1] = -1
    chosen, joined = labels >= 0, drawn.clone().requires_grad_()
    truth = torch.nn.functional.one_hot(labels[chosen], classes + 1)[:, :-1].float()
    for _ in range(3):  # it is compiled in the second call
        joined.grad = None
        options = {"alpha": alpha, "gamma": gamma, "reduction": "sum"}
        expected = sigmoid_focal_loss_jit(joined[chosen], truth, **options)
        (expected / 117.3).backward()
    levels = [level.clone().requires_grad_() for level in drawn.split(sizes, dim=1)]
    found = sum_focal_loss(levels, labels, alpha=alpha, gamma=gamma)
    (found / 117.3).backward()
    assert torch.equal(found, expected)
    gradient = torch.cat([level.grad for level in levels], dim=1)
    assert joined.grad is not None and torch.equal(gradient, joined.grad)
    compiled = torch.compile(sum_focal_loss, backend="eager", fullgraph=True)
    plain = compiled(levels, labels, alpha=alpha, gamma=gamma)
    torch.testing.assert_close(plain, expected)
    slopes = torch.autograd.grad(plain / 117.3, levels)
    torch.testing.assert_close(torch.cat(slopes, dim=1), joined.grad)
