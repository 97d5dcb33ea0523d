"""Define the configuration of a detector: the keys that are honored, with detectron2's defaults.

Names, types and values are those of ``detectron2.config.get_cfg()``, so that one YAML file serves
both engines. A key that is absent here is refused. A few more, ``OWN_KEYS``, are this project's.
"""

from __future__ import annotations

import logging
from typing import Any

from fvcore.common.config import CfgNode

from resnext_det.config.rules import get_value

logger = logging.getLogger(__name__)

OWN_KEYS: dict[str, Any] = {
    "INPUT.COLOR_JITTER": (),
    "INPUT.SCALE_JITTER": (),
    "INPUT.SCALE_JITTER_SIZE": 1024,
    "INPUT.STRETCH": (),
    "MODEL.RETINANET.AS_TORCHVISION": False,
    "SOLVER.CHECKPOINT_KEEP": 0,
    "SOLVER.OPTIMIZER": "SGD",
    "TEST.BEST_METRIC": "",
    "TEST.IMS_PER_BATCH": 1,
    "TEST.LOSS_PERIOD": 0,
    "TEST.PATIENCE": 0,
}
"""Keys that detectron2's own programs refuse, with their defaults, which ask for nothing."""

# Beginnings of detectron2's keys of parts that the key in the comment switches off here.
PARTS_SWITCHED_OFF = (
    "MODEL.ROI_KEYPOINT_HEAD.",  # MODEL.KEYPOINT_ON
    "MODEL.ROI_BOX_HEAD.FED_LOSS_",  # MODEL.ROI_BOX_HEAD.USE_FED_LOSS
    "MODEL.SEM_SEG_HEAD.",  # MODEL.META_ARCHITECTURE, as the next
    "MODEL.PANOPTIC_FPN.",
    "MODEL.ANCHOR_GENERATOR.ANGLES",  # MODEL.ANCHOR_GENERATOR.NAME
    "TEST.AUG.",  # TEST.AUG.ENABLED
    "TEST.PRECISE_BN.",  # TEST.PRECISE_BN.ENABLED
    "TEST.KEYPOINT_OKS_SIGMAS",  # MODEL.KEYPOINT_ON
    "GLOBAL.HACK",  # detectron2 itself does not read it
)


def _make_model() -> dict[str, Any]:
    return {
        "META_ARCHITECTURE": "GeneralizedRCNN",
        "DEVICE": "cuda",
        "WEIGHTS": "",
        "MASK_ON": False,
        "KEYPOINT_ON": False,
        "LOAD_PROPOSALS": False,
        # One number a channel, in the order of INPUT.FORMAT.
        "PIXEL_MEAN": [103.530, 116.280, 123.675],
        "PIXEL_STD": [1.0, 1.0, 1.0],
        "BACKBONE": {"NAME": "build_resnet_backbone", "FREEZE_AT": 2},
        "RESNETS": _make_resnets(),
        "FPN": {"IN_FEATURES": [], "OUT_CHANNELS": 256, "NORM": "", "FUSE_TYPE": "sum"},
        "PROPOSAL_GENERATOR": {"NAME": "RPN", "MIN_SIZE": 0},
        "ANCHOR_GENERATOR": {
            "NAME": "DefaultAnchorGenerator",
            "SIZES": [[32, 64, 128, 256, 512]],
            "ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
            "OFFSET": 0.0,
        },
        "RPN": _make_rpn(),
        "ROI_HEADS": {
            "NAME": "Res5ROIHeads",
            "NUM_CLASSES": 80,
            "IN_FEATURES": ["res4"],
            "IOU_THRESHOLDS": [0.5],
            "IOU_LABELS": [0, 1],
            "BATCH_SIZE_PER_IMAGE": 512,
            "POSITIVE_FRACTION": 0.25,
            "SCORE_THRESH_TEST": 0.05,
            "NMS_THRESH_TEST": 0.5,
            "PROPOSAL_APPEND_GT": True,
        },
        "ROI_BOX_HEAD": _make_roi_box_head(),
        "ROI_BOX_CASCADE_HEAD": {
            "BBOX_REG_WEIGHTS": (
                (10.0, 10.0, 5.0, 5.0),
                (20.0, 20.0, 10.0, 10.0),
                (30.0, 30.0, 15.0, 15.0),
            ),
            "IOUS": (0.5, 0.6, 0.7),
        },
        "ROI_MASK_HEAD": _make_roi_mask_head(),
        "RETINANET": _make_retinanet(),
    }


def _make_resnets() -> dict[str, Any]:
    return {
        "DEPTH": 50,
        "NUM_GROUPS": 1,
        "WIDTH_PER_GROUP": 64,
        "STEM_OUT_CHANNELS": 64,
        "RES2_OUT_CHANNELS": 256,
        "NORM": "FrozenBN",
        "STRIDE_IN_1X1": True,
        "RES5_DILATION": 1,
        "OUT_FEATURES": ["res4"],
        "DEFORM_ON_PER_STAGE": [False, False, False, False],
        "DEFORM_MODULATED": False,
        "DEFORM_NUM_GROUPS": 1,
    }


def _make_rpn() -> dict[str, Any]:
    return {
        "HEAD_NAME": "StandardRPNHead",
        "IN_FEATURES": ["res4"],
        "BOUNDARY_THRESH": -1,
        "IOU_THRESHOLDS": [0.3, 0.7],
        "IOU_LABELS": [0, -1, 1],
        "BATCH_SIZE_PER_IMAGE": 256,
        "POSITIVE_FRACTION": 0.5,
        "BBOX_REG_LOSS_TYPE": "smooth_l1",
        "BBOX_REG_LOSS_WEIGHT": 1.0,
        "BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
        "SMOOTH_L1_BETA": 0.0,
        "LOSS_WEIGHT": 1.0,
        "PRE_NMS_TOPK_TRAIN": 12000,
        "PRE_NMS_TOPK_TEST": 6000,
        "POST_NMS_TOPK_TRAIN": 2000,
        "POST_NMS_TOPK_TEST": 1000,
        "NMS_THRESH": 0.7,
        "CONV_DIMS": [-1],
    }


def _make_roi_box_head() -> dict[str, Any]:
    return {
        "NAME": "",
        "BBOX_REG_LOSS_TYPE": "smooth_l1",
        "BBOX_REG_LOSS_WEIGHT": 1.0,
        "BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
        "SMOOTH_L1_BETA": 0.0,
        "POOLER_RESOLUTION": 14,
        "POOLER_SAMPLING_RATIO": 0,
        "POOLER_TYPE": "ROIAlignV2",
        "NUM_FC": 0,
        "FC_DIM": 1024,
        "NUM_CONV": 0,
        "CONV_DIM": 256,
        "NORM": "",
        "CLS_AGNOSTIC_BBOX_REG": False,
        "TRAIN_ON_PRED_BOXES": False,
        "USE_FED_LOSS": False,
        "USE_SIGMOID_CE": False,
    }


def _make_roi_mask_head() -> dict[str, Any]:
    return {
        "NAME": "MaskRCNNConvUpsampleHead",
        "POOLER_RESOLUTION": 14,
        "POOLER_SAMPLING_RATIO": 0,
        "POOLER_TYPE": "ROIAlignV2",
        "NUM_CONV": 0,
        "CONV_DIM": 256,
        "NORM": "",
        "CLS_AGNOSTIC_MASK": False,
    }


def _make_retinanet() -> dict[str, Any]:
    return {
        "NUM_CLASSES": 80,
        "IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
        "NUM_CONVS": 4,
        "NORM": "",
        "PRIOR_PROB": 0.01,
        "IOU_THRESHOLDS": [0.4, 0.5],
        "IOU_LABELS": [0, -1, 1],
        "FOCAL_LOSS_ALPHA": 0.25,
        "FOCAL_LOSS_GAMMA": 2.0,
        "BBOX_REG_LOSS_TYPE": "smooth_l1",
        "BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
        "SMOOTH_L1_LOSS_BETA": 0.1,
        "SCORE_THRESH_TEST": 0.05,
        "TOPK_CANDIDATES_TEST": 1000,
        "NMS_THRESH_TEST": 0.5,
    }


def _make_solver() -> dict[str, Any]:
    return {
        "LR_SCHEDULER_NAME": "WarmupMultiStepLR",
        "MAX_ITER": 40000,
        "BASE_LR": 0.001,
        "BASE_LR_END": 0.0,
        "MOMENTUM": 0.9,
        "NESTEROV": False,
        "WEIGHT_DECAY": 0.0001,
        "WEIGHT_DECAY_NORM": 0.0,
        "WEIGHT_DECAY_BIAS": None,
        "BIAS_LR_FACTOR": 1.0,
        "GAMMA": 0.1,
        "STEPS": (30000,),
        "NUM_DECAYS": 3,
        "RESCALE_INTERVAL": False,
        "WARMUP_FACTOR": 1.0 / 1000,
        "WARMUP_ITERS": 1000,
        "WARMUP_METHOD": "linear",
        "CHECKPOINT_PERIOD": 5000,
        "IMS_PER_BATCH": 16,
        "REFERENCE_WORLD_SIZE": 0,
        "CLIP_GRADIENTS": {
            "ENABLED": False,
            "CLIP_TYPE": "value",
            "CLIP_VALUE": 1.0,
            "NORM_TYPE": 2.0,
        },
        "AMP": {"ENABLED": False},
    }


def get_cfg() -> CfgNode:
    """Make a configuration with every key of detectron2 that is honored, at its default.

    Returns:
        an ``fvcore.common.config.CfgNode``; change it by attribute or ``merge_from_list``.
    """
    return CfgNode(
        {
            "VERSION": 2,
            "MODEL": _make_model(),
            "INPUT": {
                "MIN_SIZE_TRAIN": (800,),
                "MIN_SIZE_TRAIN_SAMPLING": "choice",
                "MAX_SIZE_TRAIN": 1333,
                "MIN_SIZE_TEST": 800,
                "MAX_SIZE_TEST": 1333,
                "RANDOM_FLIP": "horizontal",
                "FORMAT": "BGR",
                "MASK_FORMAT": "polygon",
                "CROP": {"ENABLED": False, "TYPE": "relative_range", "SIZE": [0.9, 0.9]},
            },
            "DATASETS": {
                "TRAIN": (),
                "TEST": (),
                # One file a set, where MODEL.LOAD_PROPOSALS; of an image the best so many are used.
                "PROPOSAL_FILES_TRAIN": (),
                "PROPOSAL_FILES_TEST": (),
                "PRECOMPUTED_PROPOSAL_TOPK_TRAIN": 2000,
                "PRECOMPUTED_PROPOSAL_TOPK_TEST": 1000,
            },
            "DATALOADER": {
                "NUM_WORKERS": 4,
                "ASPECT_RATIO_GROUPING": True,
                "SAMPLER_TRAIN": "TrainingSampler",
                "REPEAT_THRESHOLD": 0.0,
                "REPEAT_SQRT": True,
                "FILTER_EMPTY_ANNOTATIONS": True,
            },
            "SOLVER": _make_solver(),
            "TEST": {
                "EXPECTED_RESULTS": [],
                "EVAL_PERIOD": 0,
                "DETECTIONS_PER_IMAGE": 100,
                "AUG": {"ENABLED": False},
                "PRECISE_BN": {"ENABLED": False},
            },
            "OUTPUT_DIR": "./output",
            "SEED": -1,
            "CUDNN_BENCHMARK": False,
            "FLOAT32_PRECISION": "",
            "VIS_PERIOD": 0,
        }
    )


def add_own_keys(cfg: CfgNode) -> None:
    """Add to a configuration those of ``OWN_KEYS`` that it lacks, at their defaults."""
    for key, default in OWN_KEYS.items():
        node, _, name = key.rpartition(".")
        get_value(cfg, node).setdefault(name, default)


def get_own(cfg: CfgNode, key: str) -> Any:
    """Get the value of one of ``OWN_KEYS``; its default where the configuration lacks it."""
    node, _, name = key.rpartition(".")
    return getattr(get_value(cfg, node), name, OWN_KEYS[key])


def drop_own_keys(cfg: CfgNode) -> None:
    """Remove those of ``OWN_KEYS`` that ask for nothing, so that detectron2 reads what is left."""
    for key, default in OWN_KEYS.items():
        node, _, name = key.rpartition(".")
        values = get_value(cfg, node)
        if values.get(name) == default:
            dict.pop(values, name)


def scale_to_processes(cfg: CfgNode, processes: int) -> CfgNode:
    """Scale a schedule to a number of processes, as detectron2's ``auto_scale_workers`` does.

    Where ``SOLVER.REFERENCE_WORLD_SIZE`` is not 0, the images of a process stay what they were:
    batch and learning rate grow in proportion to the processes, iterations shrink. A period stays
    at 1 or more, where detectron2's may become 0.

    Raises:
        ValueError: the batch cannot be shared out evenly among the reference processes.
    """
    solver = cfg.SOLVER
    reference = solver.REFERENCE_WORLD_SIZE
    if reference in (0, processes):
        return cfg
    if solver.IMS_PER_BATCH % reference:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH = {solver.IMS_PER_BATCH} is no multiple of "
            f"SOLVER.REFERENCE_WORLD_SIZE = {reference}; write one, or 0 for no scaling"
        )
    scaled = scale_batch(cfg, processes, reference)
    scaled.defrost()
    scaled.SOLVER.REFERENCE_WORLD_SIZE = processes
    scaled.freeze()
    solver = scaled.SOLVER
    logger.info(
        "scaled to %d processes (SOLVER.REFERENCE_WORLD_SIZE = %d): batch %d, learning rate %g, "
        "%d iterations",
        processes,
        reference,
        solver.IMS_PER_BATCH,
        solver.BASE_LR,
        solver.MAX_ITER,
    )
    return scaled


def scale_batch(cfg: CfgNode, numerator: int, denominator: int) -> CfgNode:
    """Scale a batch, and the learning rate with it; iterations and periods shrink as they grow.

    As many images are seen as before. A period stays at 1 or more.
    """
    scale = numerator / denominator
    scaled = cfg.clone()
    scaled.defrost()
    solver = scaled.SOLVER
    solver.IMS_PER_BATCH = round(solver.IMS_PER_BATCH * scale)
    solver.BASE_LR *= scale
    solver.MAX_ITER = max(1, round(solver.MAX_ITER / scale))
    solver.WARMUP_ITERS = round(solver.WARMUP_ITERS / scale)
    solver.STEPS = tuple(round(step / scale) for step in solver.STEPS)
    solver.CHECKPOINT_PERIOD = max(1, round(solver.CHECKPOINT_PERIOD / scale))
    for key in ("EVAL_PERIOD", "LOSS_PERIOD"):
        if scaled.TEST.get(key):  # 0 evaluates at the end only, and measures no loss
            scaled.TEST[key] = max(1, round(scaled.TEST[key] / scale))
    scaled.freeze()
    return scaled
