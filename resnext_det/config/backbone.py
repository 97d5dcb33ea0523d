"""Read and check the keys that describe the backbone, for every engine and for detectron2."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from fvcore.common.config import CfgNode

from resnext_det.architecture import Architecture, Deformable
from resnext_det.config.detection import get_cfg
from resnext_det.config.names import EXACT_HEADS, SHARED_C4_HEAD
from resnext_det.config.rules import check_layers, get_value, list_keys
from resnext_det.config.values import check_value
from resnext_det.resnext import FEATURES

ARCHITECTURE_KEYS = {
    "DEPTH": "depth",
    "NUM_GROUPS": "cardinality",
    "WIDTH_PER_GROUP": "width",
    "STEM_OUT_CHANNELS": "stem_channels",
    "RES2_OUT_CHANNELS": "res2_channels",
}
"""The keys of MODEL.RESNETS that tell the network, each with its field of ``Architecture``."""

# What an error adds where detectron2's own backbone would take the value.
_REASONS = {
    "MODEL.RESNETS.DEPTH": (
        " (18 and 34 have basic blocks, where a cardinality changes nothing: figure 4 of the paper)"
    ),
}

# Keys that other projects add (DeepLab, AdelaiDet, ResNeSt), with the value that changes nothing.
_NEUTRAL_VALUES = {
    "MODEL.RESNETS.STEM_TYPE": "basic",
    "MODEL.RESNETS.RES4_DILATION": 1,
    "MODEL.RESNETS.RES5_MULTI_GRID": [1, 1, 1],
    "MODEL.RESNETS.DEFORM_INTERVAL": 1,
    "MODEL.RESNETS.RADIX": 1,
}


def read_architecture(values: Mapping[str, Any], prefix: str = "") -> Architecture:
    """Read the network that the keys of MODEL.RESNETS tell, of a detector or a classifier.

    Args:
        values: the node itself, or any mapping that has its keys after ``prefix``.

    Raises:
        ValueError, TypeError: they tell no network; see ``Architecture``.
    """
    fields: dict[str, Any] = {
        field: values.get(f"{prefix}{key}") for key, field in ARCHITECTURE_KEYS.items()
    }
    # A detector's configuration has no key SHORTCUTS.
    return Architecture(**fields, shortcuts=values.get(f"{prefix}SHORTCUTS", True))


def write_architecture(architecture: Architecture, prefix: str = "") -> dict[str, int]:
    """Write a network as the keys of MODEL.RESNETS, after ``prefix``, with their values."""
    return {
        f"{prefix}{key}": getattr(architecture, field) for key, field in ARCHITECTURE_KEYS.items()
    }


def read_deformable(resnets: CfgNode) -> Deformable | None:
    """Read which stages are deformable, and how; None where no stage is.

    Args:
        resnets: MODEL.RESNETS. DEFORM_MODULATED and DEFORM_NUM_GROUPS then have no effect.
    """
    stages = [name for name, on in zip(FEATURES[1:], resnets.DEFORM_ON_PER_STAGE) if on]
    if not stages:
        return None
    return Deformable(tuple(stages), resnets.DEFORM_MODULATED, resnets.DEFORM_NUM_GROUPS)


def read_backbone_arguments(cfg: CfgNode) -> dict[str, Any]:
    """Translate MODEL.RESNETS into the arguments of ``ResNeXt``, without ``in_channels``."""
    resnets = cfg.MODEL.RESNETS
    return {
        "architecture": read_architecture(resnets),
        "norm": resnets.NORM,
        "out_features": tuple(resnets.OUT_FEATURES),
        "stride_in_1x1": resnets.STRIDE_IN_1X1,
        "dilate_res5": resnets.RES5_DILATION == 2,
        "deformable": read_deformable(resnets),
    }


def check_resnet_layers(resnets: CfgNode) -> None:
    """Refuse a network with a layer that is too large, before memory is taken for it.

    Args:
        resnets: MODEL.RESNETS, of a detector or a classifier.

    Raises:
        ValueError: see ``check_layers``.
    """
    width, out = (8 * size for size in (resnets.WIDTH_PER_GROUP, resnets.RES2_OUT_CHANNELS))  # res5
    inner, prefix = width * resnets.NUM_GROUPS, "MODEL.RESNETS."
    check_layers(
        {
            f"{prefix}NUM_GROUPS, WIDTH_PER_GROUP": 9 * inner * width,
            f"{prefix}NUM_GROUPS, WIDTH_PER_GROUP, RES2_OUT_CHANNELS": inner * out,
            f"{prefix}RES2_OUT_CHANNELS": out * out // 2,  # its shortcut
        }
    )


def check_backbone(cfg: CfgNode, *, norms: Collection[str] = ()) -> None:
    """Refuse keys and values of MODEL.RESNETS and MODEL.BACKBONE that a ResNeXt does not honor.

    Args:
        cfg: a configuration of this package or of detectron2; no other node is read.
        norms: the values of NORM that the caller honors, if not those of the portable engine.

    Raises:
        ValueError: naming the key, its value and what to write.
    """
    refuse_foreign_keys(cfg, "MODEL.RESNETS")
    refuse_foreign_keys(cfg, "MODEL.BACKBONE")
    defaults = get_cfg()
    for key in [
        *list_keys(defaults.MODEL.RESNETS, "MODEL.RESNETS."),
        "MODEL.BACKBONE.FREEZE_AT",
    ]:
        if key == "MODEL.RESNETS.NORM" and norms:
            if (norm := cfg.MODEL.RESNETS.NORM) not in norms:
                words = " or ".join(map(repr, norms))
                raise ValueError(f"{key} = {norm!r} is not supported; write {words}")
            continue
        try:
            check_value(cfg, key, get_value(defaults, key))
        except ValueError as error:
            raise ValueError(f"{error}{_REASONS.get(key, '')}") from error
    features = cfg.MODEL.RESNETS.OUT_FEATURES
    if not features or not set(features) <= set(FEATURES):
        raise ValueError(
            f"MODEL.RESNETS.OUT_FEATURES = {features}: write one or more of {', '.join(FEATURES)}"
        )
    dilation = cfg.MODEL.RESNETS.RES5_DILATION
    if dilation != 1 and "res5" not in features:
        raise ValueError(
            f"MODEL.RESNETS.RES5_DILATION = {dilation}, but there is no res5 in "
            f"MODEL.RESNETS.OUT_FEATURES = {features}; write 1, or ['res5']"
        )
    _check_deformable(cfg.MODEL.RESNETS)


def refuse_foreign_keys(cfg: CfgNode, node: str) -> None:
    """Refuse keys that another project has added to a node of detectron2, unless they are off.

    A key is off where it is False or None, or has the value of ``_NEUTRAL_VALUES``.

    Args:
        node: such as "MODEL.RESNETS".

    Raises:
        ValueError: naming the key, its value and what to do.
    """
    known = list_keys(get_value(get_cfg(), node), f"{node}.")
    for key in list_keys(get_value(cfg, node), f"{node}."):
        value = get_value(cfg, key)
        if key in known or value is None or value is False:
            continue
        name = key.removeprefix(f"{node}.").split(".")[0]
        remedy = f"leave it out (cfg.{node}.pop({name!r}))"
        if key in _NEUTRAL_VALUES:
            if value == _NEUTRAL_VALUES[key]:
                continue
            remedy = f"write {_NEUTRAL_VALUES[key]!r}"
        raise ValueError(
            f"{key} = {value!r} would be ignored: it is no key of detectron2, but of another "
            f"project, whose backbone reads it; {remedy}, or name that backbone in "
            "MODEL.BACKBONE.NAME"
        )


def _check_deformable(resnets: CfgNode) -> None:
    stages, names = resnets.DEFORM_ON_PER_STAGE, FEATURES[1:]
    if len(stages) != len(names):
        raise ValueError(
            f"MODEL.RESNETS.DEFORM_ON_PER_STAGE = {stages} has {len(stages)} entries; write True "
            f"or False for each of {', '.join(names)}"
        )
    deformable = read_deformable(resnets)
    if deformable is not None:
        deformable.check(read_architecture(resnets))


def check_c4_head(cfg: CfgNode) -> None:
    """Refuse values of MODEL.RESNETS that the res5 of a C4 head does not honor.

    The head that shares work between regions refuses norms and a pooler that never allow it.

    Args:
        cfg: of a detector whose MODEL.ROI_HEADS run res5 on every region.

    Raises:
        ValueError: naming the key, its value and what to write.
    """
    resnets, name = cfg.MODEL.RESNETS, cfg.MODEL.ROI_HEADS.NAME
    if resnets.RES5_DILATION != 1:
        raise ValueError(
            f"MODEL.RESNETS.RES5_DILATION = {resnets.RES5_DILATION}, but {name} runs an undilated "
            "res5 on every region; write 1"
        )
    stages = resnets.DEFORM_ON_PER_STAGE
    if any(stages[3:]):
        raise ValueError(
            f"MODEL.RESNETS.DEFORM_ON_PER_STAGE = {stages}, but {name} runs a res5 without "
            f"deformable convolutions on every region; write {[*stages[:3], False]}"
        )
    if name == SHARED_C4_HEAD:
        _check_shared_head(cfg)


def _check_shared_head(cfg: CfgNode) -> None:
    exact = "or MODEL.ROI_HEADS.NAME: ResNeXtRes5ROIHeads, which computes all of res5 on each"
    norm, pooler = cfg.MODEL.RESNETS.NORM, cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE
    if norm in ("GN", "LN"):
        raise ValueError(
            f"MODEL.RESNETS.NORM = {norm!r}, but it normalizes each region by its own values, so "
            f"that {SHARED_C4_HEAD} has nothing that regions could share; write FrozenBN, {exact}"
        )
    if pooler not in ("ROIAlignV2", "ROIAlign"):
        raise ValueError(
            f"MODEL.ROI_BOX_HEAD.POOLER_TYPE = {pooler!r}, but {SHARED_C4_HEAD} shares what "
            f"regions are aligned from, which only RoIAlign allows; write ROIAlignV2, {exact}"
        )


def check_standard_head(cfg: CfgNode) -> None:
    """Refuse a pooler that the heads with a faster RoIAlign do not have.

    Raises:
        ValueError: MODEL.ROI_HEADS.NAME asks for such a head, and a pooler is RoIPool.
    """
    name = cfg.MODEL.ROI_HEADS.NAME
    exact = EXACT_HEADS.get(name)
    for head in ("ROI_BOX_HEAD", "ROI_MASK_HEAD") if cfg.MODEL.MASK_ON else ("ROI_BOX_HEAD",):
        pooler = cfg.MODEL[head].POOLER_TYPE
        if exact is not None and not pooler.startswith("ROIAlign"):
            raise ValueError(
                f"MODEL.{head}.POOLER_TYPE = {pooler!r}, but {name} computes RoIAlign alone; "
                f"write ROIAlignV2, or MODEL.ROI_HEADS.NAME: {exact}"
            )
