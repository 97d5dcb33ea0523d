"""The configuration of a classifier: its keys and defaults, reading, and checks.

Keys that a detector's configuration has too mean the same there. What detectron2 counts in
iterations is counted in epochs here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from resnext_det.architecture import BLOCKS_PER_STAGE
from resnext_det.config.backbone import ARCHITECTURE_KEYS, check_resnet_layers
from resnext_det.config.loading import merge
from resnext_det.config.rules import Rules, check_layers, get_value, spread_ranges
from resnext_det.config.values import (
    MOST_CHANNELS,
    MOST_CLASSES,
    MOST_IMAGES,
    MOST_PIXELS,
    MOST_WORKERS,
    check_cosine,
)

# The keys that each recipe of augmentation honors; the others must be at their defaults.
AUGMENTATIONS: dict[str, tuple[str, ...]] = {
    "paper": ("INPUT.COLOR_JITTER", "INPUT.LIGHTING"),
    "cifar": ("INPUT.PADDING",),
    "modern": ("INPUT.AUTO_AUGMENT", "INPUT.RANDOM_ERASING"),
}
# By key and by its value, the keys that only this value honors.
_ONLY_WITH: dict[str, dict[str, tuple[str, ...]]] = {
    "INPUT.AUGMENTATION": AUGMENTATIONS,
    "SOLVER.LR_SCHEDULER_NAME": {
        "WarmupMultiStepLR": ("SOLVER.STEPS", "SOLVER.GAMMA"),
        "WarmupCosineLR": ("SOLVER.BASE_LR_END",),
    },
}

_SUPPORTED_VALUES: dict[str, tuple[Any, ...]] = {
    "MODEL.FORM": ("A", "B", "C"),
    "MODEL.RESNETS.DEPTH": tuple(BLOCKS_PER_STAGE),
    "MODEL.RESNETS.NORM": ("BN", "SyncBN", "GN"),
    "INPUT.FORMAT": ("RGB", "BGR"),
    "INPUT.AUGMENTATION": tuple(AUGMENTATIONS),
    "INPUT.INTERPOLATION": ("torch7_bicubic", "bicubic", "bilinear"),
    "INPUT.AUTO_AUGMENT": ("", "trivial_augment_wide", "rand_augment"),
    "SOLVER.LR_SCHEDULER_NAME": ("WarmupMultiStepLR", "WarmupCosineLR"),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
    "SOLVER.AMP.DTYPE": ("bfloat16", "float16"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("value", "norm"),
}
_RANGES = spread_ranges(
    (1, MOST_CHANNELS, "MODEL.RESNETS", " ".join(ARCHITECTURE_KEYS)),
    (0, MOST_CLASSES, "MODEL", "NUM_CLASSES"),
    (1, MOST_PIXELS, "INPUT", "SIZE_TRAIN SIZE_TEST RESIZE_TEST"),
    (0, MOST_PIXELS, "INPUT", "PADDING"),
    (0, math.inf, "INPUT", "LIGHTING MIXUP CUTMIX"),
    (0, 1, "INPUT", "COLOR_JITTER RANDOM_ERASING"),
    (0, MOST_WORKERS, "DATALOADER", "NUM_WORKERS"),
    (1, math.inf, "SOLVER", "EPOCHS STEPS CHECKPOINT_EPOCHS CHECKPOINTS_KEPT"),
    (1, MOST_IMAGES, "SOLVER", "IMS_PER_BATCH"),
    (0, math.inf, "SOLVER", "IMAGES_PER_EPOCH BASE_LR REFERENCE_BATCH WARMUP_EPOCHS"),
    (0, math.inf, "SOLVER", "WEIGHT_DECAY WEIGHT_DECAY_NORM"),
    (0, 1, "SOLVER", "MOMENTUM"),
    (0, 0.999, "SOLVER", "LABEL_SMOOTHING"),
    (0, 0.999999999, "SOLVER.EMA", "DECAY"),
    (0, math.inf, "TEST", "EVAL_EPOCHS PATIENCE"),
    (1, MOST_IMAGES, "TEST", "IMS_PER_BATCH"),
)
_RULES = Rules(_SUPPORTED_VALUES, _RANGES, {"SOLVER.WEIGHT_DECAY_NORM": "SOLVER.WEIGHT_DECAY"})


def _make_model() -> dict[str, Any]:
    return {
        "DEVICE": "cuda",
        "WEIGHTS": "",  # to start from, or to test
        "NUM_CLASSES": 0,  # 0: as many as DATASETS.TRAIN has
        "FORM": "C",  # of the blocks, figure 3 of the paper; weights are written in form C
        # On the scale 0-255, in the order of INPUT.FORMAT.
        "PIXEL_MEAN": [123.675, 116.28, 103.53],
        "PIXEL_STD": [58.395, 57.12, 57.375],
        "RESNETS": {
            "DEPTH": 50,
            "NUM_GROUPS": 1,
            "WIDTH_PER_GROUP": 64,
            "STEM_OUT_CHANNELS": 64,
            "RES2_OUT_CHANNELS": 256,
            "NORM": "BN",
            "STRIDE_IN_1X1": False,
            "SHORTCUTS": True,
        },
    }


def _make_input() -> dict[str, Any]:
    return {
        "FORMAT": "RGB",
        # "paper": fb.resnet.torch's of ImageNet; "cifar": its of CIFAR; "modern": torchvision's.
        "AUGMENTATION": "paper",
        "SIZE_TRAIN": 224,
        "RESIZE_TEST": 256,  # of the shorter side
        "SIZE_TEST": 224,  # of the crop in its centre
        "INTERPOLATION": "torch7_bicubic",  # the others are Pillow's
        "COLOR_JITTER": 0.0,  # of brightness, contrast and saturation
        "LIGHTING": 0.0,  # standard deviation of PCA lighting
        "PADDING": 0,
        "AUTO_AUGMENT": "",
        "RANDOM_ERASING": 0.0,  # probability
        "MIXUP": 0.0,  # parameters of their beta distributions; 0 for none
        "CUTMIX": 0.0,
    }


def _make_solver() -> dict[str, Any]:
    return {
        "EPOCHS": 100,
        "IMAGES_PER_EPOCH": 0,  # 0: all that there are; the last batch is filled up
        "IMS_PER_BATCH": 256,  # of all processes
        "BASE_LR": 0.1,
        "REFERENCE_BATCH": 0,  # the batch that BASE_LR is for, to grow with it; 0: constant
        "LR_SCHEDULER_NAME": "WarmupMultiStepLR",
        "STEPS": (30, 60, 90),  # epochs after which the learning rate is multiplied by GAMMA
        "GAMMA": 0.1,
        "BASE_LR_END": 0.0,  # of the cosine
        "WARMUP_EPOCHS": 0,
        "WARMUP_FACTOR": 0.01,
        "WARMUP_METHOD": "linear",
        "MOMENTUM": 0.9,
        "NESTEROV": True,
        "WEIGHT_DECAY": 0.0001,
        "WEIGHT_DECAY_NORM": None,  # None: as of every other parameter
        "LABEL_SMOOTHING": 0.0,
        # A moving average of the weights, which is then tested and kept.
        "EMA": {"ENABLED": False, "DECAY": 0.9999},
        "AMP": {"ENABLED": False, "DTYPE": "bfloat16"},
        "CLIP_GRADIENTS": {
            "ENABLED": False,
            "CLIP_TYPE": "norm",
            "CLIP_VALUE": 1.0,
            "NORM_TYPE": 2.0,
        },
        "CHECKPOINT_EPOCHS": 1,
        "CHECKPOINTS_KEPT": 2,
    }


def get_classifier_cfg() -> CfgNode:
    """Make a configuration of a classifier with every key that is honored, at its default."""
    return CfgNode(
        {
            "MODEL": _make_model(),
            "INPUT": _make_input(),
            # A name, or a path: see resnext_det.data.images.catalog.
            "DATASETS": {"TRAIN": "", "TEST": ""},
            "DATALOADER": {"NUM_WORKERS": 4, "SKIP_BROKEN_IMAGES": False},
            "SOLVER": _make_solver(),
            # EVAL_EPOCHS 0: after the training. IMS_PER_BATCH: of each process. PATIENCE: the
            # training ends after so many tests without a better top-1; 0: never.
            "TEST": {"EVAL_EPOCHS": 1, "IMS_PER_BATCH": 64, "PATIENCE": 0},
            "OUTPUT_DIR": "./output/classification",
            "SEED": -1,
            "CUDNN_BENCHMARK": True,
            "FLOAT32_PRECISION": "",
        }
    )


def load_classifier_config(path: str | Path, overrides: Sequence[Any] = ()) -> CfgNode:
    """Read the configuration of a classifier.

    Args:
        path, overrides: as for ``resnext_det.load_config``.

    Returns:
        the frozen configuration: the defaults, changed by the base files, the file and the
        overrides, in this order.

    Raises:
        FileNotFoundError, ValueError: as ``resnext_det.load_config``.
    """
    cfg = get_classifier_cfg()
    merge(cfg, path, overrides)
    _check(cfg)
    cfg.freeze()
    return cfg


def _check(cfg: CfgNode) -> None:
    defaults = get_classifier_cfg()
    _RULES.check(cfg, defaults)
    image, solver, resnets = cfg.INPUT, cfg.SOLVER, cfg.MODEL.RESNETS
    check_resnet_layers(resnets)
    check_layers({"MODEL.NUM_CLASSES": 8 * resnets.RES2_OUT_CHANNELS * cfg.MODEL.NUM_CLASSES})
    for chosen, honored in _ONLY_WITH.items():
        _check_effect(cfg, defaults, chosen, honored)
    if image.RESIZE_TEST < image.SIZE_TEST:
        raise ValueError(
            f"INPUT.RESIZE_TEST = {image.RESIZE_TEST} is smaller than INPUT.SIZE_TEST = "
            f"{image.SIZE_TEST}, which is cut out of it; write {image.SIZE_TEST} or more"
        )
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        if len(cfg.MODEL[key]) != 3 or (key == "PIXEL_STD" and min(cfg.MODEL[key]) <= 0):
            raise ValueError(
                f"MODEL.{key} = {cfg.MODEL[key]}: write three numbers, one a channel, on the scale "
                "0-255"
            )
    if image.AUGMENTATION == "modern" and image.INTERPOLATION == "torch7_bicubic":
        raise ValueError(
            "INPUT.INTERPOLATION = 'torch7_bicubic' is not supported in INPUT.AUGMENTATION = "
            "'modern'; write 'bilinear' or 'bicubic'"
        )
    _check_schedule(solver)
    if cfg.TEST.PATIENCE and not (cfg.TEST.EVAL_EPOCHS and cfg.DATASETS.TEST):
        raise ValueError(
            f"TEST.PATIENCE = {cfg.TEST.PATIENCE} waits for a better test, and there are none: "
            "write DATASETS.TEST and TEST.EVAL_EPOCHS, or TEST.PATIENCE 0"
        )
    if solver.EMA.ENABLED and solver.EMA.DECAY == 0:
        raise ValueError(
            "SOLVER.EMA.DECAY = 0.0 averages nothing; write SOLVER.EMA.ENABLED False, or 0.9999"
        )


def _check_effect(
    cfg: CfgNode, defaults: CfgNode, chosen: str, honored: Mapping[str, Sequence[str]]
) -> None:
    """Refuse keys without effect under the value of ``chosen``, unless default or empty."""
    for choice, keys in honored.items():
        for key in keys if choice != get_value(cfg, chosen) else ():
            value, default = get_value(cfg, key), get_value(defaults, key)
            nothing = () if isinstance(default, tuple) else default
            if value not in (default, nothing):
                raise ValueError(
                    f"{key} = {value!r} has no effect in {chosen} = {get_value(cfg, chosen)!r}; "
                    f"write {nothing!r}, or {choice!r} there"
                )


def _check_schedule(solver: CfgNode) -> None:
    check_cosine(solver)
    if list(solver.STEPS) != sorted(set(solver.STEPS)):
        raise ValueError(
            f"SOLVER.STEPS = {solver.STEPS}: write epochs in increasing order, each once"
        )
    in_steps = solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR"
    if in_steps and any(step >= solver.EPOCHS for step in solver.STEPS):
        raise ValueError(
            f"SOLVER.STEPS = {solver.STEPS}, but the training ends after SOLVER.EPOCHS = "
            f"{solver.EPOCHS}; write epochs before that, such as (30, 60, 90) of 100, or ()"
        )
    if solver.WARMUP_EPOCHS >= solver.EPOCHS:
        raise ValueError(
            f"SOLVER.WARMUP_EPOCHS = {solver.WARMUP_EPOCHS} is the whole training of SOLVER.EPOCHS "
            f"= {solver.EPOCHS}; write fewer, or 0"
        )
