"""What a configuration says of the backbone, for every engine and for detectron2 itself."""

from __future__ import annotations

from fvcore.common.config import CfgNode

from resnext_det.architecture import Architecture


def architecture_of(cfg: CfgNode) -> Architecture:
    """The network that ``cfg.MODEL.RESNETS`` describes."""
    resnets = cfg.MODEL.RESNETS
    return Architecture(
        depth=resnets.DEPTH,
        cardinality=resnets.NUM_GROUPS,
        width=resnets.WIDTH_PER_GROUP,
        stem_channels=resnets.STEM_OUT_CHANNELS,
        res2_channels=resnets.RES2_OUT_CHANNELS,
    )
