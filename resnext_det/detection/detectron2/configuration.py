"""Read detectron2's whole configuration, and check it as the portable engine's is checked."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, get_cfg

from resnext_det.config import check
from resnext_det.config.backbone import check_backbone
from resnext_det.config.loading import merge
from resnext_det.config.rules import get_value
from resnext_det.config.values import SUPPORTED_VALUES, check_value, is_supported

logger = logging.getLogger(__name__)

_DATA_KEYS = (
    "INPUT.",
    "DATASETS.",
    "DATALOADER.",
    "MODEL.MASK_ON",
    "MODEL.KEYPOINT_ON",
    "TEST.AUG.",
)
_BOX_DETECTORS = ("GeneralizedRCNN", "ProposalNetwork", "RetinaNet", "FCOS")


def load_config(path: str | Path, overrides: Sequence[Any] = ()) -> CfgNode:
    """Read a configuration over detectron2's defaults; every key of detectron2 may be set.

    A configuration that the portable engine honors is held to the same checks; of another one the
    backbone is checked.

    Raises:
        FileNotFoundError, ValueError: as ``resnext_det.load_config``.
    """
    cfg = get_cfg()
    merge(cfg, path, overrides)
    check_value(cfg, "VERSION", 2)
    if beyond := find_keys_beyond_portable(cfg):
        logger.info("Honored by detectron2 alone: %s", ", ".join(beyond))
        if uses_our_backbone(cfg):
            check_backbone(cfg)
    else:
        check(cfg)
    on_cpu = cfg.MODEL.DEVICE.startswith("cpu")
    if cfg.SOLVER.AMP.ENABLED and on_cpu and cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE == "ROIPool":
        raise ValueError(
            "SOLVER.AMP.ENABLED = True with MODEL.ROI_BOX_HEAD.POOLER_TYPE = 'ROIPool' does not "
            "run on detectron2 on the CPU, where torchvision's roi_pool takes float32 alone; write "
            "SOLVER.AMP.ENABLED False, MODEL.DEVICE cuda, or --engine portable"
        )
    cfg.freeze()
    return cfg


def find_keys_beyond_portable(cfg: CfgNode) -> list[str]:
    """Find the keys with a value that detectron2 alone may honor."""
    return [key for key in SUPPORTED_VALUES if not is_supported(key, get_value(cfg, key))]


def uses_our_backbone(cfg: CfgNode) -> bool:
    """Tell whether the backbone is one that this package registers."""
    return "resnext" in cfg.MODEL.BACKBONE.NAME


def needs_detectron2_data(cfg: CfgNode) -> bool:
    """Tell whether detectron2 has to load the images and evaluate: masks, keypoints, crops ..."""
    other_detector = cfg.MODEL.META_ARCHITECTURE not in _BOX_DETECTORS
    return other_detector or any(
        key.startswith(_DATA_KEYS) for key in find_keys_beyond_portable(cfg)
    )
