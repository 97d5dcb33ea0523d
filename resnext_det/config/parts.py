"""Tell which parts of a detector a configuration uses, and which feature maps they get."""

from __future__ import annotations

from fvcore.common.config import CfgNode

from resnext_det.config.names import C4_HEADS, FPN_BACKBONES, P6_P7_BACKBONES, SHARED_C4_HEAD


def uses_fpn(cfg: CfgNode) -> bool:
    """Tell whether the backbone is a feature pyramid."""
    return cfg.MODEL.BACKBONE.NAME in FPN_BACKBONES


def uses_p6_and_p7(cfg: CfgNode) -> bool:
    """Tell whether the backbone is a feature pyramid with a p6 and p7 of convolutions."""
    return cfg.MODEL.BACKBONE.NAME in P6_P7_BACKBONES


def uses_c4_head(cfg: CfgNode) -> bool:
    """Tell whether res5 runs on every region, under detectron2's name of this head or ours."""
    names = (*C4_HEADS, SHARED_C4_HEAD)
    return "ROI_HEADS" in list_parts_in_use(cfg) and cfg.MODEL.ROI_HEADS.NAME in names


def list_features(cfg: CfgNode) -> tuple[str, ...]:
    """List the names of the feature maps that the configured backbone gives."""
    if not uses_fpn(cfg):
        return tuple(cfg.MODEL.RESNETS.OUT_FEATURES)
    above = ("p6", "p7") if uses_p6_and_p7(cfg) else ("p6",)
    return (*(f"p{name.removeprefix('res')}" for name in cfg.MODEL.FPN.IN_FEATURES), *above)


def list_parts_in_use(cfg: CfgNode) -> tuple[str, ...]:
    """List what stands on the backbone: ``RPN``, ``ROI_HEADS`` or both, or ``RETINANET``.

    The keys of a part that is not in use have no meaning.
    """
    if cfg.MODEL.META_ARCHITECTURE == "RetinaNet":
        return ("RETINANET",)
    used = {
        "RPN": cfg.MODEL.PROPOSAL_GENERATOR.NAME == "RPN",
        "ROI_HEADS": cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN",
    }
    return tuple(part for part in used if used[part])


def find_class_node(cfg: CfgNode) -> str:
    """Find the node of ``MODEL`` that says the classes and the scores in tests: its name."""
    return "RETINANET" if "RETINANET" in list_parts_in_use(cfg) else "ROI_HEADS"
