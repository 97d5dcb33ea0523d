"""What each key may hold by itself: its type, the values that are honoured, its range."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from fvcore.common.config import CfgNode

from resnext_det.architecture import DETECTION_DEPTHS
from resnext_det.config.defaults import get_cfg
from resnext_det.config.keys import keys_of, value_of
from resnext_det.layers import NORMS

FPN_BACKBONES = ("build_resnext_fpn_backbone", "build_resnet_fpn_backbone")
PLAIN_BACKBONES = ("build_resnext_backbone", "build_resnet_backbone")
_LOSS_TYPES = ("smooth_l1", "giou", "diou", "ciou")
_TRAINED_NORMS = ("", "GN", "BN", "SyncBN")

SUPPORTED_VALUES: dict[str, tuple[Any, ...]] = {
    "VERSION": (2,),
    "VIS_PERIOD": (0,),
    "FLOAT32_PRECISION": ("", "highest", "high", "medium"),
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN", "ProposalNetwork"),
    "MODEL.MASK_ON": (False,),
    "MODEL.KEYPOINT_ON": (False,),
    "MODEL.BACKBONE.NAME": PLAIN_BACKBONES + FPN_BACKBONES,
    "MODEL.BACKBONE.FREEZE_AT": (0, 1, 2, 3, 4, 5),
    "MODEL.RESNETS.DEPTH": DETECTION_DEPTHS,
    "MODEL.RESNETS.NORM": tuple(name for name in NORMS if name),
    "MODEL.RESNETS.RES5_DILATION": (1, 2),
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": ([False, False, False, False],),
    "MODEL.RESNETS.DEFORM_MODULATED": (False,),
    "MODEL.RESNETS.DEFORM_NUM_GROUPS": (1,),
    "MODEL.FPN.NORM": _TRAINED_NORMS,
    "MODEL.FPN.FUSE_TYPE": ("sum", "avg"),
    "MODEL.PROPOSAL_GENERATOR.NAME": ("RPN", "PrecomputedProposals"),
    "MODEL.ANCHOR_GENERATOR.NAME": ("DefaultAnchorGenerator",),
    "MODEL.RPN.HEAD_NAME": ("StandardRPNHead",),
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": _LOSS_TYPES,
    "MODEL.ROI_HEADS.NAME": ("Res5ROIHeads", "StandardROIHeads"),
    "MODEL.ROI_BOX_HEAD.NAME": ("", "FastRCNNConvFCHead"),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": _LOSS_TYPES,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": ("ROIAlignV2", "ROIAlign", "ROIPool"),
    "MODEL.ROI_BOX_HEAD.NORM": _TRAINED_NORMS,
    "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": (False,),
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": (False,),
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": (False,),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    "INPUT.FORMAT": ("BGR", "RGB", "L"),
    "INPUT.CROP.ENABLED": (False,),
    "DATALOADER.SAMPLER_TRAIN": ("TrainingSampler", "RepeatFactorTrainingSampler"),
    "SOLVER.LR_SCHEDULER_NAME": ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("value", "norm"),
    "TEST.EXPECTED_RESULTS": ([],),
    "TEST.AUG.ENABLED": (False,),
    "TEST.PRECISE_BN.ENABLED": (False,),
}

# (lowest, highest) of each number, or of every number in a list, both allowed.
RANGES: dict[str, tuple[float, float]] = {
    "MODEL.RESNETS.NUM_GROUPS": (1, math.inf),
    "MODEL.RESNETS.WIDTH_PER_GROUP": (1, math.inf),
    "MODEL.RESNETS.STEM_OUT_CHANNELS": (1, math.inf),
    "MODEL.RESNETS.RES2_OUT_CHANNELS": (1, math.inf),
    "MODEL.FPN.OUT_CHANNELS": (1, math.inf),
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": (0, math.inf),
    "MODEL.ANCHOR_GENERATOR.OFFSET": (0.0, 0.999999),
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": (1, math.inf),
    "MODEL.RPN.POSITIVE_FRACTION": (0.0, 1.0),
    "MODEL.RPN.SMOOTH_L1_BETA": (0.0, math.inf),
    "MODEL.RPN.NMS_THRESH": (0.0, 1.0),
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": (1, math.inf),
    "MODEL.RPN.PRE_NMS_TOPK_TEST": (1, math.inf),
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": (1, math.inf),
    "MODEL.RPN.POST_NMS_TOPK_TEST": (1, math.inf),
    "MODEL.ROI_HEADS.NUM_CLASSES": (1, math.inf),
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": (1, math.inf),
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": (0.0, 1.0),
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": (0.0, 1.0),
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": (0.0, 1.0),
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": (0.0, math.inf),
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": (1, math.inf),
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": (0, math.inf),
    "MODEL.ROI_BOX_HEAD.NUM_FC": (0, math.inf),
    "MODEL.ROI_BOX_HEAD.FC_DIM": (1, math.inf),
    "MODEL.ROI_BOX_HEAD.NUM_CONV": (0, math.inf),
    "MODEL.ROI_BOX_HEAD.CONV_DIM": (1, math.inf),
    "INPUT.MIN_SIZE_TRAIN": (0, math.inf),
    "INPUT.MAX_SIZE_TRAIN": (1, math.inf),
    "INPUT.MIN_SIZE_TEST": (0, math.inf),
    "INPUT.MAX_SIZE_TEST": (1, math.inf),
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": (1, math.inf),
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": (1, math.inf),
    "DATALOADER.NUM_WORKERS": (0, math.inf),
    "DATALOADER.REPEAT_THRESHOLD": (0.0, math.inf),
    "SOLVER.IMS_PER_BATCH": (1, math.inf),
    "SOLVER.MAX_ITER": (1, math.inf),
    "SOLVER.STEPS": (1, math.inf),
    "SOLVER.BASE_LR": (0.0, math.inf),
    "SOLVER.MOMENTUM": (0.0, 1.0),
    "SOLVER.WEIGHT_DECAY": (0.0, math.inf),
    "SOLVER.WARMUP_ITERS": (0, math.inf),
    "SOLVER.CHECKPOINT_PERIOD": (1, math.inf),
    "SOLVER.REFERENCE_WORLD_SIZE": (0, math.inf),
    "TEST.EVAL_PERIOD": (0, math.inf),
    "TEST.DETECTIONS_PER_IMAGE": (-1, math.inf),
}

TYPE_WORDS = {
    "bool": "True or False",
    "int": "a whole number",
    "float": "a number with a decimal point",
    "number": "a number",
    "str": "text",
    "list": "a list",
    "tuple": "a list",
}
"""What a type is called in an error."""

# Numbers that may be None: the parameters concerned then take SOLVER.WEIGHT_DECAY.
_OPTIONAL = ("SOLVER.WEIGHT_DECAY_BIAS", "SOLVER.WEIGHT_DECAY_NORM")


def check_values(cfg: CfgNode) -> None:
    """Refuse a value of the wrong type, one that is not honoured, and one out of its range.

    Raises:
        ValueError: naming the key, its value and what to write.
    """
    defaults = get_cfg()
    for key in keys_of(defaults):
        check_value(cfg, key, value_of(defaults, key))


def check_value(cfg: CfgNode, key: str, default: Any) -> None:
    """Refuse a value that is not of its default's type, is not honoured, or is out of its range.

    Raises:
        ValueError: naming the key, its value and what to write.
    """
    value = value_of(cfg, key)
    _check_type(key, value, default)
    if not is_supported(key, value):
        words = " or ".join(repr(choice) for choice in SUPPORTED_VALUES[key])
        raise ValueError(f"{key} = {value!r} is not supported; write {words}")
    if key in RANGES:
        low, high = RANGES[key]
        if not all(low <= number <= high for number in _elements(value)):
            bounds = f"{low} or more" if math.isinf(high) else f"a number from {low} to {high}"
            raise ValueError(f"{key} = {value!r} is out of range; write {bounds}")


def is_supported(key: str, value: Any) -> bool:
    """Whether the value is among those that the portable engine honours; every one is, where they are not listed."""
    supported = SUPPORTED_VALUES.get(key, (value,))
    return (type(supported[0])(value) if isinstance(value, (list, tuple)) else value) in supported


def _check_type(key: str, value: Any, default: Any) -> None:
    if key in _OPTIONAL:
        if value is not None and _kind(value) != "number":
            raise ValueError(f"{key} = {value!r}: write a number, or None for that of SOLVER.WEIGHT_DECAY")
        return
    if value is None:
        raise ValueError(f"{key} has no value; write one, such as {default!r}, or leave the key out")
    if _kind(value) != _kind(default) or (type(default) is int and not isinstance(value, int)):
        raise ValueError(
            f"{key} = {value!r}: {TYPE_WORDS[type(default).__name__]} is needed, such as {default!r}"
        )
    if isinstance(default, (list, tuple)):
        kind = next(map(_kind, _elements(default)), "str")
        wrong = [element for element in _elements(value) if _kind(element) != kind]
        if wrong:
            raise ValueError(
                f"{key} = {value!r} holds {wrong[0]!r}, and every entry has to be {TYPE_WORDS[kind]}"
            )


def _kind(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "list"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number"
    return type(value).__name__


def _elements(value: Any) -> Iterator[Any]:
    """What a list holds, also in lists within it; a value that is no list is its own element."""
    if isinstance(value, (list, tuple)):
        for element in value:
            yield from _elements(element)
    else:
        yield value
