"""Tell which keys have no effect, as another key leaves out the part that would read them.

Only values that are known leave something out: a model that a user registers with detectron2 may
read any key.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fvcore.common.config import CfgNode

from resnext_det.config.names import (
    C4_HEADS,
    CASCADE_HEAD,
    FAST_CASCADE_HEAD,
    FAST_STANDARD_HEAD,
    PLAIN_BACKBONES,
    SHARED_C4_HEAD,
    STANDARD_HEAD,
)
from resnext_det.config.rules import collect_values


@dataclass(frozen=True)
class Switch:
    """Say when the keys of a part have no effect.

    Attributes:
        keys: a pattern of the part's keys.
        key: the key that decides.
        is_off: tells of its value whether it leaves the part out.
        remedy: what to write instead of a key of the part, whose last name is ``{leaf}``.
        twin: a key that is read instead. An override that says what the twin has is no mistake:
            scripts for several kinds of detector set both.
    """

    keys: str
    key: str
    is_off: Callable[[Any], bool]
    remedy: str = "leave it out"
    twin: str = ""


def _is_one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


def _need(keys: str, key: str, wanted: str, is_off: Callable[[Any], bool]) -> Switch:
    """Say which value of a key gives the keys of a part their effect."""
    return Switch(keys, key, is_off, f"write {key} {wanted} too, or leave it out")


def _write_twin(keys: str, key: str, twin: str, *values: str) -> Switch:
    """Say which key is read instead of those of a part, under some values of a key."""
    return Switch(keys, key, _is_one_of(*values), f"write {twin}, or leave it out", twin)


_META, _HEADS = "MODEL.META_ARCHITECTURE", "MODEL.ROI_HEADS.NAME"
_OF_REGIONS = r"MODEL\.ROI_\w+\..*"
_OF_RETINANET_TOO = (
    "IN_FEATURES|IOU_THRESHOLDS|IOU_LABELS|BBOX_REG_LOSS_TYPE|BBOX_REG_WEIGHTS|NORM"
    "|NUM_CLASSES|SCORE_THRESH_TEST|NMS_THRESH_TEST"
)
_SCHEDULE = "SOLVER.LR_SCHEDULER_NAME"
_STEPS, _COSINE, _EVEN = "WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"

SWITCHES = (
    _write_twin(
        rf"MODEL\.(ROI_HEADS|ROI_BOX_HEAD|RPN)\.({_OF_RETINANET_TOO})",
        _META,
        "MODEL.RETINANET.{leaf}",
        "RetinaNet",
    ),
    Switch(
        rf"{_OF_REGIONS}|MODEL\.RPN\..*|MODEL\.PROPOSAL_GENERATOR\.MIN_SIZE",
        _META,
        _is_one_of("RetinaNet"),
    ),
    Switch(
        rf"{_OF_REGIONS}|TEST\.DETECTIONS_PER_IMAGE",
        _META,
        _is_one_of("ProposalNetwork"),
    ),
    _write_twin(
        r"MODEL\.RETINANET\.(NUM_CLASSES|SCORE_THRESH_TEST|NMS_THRESH_TEST)",
        _META,
        "MODEL.ROI_HEADS.{leaf}",
        "GeneralizedRCNN",
        "PanopticFPN",
    ),
    Switch(
        r"MODEL\.RETINANET\..*",
        _META,
        _is_one_of("GeneralizedRCNN", "ProposalNetwork", "PanopticFPN", "SemanticSegmentor"),
        "leave it out, or begin with a configuration of a RetinaNet",
    ),
    Switch(
        r"MODEL\.(SEM_SEG_HEAD|PANOPTIC_FPN)\..*",
        _META,
        _is_one_of("GeneralizedRCNN", "ProposalNetwork", "RetinaNet"),
    ),
    Switch(
        r"MODEL\.(RPN|ANCHOR_GENERATOR)\..*|MODEL\.PROPOSAL_GENERATOR\.MIN_SIZE",
        "MODEL.PROPOSAL_GENERATOR.NAME",
        _is_one_of("PrecomputedProposals"),
    ),
    Switch(r"DATASETS\.PRECOMPUTED_\w*", "MODEL.LOAD_PROPOSALS", operator.not_),
    Switch(
        r"MODEL\.FPN\..*",
        "MODEL.BACKBONE.NAME",
        _is_one_of(*PLAIN_BACKBONES),
        "leave it out, or begin with a configuration of a pyramid (FPN)",
    ),
    _need(
        r"MODEL\.RESNETS\.DEFORM_(MODULATED|NUM_GROUPS)",
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE",
        "[False, True, True, True]",
        lambda stages: not any(stages),
    ),
    # Regions.
    Switch(
        r"MODEL\.ROI_BOX_CASCADE_HEAD\..*|MODEL\.ROI_BOX_HEAD\.(FC_DIM|CONV_DIM|NORM)",
        _HEADS,
        _is_one_of(*C4_HEADS, SHARED_C4_HEAD),
        "leave it out, or begin with a configuration of another kind of head",
    ),
    _need(
        r"MODEL\.ROI_BOX_CASCADE_HEAD\..*",
        _HEADS,
        f"{CASCADE_HEAD} and MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG True",
        _is_one_of(STANDARD_HEAD, FAST_STANDARD_HEAD),
    ),
    Switch(
        r"MODEL\.ROI_BOX_HEAD\.BBOX_REG_WEIGHTS",
        _HEADS,
        _is_one_of(CASCADE_HEAD, FAST_CASCADE_HEAD),
        "write those of each stage, MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS",
    ),
    _need(r"MODEL\.ROI_BOX_HEAD\.FC_DIM", "MODEL.ROI_BOX_HEAD.NUM_FC", "2", operator.not_),
    _need(
        r"MODEL\.ROI_BOX_HEAD\.(CONV_DIM|NORM)", "MODEL.ROI_BOX_HEAD.NUM_CONV", "4", operator.not_
    ),
    _need(
        r"MODEL\.ROI_BOX_HEAD\.FED_LOSS_\w*",
        "MODEL.ROI_BOX_HEAD.USE_FED_LOSS",
        "True",
        operator.not_,
    ),
    *(
        _need(
            rf"MODEL\.{head}\.POOLER_SAMPLING_RATIO",
            f"MODEL.{head}.POOLER_TYPE",
            "ROIAlignV2",
            _is_one_of("ROIPool"),
        )
        for head in ("ROI_BOX_HEAD", "ROI_MASK_HEAD")
    ),
    Switch(
        r"MODEL\.ROI_MASK_HEAD\.POOLER_\w*",
        _HEADS,
        _is_one_of(*C4_HEADS, SHARED_C4_HEAD),
        "write MODEL.ROI_BOX_HEAD.{leaf}, whose features masks share, or leave it out",
    ),
    Switch(r"INPUT\.MASK_FORMAT", _META, _is_one_of("RetinaNet", "ProposalNetwork")),
    _need(r"MODEL\.ROI_MASK_HEAD\..*|INPUT\.MASK_FORMAT", "MODEL.MASK_ON", "True", operator.not_),
    _need(r"MODEL\.ROI_MASK_HEAD\.NORM", "MODEL.ROI_MASK_HEAD.NUM_CONV", "4", operator.not_),
    _need(
        r"MODEL\.ROI_KEYPOINT_HEAD\..*|TEST\.KEYPOINT_OKS_SIGMAS",
        "MODEL.KEYPOINT_ON",
        "True",
        operator.not_,
    ),
    # Anchors and losses.
    Switch(
        r"MODEL\.ANCHOR_GENERATOR\.ANGLES",
        "MODEL.ANCHOR_GENERATOR.NAME",
        _is_one_of("DefaultAnchorGenerator"),
    ),
    *(
        _need(
            rf"MODEL\.{part}\.SMOOTH_L1_(LOSS_)?BETA",
            f"MODEL.{part}.BBOX_REG_LOSS_TYPE",
            "smooth_l1",
            _is_one_of("giou", "diou", "ciou"),
        )
        for part in ("RPN", "ROI_BOX_HEAD", "RETINANET")
    ),
    # Images.
    Switch(
        r"INPUT\.(MIN_SIZE_TRAIN|MIN_SIZE_TRAIN_SAMPLING|MAX_SIZE_TRAIN)",
        "INPUT.SCALE_JITTER",
        bool,
        "write INPUT.SCALE_JITTER_SIZE, or leave it out",
    ),
    Switch(
        r"INPUT\.(MIN|MAX)_SIZE_\w*",
        "INPUT.STRETCH",
        bool,
        "write the size in INPUT.STRETCH, or leave it out",
    ),
    Switch(r"INPUT\.MAX_SIZE_TEST", "INPUT.MIN_SIZE_TEST", _is_one_of(0)),
    Switch(r"INPUT\.MAX_SIZE_TRAIN", "INPUT.MIN_SIZE_TRAIN", _is_one_of((0,))),
    _need(r"INPUT\.CROP\.(TYPE|SIZE)", "INPUT.CROP.ENABLED", "True", operator.not_),
    _need(
        r"DATALOADER\.REPEAT_\w*",
        "DATALOADER.SAMPLER_TRAIN",
        "RepeatFactorTrainingSampler",
        _is_one_of("TrainingSampler", "RandomSubsetTrainingSampler"),
    ),
    # Training and tests.
    _need(r"SOLVER\.(MOMENTUM|NESTEROV)", "SOLVER.OPTIMIZER", "SGD", _is_one_of("Adam", "AdamW")),
    _need(r"SOLVER\.STEPS", _SCHEDULE, _STEPS, _is_one_of(_COSINE, _EVEN)),
    _need(r"SOLVER\.BASE_LR_END", _SCHEDULE, _COSINE, _is_one_of(_STEPS, _EVEN)),
    _need(r"SOLVER\.NUM_DECAYS", _SCHEDULE, _EVEN, _is_one_of(_STEPS, _COSINE)),
    Switch(r"SOLVER\.GAMMA", _SCHEDULE, _is_one_of(_COSINE)),
    _need(
        r"SOLVER\.(WARMUP_FACTOR|WARMUP_METHOD|RESCALE_INTERVAL)",
        "SOLVER.WARMUP_ITERS",
        "1000",
        operator.not_,
    ),
    _need(
        r"SOLVER\.CLIP_GRADIENTS\.(?!ENABLED).*",
        "SOLVER.CLIP_GRADIENTS.ENABLED",
        "True",
        operator.not_,
    ),
    _need(
        r"SOLVER\.CLIP_GRADIENTS\.NORM_TYPE",
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE",
        "norm",
        _is_one_of("value"),
    ),
    _need(r"TEST\.AUG\.(?!ENABLED).*", "TEST.AUG.ENABLED", "True", operator.not_),
    _need(r"TEST\.PRECISE_BN\.(?!ENABLED).*", "TEST.PRECISE_BN.ENABLED", "True", operator.not_),
)
"""The keys of every part that may be left out, with the key that decides; the first one is told."""


def list_off(values: Mapping[str, Any]) -> Iterator[Switch]:
    """List the switches that leave a part out, by the values of dotted keys; others are unknown."""
    return (each for each in SWITCHES if each.key in values and each.is_off(values[each.key]))


def compile_unused(values: Mapping[str, Any]) -> re.Pattern[str]:
    """Compile a pattern of the keys that have no effect under the values of dotted keys."""
    return re.compile("|".join(f"(?:{each.keys})" for each in list_off(values)) or "(?!)")


def find_switched_off(cfg: CfgNode) -> set[str]:
    """Find the keys of a configuration that have no effect in it."""
    values = collect_values(cfg)
    return set(filter(compile_unused(values).fullmatch, values))


def explain_no_effect(cfg: CfgNode, key: str) -> str | None:
    """Say why a key has no effect in a configuration, and what to write.

    Returns:
        None where the key has an effect, or a value that holds by its twin.
    """
    values, leaf = collect_values(cfg), key.rpartition(".")[2]
    for switch in list_off(values):
        if re.fullmatch(switch.keys, key):
            twin = switch.twin.format(leaf=leaf)
            if twin and values[twin] == values[key]:
                return None
            return f"{switch.key} = {values[switch.key]!r}; {switch.remedy.format(leaf=leaf)}"
    return None
