"""List the supported values and the range of each key of a detector's configuration."""

from __future__ import annotations

import math
from typing import Any

from fvcore.common.config import CfgNode

from resnext_det.architecture import DETECTION_DEPTHS
from resnext_det.config.augmentation import CROPS, EXAMPLES
from resnext_det.config.detection import OWN_KEYS, get_cfg
from resnext_det.config.names import (
    C4_HEADS,
    EXACT_HEADS,
    FPN_BACKBONES,
    PLAIN_BACKBONES,
    RPN_HEAD,
    SHARED_C4_HEAD,
    SPARSE_RPN_HEAD,
    TORCHVISION_ANCHORS,
)
from resnext_det.config.rules import Rules, get_value, list_keys, spread_ranges
from resnext_det.config.switches import find_switched_off
from resnext_det.layers import NORMS

_LOSS_TYPES = ("smooth_l1", "giou", "diou", "ciou")
_TRAINED_NORMS = ("", "GN", "BN", "SyncBN")

SUPPORTED_VALUES: dict[str, tuple[Any, ...]] = {
    "VERSION": (2,),
    "VIS_PERIOD": (0,),
    "FLOAT32_PRECISION": ("", "highest", "high", "medium"),
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN", "ProposalNetwork", "RetinaNet"),
    "MODEL.KEYPOINT_ON": (False,),
    "MODEL.BACKBONE.NAME": PLAIN_BACKBONES + FPN_BACKBONES,
    "MODEL.RESNETS.DEPTH": DETECTION_DEPTHS,
    "MODEL.RESNETS.NORM": tuple(name for name in NORMS if name),
    "MODEL.RESNETS.RES5_DILATION": (1, 2),
    "MODEL.FPN.NORM": _TRAINED_NORMS,
    "MODEL.FPN.FUSE_TYPE": ("sum", "avg"),
    "MODEL.PROPOSAL_GENERATOR.NAME": ("RPN", "PrecomputedProposals"),
    "MODEL.ANCHOR_GENERATOR.NAME": ("DefaultAnchorGenerator", TORCHVISION_ANCHORS),
    "MODEL.RPN.HEAD_NAME": (RPN_HEAD, SPARSE_RPN_HEAD),
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": _LOSS_TYPES,
    "MODEL.RETINANET.NORM": _TRAINED_NORMS,
    "MODEL.RETINANET.BBOX_REG_LOSS_TYPE": _LOSS_TYPES,
    "MODEL.ROI_HEADS.NAME": (
        *(*C4_HEADS, SHARED_C4_HEAD),
        *(name for pair in EXACT_HEADS.items() for name in reversed(pair)),
    ),
    "MODEL.ROI_BOX_HEAD.NAME": ("", "FastRCNNConvFCHead"),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": _LOSS_TYPES,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": ("ROIAlignV2", "ROIAlign", "ROIPool"),
    "MODEL.ROI_BOX_HEAD.NORM": _TRAINED_NORMS,
    "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": (False,),
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": (False,),
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": (False,),
    "MODEL.ROI_MASK_HEAD.NAME": ("MaskRCNNConvUpsampleHead",),
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": ("ROIAlignV2", "ROIAlign", "ROIPool"),
    "MODEL.ROI_MASK_HEAD.NORM": _TRAINED_NORMS,
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    "INPUT.FORMAT": ("BGR", "RGB", "L"),
    "INPUT.MASK_FORMAT": ("polygon", "bitmask"),
    "INPUT.CROP.TYPE": CROPS,
    "DATALOADER.SAMPLER_TRAIN": ("TrainingSampler", "RepeatFactorTrainingSampler"),
    "SOLVER.LR_SCHEDULER_NAME": (
        "WarmupMultiStepLR",
        "WarmupCosineLR",
        "WarmupStepWithFixedGammaLR",
    ),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("value", "norm"),
    "TEST.EXPECTED_RESULTS": ([],),
    "TEST.AUG.ENABLED": (False,),
    "TEST.PRECISE_BN.ENABLED": (False,),
}

# Far beyond what is trained; what is over them would take all memory, or wait for ever.
MOST_CHANNELS = 8192
MOST_CLASSES = 1_000_000
MOST_PIXELS = 16_384  # of the shorter side
MOST_IMAGES = 100_000  # of a batch
MOST_WORKERS = 1000

_WITH_DELTAS = ("RPN", "ROI_BOX_HEAD", "ROI_BOX_CASCADE_HEAD", "RETINANET")
_TOPK = "PRE_NMS_TOPK_TRAIN PRE_NMS_TOPK_TEST POST_NMS_TOPK_TRAIN POST_NMS_TOPK_TEST"
RANGES = spread_ranges(
    (
        1,
        MOST_CHANNELS,
        "MODEL.RESNETS",
        "NUM_GROUPS WIDTH_PER_GROUP STEM_OUT_CHANNELS RES2_OUT_CHANNELS DEFORM_NUM_GROUPS",
    ),
    (-1e6, 1e6, "MODEL", "PIXEL_MEAN"),
    (1e-6, 1e6, "MODEL", "PIXEL_STD"),  # images are divided by it
    (1, MOST_CHANNELS, "MODEL.FPN", "OUT_CHANNELS"),
    (0, math.inf, "MODEL.PROPOSAL_GENERATOR", "MIN_SIZE"),
    (0.0, 0.999999, "MODEL.ANCHOR_GENERATOR", "OFFSET"),
    (1, 100_000, "MODEL.ANCHOR_GENERATOR", "SIZES"),
    (0.001, 1000.0, "MODEL.ANCHOR_GENERATOR", "ASPECT_RATIOS"),
    (1, math.inf, "MODEL.RPN", f"BATCH_SIZE_PER_IMAGE {_TOPK}"),
    (0.0, 1.0, "MODEL.RPN", "POSITIVE_FRACTION NMS_THRESH IOU_THRESHOLDS"),
    (0.0, math.inf, "MODEL.RPN", "SMOOTH_L1_BETA LOSS_WEIGHT BBOX_REG_LOSS_WEIGHT"),
    *((1e-6, 1e6, f"MODEL.{part}", "BBOX_REG_WEIGHTS") for part in _WITH_DELTAS),
    (1, MOST_CLASSES, "MODEL.ROI_HEADS", "NUM_CLASSES"),
    (1, MOST_CLASSES, "MODEL.RETINANET", "NUM_CLASSES"),
    (1, 100, "MODEL.RETINANET", "NUM_CONVS"),
    (1, math.inf, "MODEL.RETINANET", "TOPK_CANDIDATES_TEST"),
    (0.0, 1.0, "MODEL.RETINANET", "SCORE_THRESH_TEST NMS_THRESH_TEST IOU_THRESHOLDS"),
    (0.0, math.inf, "MODEL.RETINANET", "FOCAL_LOSS_GAMMA SMOOTH_L1_LOSS_BETA"),
    (1, math.inf, "MODEL.ROI_HEADS", "BATCH_SIZE_PER_IMAGE"),
    (0.0, 1.0, "MODEL.ROI_HEADS", "POSITIVE_FRACTION SCORE_THRESH_TEST NMS_THRESH_TEST"),
    (0.0, 1.0, "MODEL.ROI_HEADS", "IOU_THRESHOLDS"),
    (0.0, math.inf, "MODEL.ROI_BOX_HEAD", "SMOOTH_L1_BETA BBOX_REG_LOSS_WEIGHT"),
    (1, MOST_CHANNELS, "MODEL.ROI_BOX_HEAD", "FC_DIM CONV_DIM"),
    (0.0, 1.0, "MODEL.ROI_BOX_CASCADE_HEAD", "IOUS"),
    (1, 256, "MODEL.ROI_BOX_HEAD", "POOLER_RESOLUTION"),
    (0, 100, "MODEL.ROI_BOX_HEAD", "POOLER_SAMPLING_RATIO NUM_FC NUM_CONV"),
    (1, MOST_CHANNELS, "MODEL.ROI_MASK_HEAD", "CONV_DIM"),
    (1, 256, "MODEL.ROI_MASK_HEAD", "POOLER_RESOLUTION"),
    (0, 100, "MODEL.ROI_MASK_HEAD", "POOLER_SAMPLING_RATIO NUM_CONV"),
    (0, MOST_PIXELS, "INPUT", "MIN_SIZE_TRAIN MIN_SIZE_TEST"),
    (1, MOST_PIXELS, "INPUT", "SCALE_JITTER_SIZE STRETCH"),
    (0.001, 1000.0, "INPUT", "SCALE_JITTER"),
    (1, 100_000, "INPUT", "MAX_SIZE_TRAIN MAX_SIZE_TEST"),  # of the longer side: no limit
    (1, math.inf, "DATASETS", "PRECOMPUTED_PROPOSAL_TOPK_TRAIN PRECOMPUTED_PROPOSAL_TOPK_TEST"),
    (0, MOST_WORKERS, "DATALOADER", "NUM_WORKERS"),
    (0.0, math.inf, "DATALOADER", "REPEAT_THRESHOLD"),
    (1, MOST_IMAGES, "SOLVER", "IMS_PER_BATCH"),
    (1, math.inf, "SOLVER", "MAX_ITER STEPS CHECKPOINT_PERIOD NUM_DECAYS"),
    (0, math.inf, "SOLVER", "WARMUP_ITERS REFERENCE_WORLD_SIZE CHECKPOINT_KEEP"),
    (0.0, math.inf, "SOLVER", "BASE_LR BASE_LR_END BIAS_LR_FACTOR GAMMA WARMUP_FACTOR"),
    (0.0, math.inf, "SOLVER", "WEIGHT_DECAY WEIGHT_DECAY_BIAS WEIGHT_DECAY_NORM"),
    (0.0, 1.0, "SOLVER", "MOMENTUM"),
    (0, math.inf, "TEST", "EVAL_PERIOD LOSS_PERIOD PATIENCE"),
    (-1, math.inf, "TEST", "DETECTIONS_PER_IMAGE"),
    (1, MOST_IMAGES, "TEST", "IMS_PER_BATCH"),
)

_OPTIONAL = dict.fromkeys(
    ("SOLVER.WEIGHT_DECAY_BIAS", "SOLVER.WEIGHT_DECAY_NORM"), "SOLVER.WEIGHT_DECAY"
)

_ELSEWHERE = "is trained and tested by detectron2 alone: install it, and write --engine detectron2"
_REASONS = {
    "MODEL.META_ARCHITECTURE": f"semantic or panoptic segmentation {_ELSEWHERE}",
    "MODEL.KEYPOINT_ON": f"a head of keypoints {_ELSEWHERE}",
    "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": f"a mask head on predicted boxes {_ELSEWHERE}",
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": f"the federated loss, LVIS's, {_ELSEWHERE}",
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": f"a sigmoid for each class of a region {_ELSEWHERE}",
    "MODEL.ANCHOR_GENERATOR.NAME": f"a detector of rotated boxes {_ELSEWHERE}",
    "TEST.AUG.ENABLED": "an image is tested once, at INPUT.MIN_SIZE_TEST",
    "TEST.PRECISE_BN.ENABLED": "a test takes the statistics that the training has kept",
    "TEST.EXPECTED_RESULTS": "the numbers of a test are not compared with expected ones",
    "VIS_PERIOD": "TensorBoard gets pictures at each evaluation, see TEST.EVAL_PERIOD",
}

_OWN_VALUES = {"SOLVER.OPTIMIZER": ("SGD", "Adam", "AdamW")}
_RULES = Rules({**SUPPORTED_VALUES, **_OWN_VALUES}, RANGES, _OPTIONAL, _REASONS)

check_value = _RULES.check_value
is_supported = _RULES.is_supported


_ONE_NAME = {
    **{name: name.replace("resnet", "resnext") for name in (*PLAIN_BACKBONES, *FPN_BACKBONES)},
    **dict.fromkeys((*C4_HEADS, SHARED_C4_HEAD), C4_HEADS[0]),
    **EXACT_HEADS,
    SPARSE_RPN_HEAD: RPN_HEAD,
}


def unify_names(value: Any) -> Any:
    """Replace the name of a faster head by the exact one's, and of detectron2's backbone by ours.

    Other values are returned as they are. What has one name here computes the same, within
    rounding, with the same weights.
    """
    return _ONE_NAME.get(value, value) if isinstance(value, str) else value


def find_unsupported(cfg: CfgNode) -> list[str]:
    """Find the keys with a value that detectron2 alone may honor."""
    switched_off = find_switched_off(cfg)
    return [
        key
        for key in SUPPORTED_VALUES
        if key not in switched_off and not is_supported(key, get_value(cfg, key))
    ]


def check_values(cfg: CfgNode) -> None:
    """Refuse values of the wrong type, unsupported ones, and ones out of range.

    Keys that have no effect may have any value, as in detectron2's own files.

    Raises:
        ValueError: naming the key, its value and what to write.
    """
    defaults, switched_off = get_cfg(), find_switched_off(cfg)
    for key in list_keys(defaults):
        if key not in switched_off:
            _RULES.check_value(cfg, key, get_value(defaults, key))
    check_own_values(cfg)


def check_own_values(cfg: CfgNode) -> None:
    """Check those of ``OWN_KEYS`` that a configuration has, as ``check_values``."""
    for key in sorted(OWN_KEYS.keys() & set(list_keys(cfg))):
        _RULES.check_value(cfg, key, EXAMPLES.get(key, OWN_KEYS[key]))


def check_cosine(solver: CfgNode) -> None:
    """Refuse a cosine that does not fall from a positive learning rate to a lower one.

    Raises:
        ValueError: naming both keys, their values and what to write.
    """
    base, end = solver.BASE_LR, solver.BASE_LR_END
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR" and not (0 <= end <= base and base > 0):
        raise ValueError(
            f"SOLVER.LR_SCHEDULER_NAME = 'WarmupCosineLR' falls from SOLVER.BASE_LR = {base} to "
            f"SOLVER.BASE_LR_END = {end}; write a BASE_LR above 0, and an end from 0 to it"
        )
