"""Check a detector's configuration: every value is honored, and no two contradict each other.

What would not be honored is refused, with the key, its value and what to write instead.
"""

from __future__ import annotations

from fvcore.common.config import CfgNode

from resnext_det.config.augmentation import check_augmentation
from resnext_det.config.backbone import (
    check_backbone,
    check_c4_head,
    check_resnet_layers,
    check_standard_head,
)
from resnext_det.config.detection import get_own
from resnext_det.config.heads import check_heads
from resnext_det.config.parts import list_features, list_parts_in_use, uses_c4_head, uses_fpn
from resnext_det.config.rules import check_layers
from resnext_det.config.values import check_cosine, check_values
from resnext_det.layers import GROUPS
from resnext_det.resnext import FEATURES


def check(cfg: CfgNode) -> None:
    """Refuse a configuration that would not be honored, or that contradicts itself.

    Raises:
        ValueError: naming the key, its value and what is supported.
    """
    check_values(cfg)
    _check_proposals(cfg)
    _check_input(cfg)
    check_augmentation(cfg)
    _check_dilation(cfg)
    if uses_c4_head(cfg):
        check_c4_head(cfg)
    check_standard_head(cfg)
    check_backbone(cfg)
    _check_features(cfg)
    check_heads(cfg)
    check_cosine(cfg.SOLVER)
    if get_own(cfg, "SOLVER.OPTIMIZER") == "SGD":
        _check_momentum(cfg.SOLVER)
    _check_layers(cfg)
    _check_group_norms(cfg)


def _check_proposals(cfg: CfgNode) -> None:
    loads, generator = cfg.MODEL.LOAD_PROPOSALS, cfg.MODEL.PROPOSAL_GENERATOR.NAME
    given = f"MODEL.LOAD_PROPOSALS = {loads}, MODEL.PROPOSAL_GENERATOR.NAME = {generator!r}"
    if cfg.MODEL.META_ARCHITECTURE == "ProposalNetwork" and (loads or generator != "RPN"):
        raise ValueError(
            f"{given}, but MODEL.META_ARCHITECTURE = 'ProposalNetwork' is there to compute "
            "proposals; write False and 'RPN', or MODEL.META_ARCHITECTURE: GeneralizedRCNN"
        )
    if loads and cfg.MODEL.META_ARCHITECTURE == "RetinaNet":
        raise ValueError(
            f"{given}, but MODEL.META_ARCHITECTURE = 'RetinaNet' takes no proposals; write False "
            "and 'RPN'"
        )
    if loads != (generator == "PrecomputedProposals"):
        raise ValueError(
            f"{given} contradict each other; write True and 'PrecomputedProposals' to read "
            "proposals from files, or False and 'RPN' to compute them"
        )
    for split in ("TRAIN", "TEST"):
        names, files = cfg.DATASETS[split], cfg.DATASETS[f"PROPOSAL_FILES_{split}"]
        if files and not loads:
            raise ValueError(
                f"DATASETS.PROPOSAL_FILES_{split} = {files} would not be read; write (), or "
                "MODEL.LOAD_PROPOSALS True and MODEL.PROPOSAL_GENERATOR.NAME PrecomputedProposals"
            )
        if loads and len(files) != len(names):
            raise ValueError(
                f"DATASETS.PROPOSAL_FILES_{split} = {files} are {len(files)} files for the "
                f"{len(names)} sets of DATASETS.{split} = {names}; write one file a set, in the "
                "order of the sets"
            )


def _check_input(cfg: CfgNode) -> None:
    channels = 1 if cfg.INPUT.FORMAT == "L" else 3
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        value = cfg.MODEL[key]
        if len(value) != channels:
            raise ValueError(
                f"MODEL.{key} = {value} has {len(value)} numbers where INPUT.FORMAT = "
                f"{cfg.INPUT.FORMAT!r} has {channels} channels; write {channels}"
            )
    sizes, sampling = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    if not sizes:
        raise ValueError(
            "INPUT.MIN_SIZE_TRAIN = () holds no size; write one or more, such as (640, 800)"
        )
    if sampling == "range" and (len(sizes) != 2 or sizes[0] > sizes[1]):
        raise ValueError(
            f"INPUT.MIN_SIZE_TRAIN = {sizes}, but INPUT.MIN_SIZE_TRAIN_SAMPLING = 'range' draws "
            "between two numbers; write (lowest, highest), or the sampling 'choice'"
        )


def _check_dilation(cfg: CfgNode) -> None:
    if cfg.MODEL.RESNETS.RES5_DILATION != 1 and uses_fpn(cfg):
        raise ValueError(
            "MODEL.RESNETS.RES5_DILATION = 2 leaves res5 at stride 16, and a pyramid needs stride "
            "32; write 1"
        )


def _check_features(cfg: CfgNode) -> None:
    if uses_fpn(cfg):
        wanted, given = list(cfg.MODEL.FPN.IN_FEATURES), cfg.MODEL.RESNETS.OUT_FEATURES
        pyramid = list(FEATURES[-len(wanted) :]) if 0 < len(wanted) < len(FEATURES) else None
        if wanted != pyramid or not set(wanted) <= set(given):
            raise ValueError(
                f"MODEL.FPN.IN_FEATURES = {wanted} must be neighboring stages that end in 'res5' "
                f"and stand in MODEL.RESNETS.OUT_FEATURES = {given}; write "
                "['res2', 'res3', 'res4', 'res5'] in both"
            )
    known = list_features(cfg)
    for part in list_parts_in_use(cfg):
        key, names = f"MODEL.{part}.IN_FEATURES", cfg.MODEL[part].IN_FEATURES
        if not names or not set(names) <= set(known):
            raise ValueError(
                f"{key} = {names}, but {cfg.MODEL.BACKBONE.NAME} gives {', '.join(known)}; choose "
                "among these"
            )


def _check_momentum(solver: CfgNode) -> None:
    if solver.NESTEROV and not solver.MOMENTUM:
        raise ValueError(
            "SOLVER.NESTEROV = True, but SOLVER.MOMENTUM = 0.0 leaves no momentum to look ahead "
            "with; write False, or a momentum such as 0.9"
        )


def _check_layers(cfg: CfgNode) -> None:
    """Refuse layers that are too large, of the parts that are in use."""
    check_resnet_layers(cfg.MODEL.RESNETS)
    heads, box = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD
    channels = 8 * cfg.MODEL.RESNETS.RES2_OUT_CHANNELS
    layers = {}
    if uses_fpn(cfg):
        layers["MODEL.FPN.OUT_CHANNELS"] = 9 * cfg.MODEL.FPN.OUT_CHANNELS**2
        channels = cfg.MODEL.FPN.OUT_CHANNELS
    if "RPN" in list_parts_in_use(cfg):
        layers["MODEL.RPN.CONV_DIMS"] = 9 * max(cfg.MODEL.RPN.CONV_DIMS) ** 2
    if "RETINANET" in list_parts_in_use(cfg):
        anchors, classes = cfg.MODEL.ANCHOR_GENERATOR, cfg.MODEL.RETINANET.NUM_CLASSES
        cell = len(anchors.SIZES[0]) * len(anchors.ASPECT_RATIOS[0])
        layers["MODEL.RETINANET.NUM_CLASSES"] = 9 * channels * cell * classes
    if "ROI_HEADS" in list_parts_in_use(cfg):
        if not uses_c4_head(cfg):
            channels = (box.CONV_DIM if box.NUM_CONV else channels) * box.POOLER_RESOLUTION**2
            if box.NUM_FC:
                layers["MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION, FC_DIM"] = channels * box.FC_DIM
                channels = box.FC_DIM
        layers["MODEL.ROI_HEADS.NUM_CLASSES"] = 4 * heads.NUM_CLASSES * channels
        if cfg.MODEL.MASK_ON:
            layers |= _count_mask_weights(cfg)
    check_layers(layers)


def _check_group_norms(cfg: CfgNode) -> None:
    """Refuse channels that the groups of a group norm do not divide, of the parts in use."""
    model, parts = cfg.MODEL, list_parts_in_use(cfg)
    resnets, box, mask = model.RESNETS, model.ROI_BOX_HEAD, model.ROI_MASK_HEAD
    pyramid = {"MODEL.FPN.OUT_CHANNELS": model.FPN.OUT_CHANNELS} if uses_fpn(cfg) else {}
    inner = resnets.NUM_GROUPS * resnets.WIDTH_PER_GROUP
    normed = {
        "RESNETS": {
            "MODEL.RESNETS.NUM_GROUPS times WIDTH_PER_GROUP": inner,
            "MODEL.RESNETS.STEM_OUT_CHANNELS": resnets.STEM_OUT_CHANNELS,
            "MODEL.RESNETS.RES2_OUT_CHANNELS": resnets.RES2_OUT_CHANNELS,
        },
        "FPN": pyramid,
        "RETINANET": pyramid if "RETINANET" in parts else {},
    }
    if "ROI_HEADS" in parts and box.NUM_CONV:
        normed["ROI_BOX_HEAD"] = {"MODEL.ROI_BOX_HEAD.CONV_DIM": box.CONV_DIM}
    if model.MASK_ON and mask.NUM_CONV:
        normed["ROI_MASK_HEAD"] = {"MODEL.ROI_MASK_HEAD.CONV_DIM": mask.CONV_DIM}
    for part, widths in normed.items():
        for key, channels in widths.items():
            if model[part].NORM == "GN" and channels % GROUPS:
                raise ValueError(
                    f"MODEL.{part}.NORM = 'GN' has {GROUPS} groups, which do not divide the "
                    f"{channels} channels of {key}; write a multiple of {GROUPS}, or another norm"
                )


def _count_mask_weights(cfg: CfgNode) -> dict[str, int]:
    """Count the weights of the largest layers of a mask head, by the keys that tell them."""
    mask, channels = cfg.MODEL.ROI_MASK_HEAD, 8 * cfg.MODEL.RESNETS.RES2_OUT_CHANNELS
    if uses_fpn(cfg):
        channels = cfg.MODEL.FPN.OUT_CHANNELS
    wider = max(channels, mask.CONV_DIM)
    classes = 1 if mask.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES
    return {
        "MODEL.ROI_MASK_HEAD.CONV_DIM": (9 if mask.NUM_CONV else 4) * wider * mask.CONV_DIM,
        "MODEL.ROI_MASK_HEAD.CONV_DIM, MODEL.ROI_HEADS.NUM_CLASSES": classes * mask.CONV_DIM,
    }
