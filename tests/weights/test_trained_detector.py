"""Hold to a trained detector the settings that change its numbers, and no others."""

from __future__ import annotations

from typing import Any

import pytest

from resnext_det.weights.trained_detector import describe_training, find_setting_differences
from tests.weights.helpers import FPN, configuration

RPN = ["MODEL.META_ARCHITECTURE", "ProposalNetwork"]
FAST: list[Any] = [
    *("MODEL.LOAD_PROPOSALS", True, "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals")
]
DEFORMABLE: list[Any] = [
    *FPN,
    *("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, False, False, True]),
]


def find_keys(detector: list[Any], *changes: Any) -> list[str]:
    """Find the keys that are told of when a detector meets its configuration with changes."""
    trained = describe_training(configuration(*detector), (), {})
    cfg = configuration(*detector, *changes)
    return [key for key, _, _ in find_setting_differences(trained, cfg)]


def test_a_stretch_is_held_to_where_either_has_none() -> None:
    """A configuration that asks for none of our own keys lacks them."""
    plain, stretched = configuration(), configuration()
    stretched.INPUT.STRETCH = (64, 96)
    for first, second in ((plain, stretched), (stretched, plain)):
        trained = describe_training(first, (), {})
        found = find_setting_differences(trained, second)
        assert [key for key, _, _ in found] == ["INPUT.STRETCH"]
        assert find_setting_differences(trained, second, training=True) == []
    assert find_setting_differences(describe_training(stretched, (), {}), stretched) == []


@pytest.mark.parametrize(
    ("key", "value", "with_effect", "without"),
    [
        ("MODEL.ROI_HEADS.NUM_CLASSES", 3, [], RPN),
        ("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 5, [], RPN),
        ("TEST.DETECTIONS_PER_IMAGE", 7, [], RPN),
        ("MODEL.RPN.PRE_NMS_TOPK_TEST", 7, [], FAST),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[7]], [], FAST),
        ("MODEL.PROPOSAL_GENERATOR.MIN_SIZE", 7, [], FAST),
        ("DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST", 7, FAST, []),
        ("MODEL.FPN.FUSE_TYPE", "avg", FPN, []),
        ("MODEL.ROI_BOX_HEAD.FC_DIM", 7, FPN, []),
        ("MODEL.RESNETS.DEFORM_NUM_GROUPS", 2, DEFORMABLE, []),
        ("MODEL.RESNETS.DEFORM_MODULATED", True, DEFORMABLE, []),
    ],
)
def test_settings_of_parts_that_are_not_used_change_nothing(
    key: str, value: Any, with_effect: list[Any], without: list[Any]
) -> None:
    assert find_keys(with_effect, key, value) == [key]
    assert find_keys(without, key, value) == []


def test_to_leave_a_part_out_is_told() -> None:
    assert "MODEL.META_ARCHITECTURE" in find_keys([], *RPN)
    assert "MODEL.PROPOSAL_GENERATOR.NAME" in find_keys([], *FAST)


def test_a_backbone_is_held_to_and_detectron2s_name_of_it_is_the_same() -> None:
    """A p6 made of p5 may fit the weights of one made of res5, and computes other numbers."""
    name, retinanet = "MODEL.BACKBONE.NAME", [*FPN, "MODEL.META_ARCHITECTURE", "RetinaNet"]
    ours, theirs, of_p5 = (
        configuration(*retinanet, name, f"build_retinanet_{network}_backbone")
        for network in ("resnext_fpn", "resnet_fpn", "resnext_fpn_p5")
    )
    trained = describe_training(ours, (), {})
    assert find_setting_differences(trained, theirs) == []
    for training in (False, True):
        found = find_setting_differences(trained, of_p5, training=training)
        assert found == [(name, of_p5.MODEL.BACKBONE.NAME, ours.MODEL.BACKBONE.NAME)]
