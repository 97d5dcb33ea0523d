"""Test what the checks refuse, with key, value and remedy, and that everything else is honored."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode
from PIL import Image

from resnext_det.config import check, get_cfg
from resnext_det.config.detection import OWN_KEYS, add_own_keys
from resnext_det.config.rules import get_value, list_keys
from resnext_det.config.values import RANGES, SUPPORTED_VALUES
from resnext_det.data import coco
from resnext_det.data.proposals import write_proposals
from resnext_det.detection.datasets import train_mapper
from resnext_det.detection.inference import Predictor
from resnext_det.detection.portable import build, engine
from resnext_det.detection.portable.build import build_detector
from tests.config.helpers import read_table

STAGES = ["res2", "res3", "res4", "res5"]


def split(text: str) -> list[str]:
    """Split KEY VALUE pairs, as a command line does; their values have no spaces."""
    return text.split()


HEAD = split("""MODEL.ROI_HEADS.NAME StandardROIHeads MODEL.ROI_BOX_HEAD.NAME FastRCNNConvFCHead
MODEL.ROI_BOX_HEAD.NUM_FC 1 MODEL.ROI_BOX_HEAD.FC_DIM 16 MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION 3
""")
CASCADE = [
    *(*HEAD, "MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
    *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
]
FPN = [
    *("MODEL.BACKBONE.NAME", "build_resnext_fpn_backbone", "MODEL.FPN.OUT_CHANNELS", 16, *HEAD),
    *("MODEL.RESNETS.OUT_FEATURES", STAGES, "MODEL.FPN.IN_FEATURES", STAGES),
    *("MODEL.RPN.IN_FEATURES", ["p2", "p3"], "MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3"]),
]
TINY = split("""MODEL.RESNETS.DEPTH 26 MODEL.RESNETS.STEM_OUT_CHANNELS 8
MODEL.RESNETS.RES2_OUT_CHANNELS 16 MODEL.RESNETS.WIDTH_PER_GROUP 8 MODEL.RESNETS.NORM BN
MODEL.BACKBONE.FREEZE_AT 0
""")
RETINANET = [
    *("MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.RESNETS.OUT_FEATURES", STAGES),
    *("MODEL.BACKBONE.NAME", "build_retinanet_resnext_fpn_backbone", "MODEL.FPN.OUT_CHANNELS", 32),
    *("MODEL.FPN.IN_FEATURES", STAGES, "MODEL.RETINANET.NUM_CONVS", 1),
]
OURS = ["MODEL.ROI_HEADS.NAME", "ResNeXtRes5ROIHeads"]
SHARED = ["MODEL.ROI_HEADS.NAME", "ResNeXtSharedRes5ROIHeads"]
RPN_ALONE = ["MODEL.META_ARCHITECTURE", "ProposalNetwork"]
GIVEN = ["MODEL.LOAD_PROPOSALS", True, "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"]

# Changes of the default configuration, and words of the refusal.
CONTRADICTIONS = """
MODEL.PIXEL_MEAN [1.0] | MODEL.PIXEL_MEAN = [1.0] has 1 numbers | 'BGR' has 3 | write 3
INPUT.FORMAT L | MODEL.PIXEL_MEAN | has 3 numbers | 'L' has 1 channels; write 1
RETINANET MODEL.LOAD_PROPOSALS True | MODEL.LOAD_PROPOSALS = True | takes no proposals; write False
RETINANET MODEL.RETINANET.PRIOR_PROB 1.0 | MODEL.RETINANET.PRIOR_PROB = 1.0 | between 0 and 1
RETINANET MODEL.RETINANET.FOCAL_LOSS_ALPHA 2.0 | FOCAL_LOSS_ALPHA = 2.0 | from 0 to 1 | -1 for none
RETINANET TEST.DETECTIONS_PER_IMAGE -1 | DETECTIONS_PER_IMAGE = -1 is not supported of RetinaNet
RETINANET MODEL.RETINANET.IN_FEATURES ['p8'] | ['p8'] | gives p2, p3, p4, p5, p6, p7
MODEL.PIXEL_STD [1.0,0.0,1.0] | MODEL.PIXEL_STD = [1.0, 0.0, 1.0] is out of range; write a number
INPUT.MIN_SIZE_TRAIN () | INPUT.MIN_SIZE_TRAIN = () | write one or more
INPUT.MIN_SIZE_TRAIN_SAMPLING range | INPUT.MIN_SIZE_TRAIN = (800,) | (lowest, highest)
INPUT.MIN_SIZE_TRAIN_SAMPLING range INPUT.MIN_SIZE_TRAIN (800,640) | (800, 640) | (lowest, highest)
INPUT.CROP.ENABLED True INPUT.CROP.SIZE [0.5] | INPUT.CROP.SIZE = [0.5]: write two numbers
INPUT.CROP.ENABLED True INPUT.CROP.SIZE [384,600] | 'relative_range' | write the shares
INPUT.CROP.ENABLED True INPUT.CROP.TYPE absolute | SIZE = [0.9, 0.9]: write whole numbers of pixels
INPUT.CROP.ENABLED True INPUT.SCALE_JITTER (0.1,2.0) | crops images, and so does | ENABLED False
INPUT.SCALE_JITTER (2.0,0.1) | INPUT.SCALE_JITTER = (2.0, 0.1) | the smallest scale
INPUT.SCALE_JITTER (0.1,) | INPUT.SCALE_JITTER = (0.1,) | such as (0.1, 2.0), or ()
INPUT.SCALE_JITTER ('a',) | every entry has to be a number
INPUT.SCALE_JITTER_SIZE 512 | INPUT.SCALE_JITTER_SIZE = 512 would change nothing
INPUT.COLOR_JITTER (0.4,) | INPUT.COLOR_JITTER = (0.4,) | brightness, contrast, saturation and hue
INPUT.COLOR_JITTER (0.4,0.4,0.4,0.6) | the hue up to 0.5
INPUT.FORMAT L MODEL.PIXEL_MEAN [1.0] MODEL.PIXEL_STD [1.0] INPUT.COLOR_JITTER (0.4,0.1,0.4,0.0)
  | are gray | write (0.4, 0.1, 0.0, 0.0)
MODEL.RESNETS.OUT_FEATURES ['res6'] | MODEL.RESNETS.OUT_FEATURES = ['res6']
  | stem, res2, res3, res4, res5
MODEL.RESNETS.OUT_FEATURES [] | MODEL.RESNETS.OUT_FEATURES = [] | one or more of
MODEL.RESNETS.RES5_DILATION 2 | RES5_DILATION = 2 | Res5ROIHeads | write 1
HEAD MODEL.RESNETS.RES5_DILATION 2 | RES5_DILATION = 2 | no res5 in MODEL.RESNETS.OUT_FEATURES
  | ['res5']
FPN MODEL.RESNETS.RES5_DILATION 2 | RES5_DILATION = 2 | pyramid | write 1
MODEL.RESNETS.DEFORM_ON_PER_STAGE [False,True,True,True] | but Res5ROIHeads runs a res5 without
  | write [False, True, True, False]
OURS MODEL.RESNETS.DEFORM_ON_PER_STAGE [False,False,False,True] | but ResNeXtRes5ROIHeads runs a
SHARED MODEL.RESNETS.NORM GN | MODEL.RESNETS.NORM = 'GN' | write FrozenBN, or MODEL.ROI_HEADS.NAME
SHARED MODEL.ROI_BOX_HEAD.POOLER_TYPE ROIPool | = 'ROIPool', but ResNeXtSharedRes5ROIHeads shares
  | write ROIAlignV2, or MODEL.ROI_HEADS.NAME: ResNeXtRes5ROIHeads
SHARED MODEL.RESNETS.RES5_DILATION 2 | but ResNeXtSharedRes5ROIHeads runs an undilated res5
SHARED MODEL.ROI_BOX_HEAD.NUM_FC 2 | NUM_FC = 2 | but ResNeXtSharedRes5ROIHeads has no box head
FPN MODEL.RESNETS.DEFORM_ON_PER_STAGE [True,True] | has 2 entries; write True or False for each
FPN MODEL.RESNETS.DEFORM_ON_PER_STAGE [0,1,1,1] | every entry has to be True or False
FPN MODEL.RESNETS.DEFORM_ON_PER_STAGE [True,False,False,False] MODEL.RESNETS.DEFORM_NUM_GROUPS 3
  | the 64 channels of res2's deformable convolutions do not divide into 3 groups
FPN MODEL.RESNETS.DEFORM_NUM_GROUPS 0 | out of range | write a number from 1
FPN MODEL.FPN.IN_FEATURES [] | MODEL.FPN.IN_FEATURES = [] | write ['res2', 'res3', 'res4', 'res5']
FPN MODEL.FPN.IN_FEATURES ['res3','res5'] | ['res3', 'res5'] must be neighboring
FPN MODEL.FPN.IN_FEATURES ['res2','res3'] | end in 'res5'
FPN MODEL.RESNETS.OUT_FEATURES ['res2','res4','res5']
  | stand in MODEL.RESNETS.OUT_FEATURES = ['res2', 'res4'
FPN MODEL.FPN.IN_FEATURES ['res3','res5'] MODEL.RESNETS.OUT_FEATURES ['res2','res3','res5']
  | must be neighboring
FPN MODEL.RPN.IN_FEATURES ['p2','p7'] | MODEL.RPN.IN_FEATURES = ['p2', 'p7']
  | p2, p3, p4, p5, p6; choose
MODEL.RPN.IN_FEATURES ['p2'] | MODEL.RPN.IN_FEATURES = ['p2'] | build_resnet_backbone gives res4
MODEL.ROI_HEADS.IN_FEATURES [] | MODEL.ROI_HEADS.IN_FEATURES = [] | gives res4
MODEL.ANCHOR_GENERATOR.SIZES [32,64] | SIZES = [32, 64] | a list that holds one list, as [[32, 64]]
MODEL.ANCHOR_GENERATOR.SIZES [[32],[64]] | SIZES = [[32], [64]]
  | each of the 1 MODEL.RPN.IN_FEATURES
MODEL.ANCHOR_GENERATOR.SIZES [] | SIZES = []
MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS [[0.0,1.0]] | ASPECT_RATIOS = [[0.0, 1.0]] is out of range
MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS [[1e-300]] | = [[1e-300]] is out of range | from 0.001 to 1000
MODEL.ANCHOR_GENERATOR.SIZES [[-32]] | = [[-32]] is out of range; write a number from 1 to 100000
MODEL.RPN.IOU_LABELS [0,-1,0] | MODEL.RPN.IOU_LABELS = [0, -1, 0] | such as [0, -1, 1]
MODEL.RPN.IOU_LABELS [-1,-1,1] | MODEL.RPN.IOU_LABELS = [-1, -1, 1]: write 0 (background), then 1
MODEL.ROI_HEADS.IOU_LABELS [1,0] | MODEL.ROI_HEADS.IOU_LABELS = [1, 0] | for what overlaps most
RETINANET MODEL.RETINANET.IOU_LABELS [0,1,-1] | IOU_LABELS = [0, 1, -1] | for what overlaps most
RETINANET MODEL.RETINANET.IOU_THRESHOLDS [0.4,1.5] | [0.4, 1.5] is out of range | from 0.0 to 1.0
RETINANET MODEL.RETINANET.IOU_THRESHOLDS [0.5,0.4] | [0.5, 0.4] must rise
CASCADE MODEL.ROI_BOX_CASCADE_HEAD.IOUS (0.5,0.7,0.6) | IOUS = (0.5, 0.7, 0.6) falls | (0.5, 0.6, 0
MODEL.RPN.LOSS_WEIGHT -1.0 | MODEL.RPN.LOSS_WEIGHT = -1.0 is out of range; write 0.0 or more
MODEL.PIXEL_MEAN [1.0,1e999,1.0] | MODEL.PIXEL_MEAN = [1.0, inf, 1.0] is out of range
SOLVER.BIAS_LR_FACTOR 1e999 | SOLVER.BIAS_LR_FACTOR = inf is out of range
SOLVER.WEIGHT_DECAY_NORM -1.0 | SOLVER.WEIGHT_DECAY_NORM = -1.0 is out of range; write 0.0 or more
FPN MODEL.FPN.NORM GN MODEL.FPN.OUT_CHANNELS 40 | MODEL.FPN.NORM = 'GN' has 32 groups, which do
  not divide the 40 channels of MODEL.FPN.OUT_CHANNELS; write a multiple of 32
RETINANET MODEL.RETINANET.NORM GN MODEL.FPN.OUT_CHANNELS 48 | MODEL.RETINANET.NORM = 'GN' has 32
  | the 48 channels of MODEL.FPN.OUT_CHANNELS
FPN MODEL.ROI_BOX_HEAD.NORM GN MODEL.ROI_BOX_HEAD.NUM_CONV 1 MODEL.ROI_BOX_HEAD.CONV_DIM 24
  | the 24 channels of MODEL.ROI_BOX_HEAD.CONV_DIM
MODEL.RESNETS.NORM GN MODEL.RESNETS.WIDTH_PER_GROUP 24 | NORM = 'GN' has 32 groups
  | the 24 channels of MODEL.RESNETS.NUM_GROUPS times WIDTH_PER_GROUP
MODEL.RESNETS.NORM GN MODEL.RESNETS.STEM_OUT_CHANNELS 40 | 40 channels of MODEL.RESNETS.STEM_OUT
SOLVER.OPTIMIZER Lion | SOLVER.OPTIMIZER = 'Lion' is not supported; write 'SGD' or 'Adam' or 'AdamW'
SOLVER.NESTEROV True SOLVER.MOMENTUM 0.0 | MOMENTUM = 0.0 leaves no momentum | write False
FPN MODEL.ANCHOR_GENERATOR.SIZES [[32],[64,128]] | give [3, 6] anchors at different levels
  | the same number
MODEL.RPN.IOU_THRESHOLDS [0.7,0.3] | MODEL.RPN.IOU_THRESHOLDS = [0.7, 0.3] must rise | [0, -1, 1]
MODEL.RPN.IOU_THRESHOLDS [0.0,0.3] | must rise from above 0
MODEL.ROI_HEADS.IOU_THRESHOLDS [] | MODEL.ROI_HEADS.IOU_THRESHOLDS = []
MODEL.ROI_HEADS.IOU_LABELS [0,-1,1] | IOU_LABELS = [0, -1, 1] must be one longer
MODEL.ROI_HEADS.IOU_LABELS [0,2] | MODEL.ROI_HEADS.IOU_LABELS = [0, 2] | 1 (object)
MODEL.RPN.BBOX_REG_WEIGHTS (1.0,1.0) | MODEL.RPN.BBOX_REG_WEIGHTS = (1.0, 1.0)
  | four numbers above 0
MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS (1.0,1.0,0.0,1.0) | 0.0, 1.0) is out of range
MODEL.RPN.CONV_DIMS [] | MODEL.RPN.CONV_DIMS = [] | -1 for those of its input
MODEL.RPN.CONV_DIMS [0] | MODEL.RPN.CONV_DIMS = [0]
MODEL.RESNETS.OUT_FEATURES ['res4','res5'] MODEL.ROI_HEADS.IN_FEATURES ['res5']
  | MODEL.ROI_HEADS.IN_FEATURES = ['res5']
  | write ['res4'], or MODEL.ROI_HEADS.NAME: StandardROIHeads
MODEL.ROI_BOX_HEAD.NUM_FC 2 | NUM_FC = 2, NUM_CONV = 0, but Res5ROIHeads has no box head
  | StandardROIHeads
OURS MODEL.ROI_BOX_HEAD.NUM_FC 2 | NUM_FC = 2 | but ResNeXtRes5ROIHeads has no box head
OURS MODEL.RESNETS.RES5_DILATION 2 | but ResNeXtRes5ROIHeads runs an undilated res5
FPN OURS MODEL.ROI_HEADS.IN_FEATURES ['p4'] | but ResNeXtRes5ROIHeads continues res4
MODEL.ROI_HEADS.NAME StandardROIHeads | NAME = '', NUM_FC = 0 | FastRCNNConvFCHead | NUM_FC 2
CASCADE MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG False | CLS_AGNOSTIC_BBOX_REG = False, but
  | CascadeROIHeads hands one box of a region on | write True
CASCADE MODEL.ROI_BOX_CASCADE_HEAD.IOUS (0.5,0.6) | IOUS = (0.5, 0.6) and BBOX_REG_WEIGHTS = ((10.0,
  | one entry for each stage
CASCADE MODEL.ROI_BOX_CASCADE_HEAD.IOUS () | IOUS = () and | 10 stages at most
CASCADE MODEL.ROI_BOX_CASCADE_HEAD.IOUS (0.4,0.5,0.6) | IOUS = (0.4, 0.5, 0.6) begins with another
  | IOU_THRESHOLDS = [0.5] | the same first number in both
CASCADE MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS (1.0,1.0,1.0) | four numbers above 0 for each
CASCADE MODEL.ROI_BOX_HEAD.NUM_FC 0 | NUM_FC = 0 | but CascadeROIHeads needs a box head
HEAD MODEL.ROI_BOX_HEAD.NUM_FC 0 | NUM_FC = 0, NUM_CONV = 0 | NUM_FC 2
RPN_ALONE MODEL.MASK_ON True | MASK_ON = True | 'ProposalNetwork' computes no masks; write False
MODEL.MASK_ON True MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION 28 | POOLER_RESOLUTION = 28 has no effect
  | write 14
MODEL.ANCHOR_GENERATOR.NAME TorchvisionAnchorGenerator | RPN.IN_FEATURES begins with 'res4'
  | DefaultAnchorGenerator
FPN MODEL.ANCHOR_GENERATOR.NAME TorchvisionAnchorGenerator MODEL.ANCHOR_GENERATOR.OFFSET 0.5
  | OFFSET = 0.5 | has none | write 0.0
INPUT.STRETCH (800,) | INPUT.STRETCH = (800,) | (height, width)
INPUT.STRETCH (800.0,800.0) | in whole pixels
INPUT.STRETCH (800,800) INPUT.SCALE_JITTER (0.1,2.0) | contradict each other
MODEL.LOAD_PROPOSALS True | LOAD_PROPOSALS = True | NAME = 'RPN' contradict
  | True and 'PrecomputedProposals'
MODEL.PROPOSAL_GENERATOR.NAME PrecomputedProposals | MODEL.LOAD_PROPOSALS = False | contradict
  | False and 'RPN'
RPN_ALONE MODEL.LOAD_PROPOSALS True | LOAD_PROPOSALS = True
  | 'ProposalNetwork' is there to compute proposals
RPN_ALONE GIVEN | NAME = 'PrecomputedProposals'
  | write False and 'RPN', or MODEL.META_ARCHITECTURE: GeneralizedRCNN
GIVEN DATASETS.TRAIN ('a','b') DATASETS.PROPOSAL_FILES_TRAIN ('a.pkl',)
  | PROPOSAL_FILES_TRAIN = ('a.pkl',) are 1 files for the 2 sets of DATASETS.TRAIN | one file a set
GIVEN DATASETS.TEST ('a',) | PROPOSAL_FILES_TEST = () are 0 files for the 1 sets of DATASETS.TEST
DATASETS.PROPOSAL_FILES_TEST ('a.pkl',) | TEST = ('a.pkl',) would not be read
  | MODEL.LOAD_PROPOSALS True
RPN_ALONE MODEL.RPN.IN_FEATURES ['p2'] | MODEL.RPN.IN_FEATURES = ['p2'] | gives res4
RPN_ALONE MODEL.RPN.IOU_THRESHOLDS [0.7,0.3] | must rise
GIVEN MODEL.ROI_HEADS.IN_FEATURES ['p2'] | MODEL.ROI_HEADS.IN_FEATURES = ['p2'] | gives res4
GIVEN MODEL.ROI_BOX_HEAD.NUM_FC 2 | Res5ROIHeads has no box head
"""


def make_config(*changes: Any) -> CfgNode:
    cfg = get_cfg()
    add_own_keys(cfg)
    cfg.merge_from_list(list(changes))
    return cfg


def shape_as(default: Any, number: float) -> Any:
    """Put a number where the default has its own: alone, or in a list, or in a list of lists."""
    if isinstance(default, list | tuple):
        return type(default)([shape_as(default[0], number) if default else number])
    return float(number) if isinstance(default, float) else number


def get_refusal(*changes: Any) -> str:
    with pytest.raises(ValueError) as caught:
        check(make_config(*changes))
    return str(caught.value)


# Values under which the keys of SUPPORTED_VALUES and RANGES have an effect, where the default
# leaves them out.
ON = {
    "MODEL.RETINANET.": RETINANET[:2],
    "MODEL.ROI_MASK_HEAD.NORM": ["MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NUM_CONV", 1],
    "MODEL.ROI_MASK_HEAD.POOLER": ["MODEL.MASK_ON", True, "MODEL.ROI_HEADS.NAME", HEAD[1]],
    "MODEL.ROI_MASK_HEAD.": ["MODEL.MASK_ON", True],
    "INPUT.MASK_FORMAT": ["MODEL.MASK_ON", True],
    "INPUT.CROP.": ["INPUT.CROP.ENABLED", True],
    "MODEL.ROI_BOX_CASCADE_HEAD.": ["MODEL.ROI_HEADS.NAME", "CascadeROIHeads"],
    "MODEL.ROI_BOX_HEAD.FC_DIM": HEAD,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": [*HEAD, "MODEL.ROI_BOX_HEAD.NUM_CONV", 1],
    "MODEL.ROI_BOX_HEAD.NORM": [*HEAD, "MODEL.ROI_BOX_HEAD.NUM_CONV", 1],
    "MODEL.FPN.": FPN[:2],
    "MODEL.RESNETS.DEFORM_NUM": ["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, False, True, False]],
    "DATASETS.PRECOMPUTED_": ["MODEL.LOAD_PROPOSALS", True],
    "DATALOADER.REPEAT_": ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"],
    "SOLVER.BASE_LR_END": ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"],
    "SOLVER.NUM_DECAYS": ["SOLVER.LR_SCHEDULER_NAME", "WarmupStepWithFixedGammaLR"],
    "SOLVER.CLIP_GRADIENTS.": ["SOLVER.CLIP_GRADIENTS.ENABLED", True],
}


def switch_on(key: str) -> list[Any]:
    """List what gives a key its effect, as KEY VALUE pairs."""
    return next((changes for part, changes in ON.items() if key.startswith(part)), [])


class TestRefused:
    @pytest.mark.parametrize("key", SUPPORTED_VALUES)
    def test_another_value_than_the_supported_ones(self, key: str) -> None:
        supported = SUPPORTED_VALUES[key]
        first = supported[0]
        if isinstance(first, bool):
            other: Any = not first
        elif isinstance(first, (list, tuple)):
            other = type(first)([True] * 4 if first else ["something"])
        else:
            other = "something" if isinstance(first, str) else 77
        text = get_refusal(*switch_on(key), key, other)
        assert text.startswith(f"{key} = {other!r} is not supported; write ")
        assert all(repr(value) in text for value in supported)

    @pytest.mark.parametrize("key", RANGES)
    def test_a_number_out_of_its_range(self, key: str) -> None:
        low, high = RANGES[key]
        default = OWN_KEYS[key] if key in OWN_KEYS else get_value(get_cfg(), key)
        for bound, step in ((low, -1), (high, 1)):
            if np.isinf(bound):
                continue
            number = bound + step
            value = shape_as(default, number)
            text = get_refusal(*switch_on(key), key, value)
            assert text.startswith(f"{key} = {value!r} is out of range; write "), text
            assert text.endswith(
                f"write {low} or more" if np.isinf(high) else f" from {low} to {high}"
            )

    def test_what_is_not_a_number(self) -> None:
        assert "SOLVER.BASE_LR = nan is out of range" in get_refusal("SOLVER.BASE_LR", float("nan"))

    @pytest.mark.parametrize("case", read_table(CONTRADICTIONS))
    def test_a_contradiction(self, case: str) -> None:
        changes, *words = case.split(" | ")
        named = {"FPN": FPN, "HEAD": HEAD, "OURS": OURS, "SHARED": SHARED, "RPN_ALONE": RPN_ALONE}
        named |= {"GIVEN": GIVEN, "CASCADE": CASCADE, "RETINANET": RETINANET}
        text = get_refusal(*(word for name in changes.split() for word in named.get(name, [name])))
        assert [word for word in words if word not in text] == [], text

    def test_the_keys_of_a_part_that_is_not_there_say_nothing(self) -> None:
        """An RPN alone has no heads, Fast R-CNN no RPN: keys of the missing part are free."""
        heads = split("""MODEL.ROI_HEADS.IN_FEATURES ['p2'] MODEL.ROI_BOX_HEAD.NUM_FC 2
            MODEL.ROI_HEADS.IOU_THRESHOLDS [] MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS (1.0,)""")
        dilated = split("""MODEL.RESNETS.RES5_DILATION 2 MODEL.RESNETS.OUT_FEATURES ['res5']
            MODEL.RPN.IN_FEATURES ['res5']""")
        check(make_config(*RPN_ALONE, *heads, *dilated))
        rpn = """MODEL.RPN.IN_FEATURES ['p2'] MODEL.ANCHOR_GENERATOR.SIZES [[1],[2]]
            MODEL.RPN.CONV_DIMS [] MODEL.RPN.IOU_LABELS [] MODEL.RPN.BBOX_REG_WEIGHTS (1.0,)"""
        check(make_config(*GIVEN, *rpn.split()))
        check(make_config("MODEL.ROI_MASK_HEAD.NAME", "PointRendMaskHead"))
        assert "IN_FEATURES" in get_refusal(*heads) and "IN_FEATURES" in get_refusal(*rpn.split())

    def test_types_of_a_configuration_made_in_python(self) -> None:
        for key, value, words in (
            ("BASE_LR", "0.1", "SOLVER.BASE_LR = '0.1': a number with a decimal point is needed"),
            ("MAX_ITER", 1.5, "SOLVER.MAX_ITER = 1.5: a whole number is needed, such as 40000"),
            ("NESTEROV", 1, "SOLVER.NESTEROV = 1: True or False is needed"),
            ("STEPS", 100, "SOLVER.STEPS = 100: a list is needed"),
        ):
            cfg = get_cfg()
            cfg.SOLVER[key] = value
            with pytest.raises(ValueError, match=words):
                build_detector(cfg)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (key, value)
        for key, values in SUPPORTED_VALUES.items()
        if key.startswith("MODEL.") and len(values) > 1 and key != "MODEL.RESNETS.RES5_DILATION"
        for value in values
    ],
    ids=str,
)
def test_every_supported_value_of_the_model_builds(key: str, value: Any) -> None:
    of_pyramids = (
        "FPN" in key,
        "fpn" in str(value),
        "BOX_HEAD" in key,
        "Torchvision" in str(value),
    )
    base = FPN if any(of_pyramids) else []
    base = [] if (key, value) == ("MODEL.ROI_BOX_HEAD.NAME", "") else base
    base = HEAD if key == "MODEL.ROI_HEADS.NAME" and "StandardROIHeads" in value else base
    base = CASCADE if "Cascade" in str(value) else base
    base = GIVEN if value == "PrecomputedProposals" else base
    base = RETINANET if "RETINANET" in key or value == "RetinaNet" else base
    shape = split("""MODEL.RESNETS.DEPTH 26 MODEL.RESNETS.RES2_OUT_CHANNELS 32
        MODEL.RESNETS.STEM_OUT_CHANNELS 32 MODEL.FPN.OUT_CHANNELS 32
        MODEL.ROI_BOX_HEAD.CONV_DIM 32""")
    with torch.device("meta"):
        assert build_detector(make_config(*base, *shape, key, value)) is not None


class Recording(CfgNode):
    """A configuration that notes the keys that are read from it, by attribute or by name."""

    def __getitem__(self, name: str) -> Any:  # by which CfgNode finds an attribute too
        value = super().__getitem__(name)
        if not isinstance(value, CfgNode):
            READ.add(self.__dict__.get("prefix", "") + name)
        return value

    def get(self, name: str, default: Any = None) -> Any:
        try:
            return self[name]
        except KeyError:
            return default


READ: set[str] = set()


def make_recording(cfg: CfgNode, prefix: str = "") -> Recording:
    copy = Recording()
    copy.__dict__["prefix"] = prefix
    for name, value in cfg.items():
        inner = make_recording(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else value
        dict.__setitem__(copy, name, inner)
    return copy


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Two images of noise with a box each."""
    monkeypatch.setattr(coco, "_registered", {})
    drawn = np.random.default_rng(0).integers(0, 255, (2, 48, 64, 3), dtype=np.uint8)
    images = [{"id": i, "file_name": f"{i}.png", "height": 48, "width": 64} for i in (1, 2)]
    for entry, pixels in zip(images, drawn):
        Image.fromarray(pixels).save(tmp_path / str(entry["file_name"]))
    box = {"category_id": 1, "bbox": [8, 8, 20, 20], "area": 400, "iscrowd": 0}
    content = {
        "images": images,
        "annotations": [{"id": i, "image_id": i, **box} for i in (1, 2)],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    coco.register_coco("two_images", tmp_path / "boxes.json", tmp_path)
    yield "two_images"


def test_every_key_is_read_or_has_one_value(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every key is read by training, evaluation or prediction, or limited to one value."""
    READ.clear()
    # So that the handlers of the training go.
    monkeypatch.setattr(logging.getLogger("resnext_det"), "handlers", [])
    monkeypatch.setattr(build, "check", lambda cfg: None)  # it reads everything, and honors nothing
    weights = str(tmp_path / "first" / "model_final.pth")
    common = [*TINY, "DATASETS.TRAIN", (dataset,), "DATASETS.TEST", (dataset,)]
    common += split("""MODEL.ROI_HEADS.NUM_CLASSES 1 MODEL.DEVICE cpu DATALOADER.NUM_WORKERS 0
        SOLVER.IMS_PER_BATCH 1 SOLVER.MAX_ITER 1 SOLVER.BASE_LR 0.00001
        INPUT.MIN_SIZE_TRAIN (48,) INPUT.MIN_SIZE_TEST 48
        MODEL.RPN.POST_NMS_TOPK_TRAIN 8 MODEL.RPN.POST_NMS_TOPK_TEST 8""")
    clip = split("SOLVER.CLIP_GRADIENTS.ENABLED True SOLVER.CLIP_GRADIENTS.CLIP_TYPE norm")
    small = ["MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 2]
    first = make_config(*common, *FPN, *clip, "OUTPUT_DIR", str(tmp_path / "first"))
    engine.train(make_recording(first))
    deformable = ["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, False, True, False]]
    crop = ["INPUT.CROP.ENABLED", True]
    second = make_config(
        *common, *small, *deformable, *crop, "OUTPUT_DIR", str(tmp_path / "second")
    )
    engine.train(make_recording(second))
    given = {1: (np.array([[4, 4, 30, 30]], np.float32), np.ones(1, np.float32))}
    write_proposals(tmp_path / "given.pkl", {**given, 2: given[1]})
    file = (str(tmp_path / "given.pkl"),)
    files = ["DATASETS.PROPOSAL_FILES_TRAIN", file, "DATASETS.PROPOSAL_FILES_TEST", file]
    third = make_config(*common, *small, *GIVEN, *files, "OUTPUT_DIR", str(tmp_path / "given"))
    engine.train(make_recording(third))
    retinanet = ["MODEL.RETINANET.NUM_CLASSES", 1, "OUTPUT_DIR", str(tmp_path / "retinanet")]
    engine.train(make_recording(make_config(*common, *RETINANET, *retinanet)))
    changes = ["OUTPUT_DIR", str(tmp_path / "third"), "MODEL.WEIGHTS", weights]
    cfg = make_config(*common, *FPN, *changes)
    engine.evaluate(make_recording(cfg))
    Predictor(make_recording(cfg))(np.zeros((48, 64, 3), dtype=np.uint8))
    build_detector(make_recording(make_config(*common, *FPN, *CASCADE)))
    single = {key for key, values in SUPPORTED_VALUES.items() if len(values) == 1}
    tied = {"MODEL.ROI_BOX_HEAD.NAME"}  # the checks allow one value for each MODEL.ROI_HEADS.NAME
    keys = {*list_keys(get_cfg()), *OWN_KEYS}
    masks = make_recording(make_config(*FPN, "MODEL.MASK_ON", True))
    build.build_detector(masks)
    train_mapper(masks)
    assert keys - READ == (single | tied) - READ
    assert READ - keys == set()
