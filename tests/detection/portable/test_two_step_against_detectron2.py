"""The RPN alone and Fast R-CNN on given proposals, against the real detectron2 with the same weights, samples and seed: to the last bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fvcore.common.config import CfgNode

from resnext_det.config import get_cfg
from resnext_det.detection.portable.build import _build_roi_heads, _build_rpn, build_detector
from resnext_det.detection.portable.faster_rcnn import restore_size
from resnext_det.detection.portable.fpn import FPN
from resnext_det.instances import Boxes, Instances
from tests.detection.detectron2_reference import (
    build_detectron2_detector,
    detectron2_cfg,
    detectron2_samples,
    randomize,
)
from tests.detection.portable.test_against_detectron2 import COMMON, CONFIGURATIONS
from tests.detection.portable.test_against_detectron2 import samples as plain_samples

pytestmark = pytest.mark.detectron2

RPN_ALONE = ["MODEL.META_ARCHITECTURE", "ProposalNetwork"]
GIVEN = ["MODEL.LOAD_PROPOSALS", True, "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"]
STEPS: dict[str, list[Any]] = {"RPN alone": RPN_ALONE, "proposals given": GIVEN}


def configuration(name: str, *changes: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list([*COMMON, *CONFIGURATIONS[name], *changes])
    return cfg


def samples() -> list[dict[str, Any]]:
    """Three images of several sizes with proposals; the last has no object, and two proposals."""
    generator = torch.Generator().manual_seed(2)
    made = plain_samples()
    for sample, count in zip(made, (50, 31, 2)):
        height, width = sample["image"].shape[1:]
        low = torch.rand(count, 2, generator=generator) * torch.tensor(
            [width - 30.0, height - 30.0]
        )
        boxes = torch.cat([low, low + 2 + torch.rand(count, 2, generator=generator) * 28], dim=1)
        near = sample["instances"].gt_boxes.tensor
        boxes[: len(near)] = near + 2.5
        logits = torch.randn(count, generator=generator).sort(descending=True)[0]
        sample["proposals"] = Instances(
            (height, width), proposal_boxes=Boxes(boxes), objectness_logits=logits
        )
    return made


def their_samples() -> list[dict[str, Any]]:
    from detectron2 import structures

    converted = detectron2_samples(samples())
    for sample in converted:
        given = sample["proposals"]
        sample["proposals"] = structures.Instances(
            given.image_size,
            proposal_boxes=structures.Boxes(given.proposal_boxes.tensor),
            objectness_logits=given.objectness_logits,
        )
    return converted


@pytest.fixture(params=CONFIGURATIONS, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    return request.param


@pytest.fixture(params=STEPS, scope="module")
def pair(request: pytest.FixtureRequest, name: str) -> tuple[Any, Any]:
    cfg = configuration(name, *STEPS[request.param])
    ours = build_detector(cfg)
    randomize(ours)
    theirs = build_detectron2_detector(cfg)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


def test_parameters_are_those_of_the_step(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    names = [key for key, _ in ours.named_parameters()]
    assert names == [key for key, _ in theirs.named_parameters()]
    parts = {key.split(".")[0] for key in names}
    assert parts in ({"backbone", "proposal_generator"}, {"backbone", "roi_heads"})


def test_outputs_are_equal(pair: tuple[Any, Any]) -> None:
    """In pixels of the original images, which are larger."""
    ours, theirs = (model.eval() for model in pair)
    with torch.no_grad():
        found, expected = ours(samples()), theirs(their_samples())
    assert len(found) == len(expected) == 3
    for mine, wanted in zip(found, expected):
        assert mine.keys() == wanted.keys()
        ((key, one),) = mine.items()
        other = wanted[key]
        fields = {"proposals": {"proposal_boxes", "objectness_logits"}}
        assert one.get_fields().keys() == fields.get(key, {"pred_boxes", "scores", "pred_classes"})
        assert one.image_size == other.image_size and len(other) > 0
        for field, value in other.get_fields().items():
            assert torch.equal(
                getattr(one.get(field), "tensor", one.get(field)), getattr(value, "tensor", value)
            )


@pytest.mark.parametrize("field", ["pred_boxes", "proposal_boxes"])
def test_results_go_back_to_the_original_image_as_theirs(field: str) -> None:
    """Boxes beyond the border are clipped, and those that are empty then are dropped with all that is known of them."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2 import structures
    from detectron2.modeling.postprocessing import detector_postprocess

    generator = torch.Generator().manual_seed(0)
    low = torch.rand(60, 2, generator=generator) * 140 - 20
    boxes = torch.cat([low, low + torch.rand(60, 2, generator=generator) * 20], dim=1)
    boxes[:2, 2] = boxes[:2, 0]
    scores = torch.rand(60, generator=generator)
    mine = restore_size(
        Instances((97, 101), **{field: Boxes(boxes), "scores": scores}),
        {"height": 211, "width": 60},
        field,
    )
    given = structures.Instances(
        (97, 101), **{field: structures.Boxes(boxes.clone()), "scores": scores}
    )
    wanted = detector_postprocess(given, 211, 60)
    assert mine.image_size == wanted.image_size and 0 < len(wanted) < 58
    assert torch.equal(mine.get(field).tensor, wanted.get(field).tensor)
    assert torch.equal(mine.scores, wanted.scores)
    unscaled = restore_size(Instances((97, 101), **{field: Boxes(boxes)}), {}, field)
    assert unscaled.image_size == (97, 101)


def test_losses_and_gradients_are_equal(pair: tuple[Any, Any]) -> None:
    from detectron2.utils.events import EventStorage

    results = []
    for model, batch in zip(pair, (samples(), their_samples())):
        model.train().zero_grad()
        torch.manual_seed(7)
        with EventStorage():
            losses = model(batch)
        sum(losses.values()).backward()
        results.append(
            (losses, {key: p.grad for key, p in model.named_parameters() if p.grad is not None})
        )
    (losses, gradients), (expected_losses, expected_gradients) = results
    assert losses.keys() == expected_losses.keys()
    assert losses.keys() in ({"loss_rpn_cls", "loss_rpn_loc"}, {"loss_cls", "loss_box_reg"})
    for key, expected in expected_losses.items():
        torch.testing.assert_close(losses[key], expected, rtol=2e-7, atol=0)
    assert gradients.keys() == expected_gradients.keys()
    assert {
        key for key, value in expected_gradients.items() if not torch.equal(gradients[key], value)
    } == set()


def test_the_parts_begin_with_equal_weights(name: str) -> None:
    """One seed gives the RPN, the heads and the pyramid the weights that detectron2's have."""
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import build_proposal_generator, build_roi_heads
    from detectron2.modeling.backbone.fpn import FPN as TheirFPN
    from detectron2.modeling.backbone.fpn import LastLevelMaxPool

    cfg = (
        configuration(name, "MODEL.ROI_BOX_HEAD.NUM_CONV", 2)
        if "FPN" in name
        else configuration(name)
    )
    ours: Any = build_detector(cfg)
    backbone = ours.backbone
    theirs = detectron2_cfg(cfg)
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
        builders.append(
            (
                lambda: FPN(
                    backbone.bottom_up,
                    in_features=fpn.IN_FEATURES,
                    out_channels=fpn.OUT_CHANNELS,
                    norm=fpn.NORM,
                ),
                lambda: TheirFPN(
                    bottom_up, fpn.IN_FEATURES, fpn.OUT_CHANNELS, fpn.NORM, LastLevelMaxPool()
                ),
            )
        )
    for make_ours, make_theirs in builders:
        states = []
        for make in (make_ours, make_theirs):
            torch.manual_seed(5)
            part: Any = make()
            states.append(
                {
                    key: value
                    for key, value in part.state_dict().items()
                    if "res" not in key and "stem" not in key
                }
            )
        mine, wanted = states
        assert mine.keys() == wanted.keys() and len(mine) >= 4
        # detectron2's own res5 is drawn otherwise, and what comes after it then too.
        after_res5 = {
            key for key in mine if "box_predictor" in key and name in ("C4", "ROIPool and beta")
        }
        assert {key for key in mine if not torch.equal(mine[key], wanted[key])} <= after_res5
