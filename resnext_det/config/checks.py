"""What a configuration may say: supported values, and values that contradict each other.

A setting that would not be honoured is refused, with the key, its value and what to write instead. Nothing is ignored.
"""

from __future__ import annotations

import math
from typing import Any

from fvcore.common.config import CfgNode

_FPN_BACKBONES = ("build_resnext_fpn_backbone", "build_resnet_fpn_backbone")
_PLAIN_BACKBONES = ("build_resnext_backbone", "build_resnet_backbone")
_LOSS_TYPES = ("smooth_l1", "giou", "diou", "ciou")
_NORMS = ("FrozenBN", "BN", "SyncBN", "GN", "FrozenStatisticsBN")

SUPPORTED_VALUES: dict[str, tuple[Any, ...]] = {
    "VERSION": (2,),
    "VIS_PERIOD": (0,),
    "FLOAT32_PRECISION": ("", "highest", "high", "medium"),
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN",),
    "MODEL.MASK_ON": (False,),
    "MODEL.KEYPOINT_ON": (False,),
    "MODEL.LOAD_PROPOSALS": (False,),
    "MODEL.BACKBONE.NAME": _PLAIN_BACKBONES + _FPN_BACKBONES,
    "MODEL.BACKBONE.FREEZE_AT": (0, 1, 2, 3, 4, 5),
    "MODEL.RESNETS.DEPTH": (26, 50, 101, 152, 200),
    "MODEL.RESNETS.NORM": _NORMS,
    "MODEL.RESNETS.RES5_DILATION": (1, 2),
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": ([False, False, False, False],),
    "MODEL.RESNETS.DEFORM_MODULATED": (False,),
    "MODEL.RESNETS.DEFORM_NUM_GROUPS": (1,),
    "MODEL.FPN.NORM": ("", "GN", "BN", "SyncBN"),
    "MODEL.FPN.FUSE_TYPE": ("sum", "avg"),
    "MODEL.PROPOSAL_GENERATOR.NAME": ("RPN",),
    "MODEL.ANCHOR_GENERATOR.NAME": ("DefaultAnchorGenerator",),
    "MODEL.RPN.HEAD_NAME": ("StandardRPNHead",),
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": _LOSS_TYPES,
    "MODEL.ROI_HEADS.NAME": ("Res5ROIHeads", "StandardROIHeads"),
    "MODEL.ROI_BOX_HEAD.NAME": ("", "FastRCNNConvFCHead"),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": _LOSS_TYPES,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": ("ROIAlignV2", "ROIAlign", "ROIPool"),
    "MODEL.ROI_BOX_HEAD.NORM": ("", "GN", "BN", "SyncBN"),
    "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": (False,),
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": (False,),
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": (False,),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    "INPUT.FORMAT": ("BGR", "RGB", "L"),
    "INPUT.CROP.ENABLED": (False,),
    "DATASETS.PROPOSAL_FILES_TRAIN": ((),),
    "DATASETS.PROPOSAL_FILES_TEST": ((),),
    "DATALOADER.SAMPLER_TRAIN": ("TrainingSampler", "RepeatFactorTrainingSampler"),
    "SOLVER.LR_SCHEDULER_NAME": ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("value", "norm"),
    "TEST.AUG.ENABLED": (False,),
    "TEST.PRECISE_BN.ENABLED": (False,),
}

# (lower bound, upper bound), both allowed.
RANGES: dict[str, tuple[float, float]] = {
    "MODEL.RESNETS.NUM_GROUPS": (1, 4096),
    "MODEL.RESNETS.WIDTH_PER_GROUP": (1, 4096),
    "MODEL.RESNETS.STEM_OUT_CHANNELS": (1, 4096),
    "MODEL.RESNETS.RES2_OUT_CHANNELS": (1, 4096),
    "MODEL.ANCHOR_GENERATOR.OFFSET": (0.0, 0.999999),
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": (1, math.inf),
    "MODEL.RPN.POSITIVE_FRACTION": (0.0, 1.0),
    "MODEL.RPN.NMS_THRESH": (0.0, 1.0),
    "MODEL.ROI_HEADS.NUM_CLASSES": (1, math.inf),
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": (1, math.inf),
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": (0.0, 1.0),
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": (0.0, 1.0),
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": (1, 4096),
    "SOLVER.IMS_PER_BATCH": (1, math.inf),
    "SOLVER.MAX_ITER": (1, math.inf),
    "SOLVER.BASE_LR": (0.0, math.inf),
    "SOLVER.CHECKPOINT_PERIOD": (1, math.inf),
    "TEST.EVAL_PERIOD": (0, math.inf),
    "DATALOADER.NUM_WORKERS": (0, 4096),
}


def check(cfg: CfgNode) -> None:
    """Refuse what would not be honoured, and what contradicts itself.

    Raises:
        ValueError: naming the key, its value and what is supported.
    """
    for key, supported in SUPPORTED_VALUES.items():
        value = value_of(cfg, key)
        if value not in supported:
            words = " or ".join(repr(choice) for choice in supported)
            raise ValueError(f"{key} = {value!r} is not supported; write {words}")
    for key, (low, high) in RANGES.items():
        value = value_of(cfg, key)
        if not low <= value <= high:
            raise ValueError(f"{key} = {value!r} is out of range; write a number from {low} to {high}")
    _check_input(cfg)
    _check_features(cfg)
    _check_matching(cfg)
    _check_box_head(cfg)


def value_of(cfg: CfgNode, key: str) -> Any:
    """The value under a dotted key."""
    node: Any = cfg
    for name in key.split("."):
        node = node[name]
    return node


def _check_input(cfg: CfgNode) -> None:
    channels = 1 if cfg.INPUT.FORMAT == "L" else 3
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        value = cfg.MODEL[key]
        if len(value) != channels:
            raise ValueError(
                f"MODEL.{key} = {value} has {len(value)} numbers where INPUT.FORMAT = {cfg.INPUT.FORMAT!r} has {channels} channels; "
                f"write {channels}"
            )
    if not all(std > 0 for std in cfg.MODEL.PIXEL_STD):
        raise ValueError(
            f"MODEL.PIXEL_STD = {cfg.MODEL.PIXEL_STD} must be above 0: the image is divided by it"
        )
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and len(sizes) != 2:
        raise ValueError(
            f"INPUT.MIN_SIZE_TRAIN = {sizes} with SAMPLING 'range' needs two numbers: (lowest, highest)"
        )


def feature_names(cfg: CfgNode) -> tuple[str, ...]:
    """The names of the feature maps that the configured backbone gives."""
    if cfg.MODEL.BACKBONE.NAME in _FPN_BACKBONES:
        levels = [f"p{name.removeprefix('res')}" for name in cfg.MODEL.FPN.IN_FEATURES]
        return (*levels, "p6") if "p5" in levels else tuple(levels)
    return tuple(cfg.MODEL.RESNETS.OUT_FEATURES)


def uses_fpn(cfg: CfgNode) -> bool:
    return cfg.MODEL.BACKBONE.NAME in _FPN_BACKBONES


def _check_features(cfg: CfgNode) -> None:
    if uses_fpn(cfg):
        known = [name for name in ("res2", "res3", "res4", "res5") if name in cfg.MODEL.RESNETS.OUT_FEATURES]
        wanted = list(cfg.MODEL.FPN.IN_FEATURES)
        if not wanted or wanted[-1] != "res5" or wanted != known[-len(wanted) :]:
            raise ValueError(
                f"MODEL.FPN.IN_FEATURES = {wanted} must be neighbouring stages that end in 'res5' and stand in MODEL.RESNETS.OUT_FEATURES "
                f"= {cfg.MODEL.RESNETS.OUT_FEATURES}; write ['res2', 'res3', 'res4', 'res5'] in both"
            )
        if cfg.MODEL.RESNETS.RES5_DILATION != 1:
            raise ValueError(
                "MODEL.RESNETS.RES5_DILATION = 2 leaves res5 at stride 16, and a pyramid needs stride 32; write 1"
            )
    given = feature_names(cfg)
    for key in ("MODEL.RPN.IN_FEATURES", "MODEL.ROI_HEADS.IN_FEATURES"):
        names = value_of(cfg, key)
        missing = [name for name in names if name not in given]
        if missing or not names:
            raise ValueError(f"{key} = {names}: the backbone gives {', '.join(given)}; choose among these")
    levels = len(cfg.MODEL.RPN.IN_FEATURES)
    counts = set()
    for key in ("SIZES", "ASPECT_RATIOS"):
        value = cfg.MODEL.ANCHOR_GENERATOR[key]
        if (
            not value
            or not all(isinstance(level, (list, tuple)) and level for level in value)
            or len(value) not in (1, levels)
        ):
            raise ValueError(
                f"MODEL.ANCHOR_GENERATOR.{key} = {value} must be one list, or one list for each of the {levels} MODEL.RPN.IN_FEATURES"
            )
    for level in range(levels):
        sizes, ratios = cfg.MODEL.ANCHOR_GENERATOR.SIZES, cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS
        counts.add(len(sizes[min(level, len(sizes) - 1)]) * len(ratios[min(level, len(ratios) - 1)]))
    if len(counts) > 1:
        raise ValueError(
            f"MODEL.ANCHOR_GENERATOR gives {sorted(counts)} anchors at different levels; give every level the same number"
        )


def _check_matching(cfg: CfgNode) -> None:
    for name in ("RPN", "ROI_HEADS"):
        thresholds, labels = cfg.MODEL[name].IOU_THRESHOLDS, cfg.MODEL[name].IOU_LABELS
        if (
            len(labels) != len(thresholds) + 1
            or sorted(thresholds) != list(thresholds)
            or not thresholds
            or thresholds[0] <= 0
        ):
            raise ValueError(
                f"MODEL.{name}.IOU_THRESHOLDS = {thresholds} must rise from above 0, and IOU_LABELS = {labels} must be one longer"
            )
        if not set(labels) <= {-1, 0, 1}:
            raise ValueError(
                f"MODEL.{name}.IOU_LABELS = {labels} may hold -1 (ignore), 0 (background) and 1 (object)"
            )


def _check_box_head(cfg: CfgNode) -> None:
    head, box = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD
    if head.NAME == "Res5ROIHeads":
        if cfg.MODEL.RESNETS.RES5_DILATION != 1:
            raise ValueError(
                "MODEL.RESNETS.RES5_DILATION = 2: Res5ROIHeads runs an undilated res5 on every region; write 1"
            )
        if len(head.IN_FEATURES) != 1:
            raise ValueError(
                f"MODEL.ROI_HEADS.IN_FEATURES = {head.IN_FEATURES}: Res5ROIHeads takes one feature map; write ['res4']"
            )
        if box.NAME or box.NUM_FC or box.NUM_CONV:
            raise ValueError(
                f"MODEL.ROI_BOX_HEAD.NAME = {box.NAME!r}, NUM_FC = {box.NUM_FC}, NUM_CONV = {box.NUM_CONV}: Res5ROIHeads has no box head; "
                "write '', 0 and 0, or MODEL.ROI_HEADS.NAME: StandardROIHeads"
            )
    elif not box.NAME or box.NUM_FC + box.NUM_CONV == 0:
        raise ValueError(
            f"MODEL.ROI_BOX_HEAD.NAME = {box.NAME!r}, NUM_FC = {box.NUM_FC}, NUM_CONV = {box.NUM_CONV}: StandardROIHeads needs a box head; "
            "write FastRCNNConvFCHead and, for example, NUM_FC 2"
        )
