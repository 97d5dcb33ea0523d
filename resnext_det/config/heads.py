"""Check the settings of what stands on the backbone: RPN, RetinaNet, and the heads of regions."""

from __future__ import annotations

from typing import Any

from fvcore.common.config import CfgNode

from resnext_det.config.detection import get_cfg
from resnext_det.config.names import CASCADE_HEAD, FAST_CASCADE_HEAD, TORCHVISION_ANCHORS
from resnext_det.config.parts import list_parts_in_use, uses_c4_head, uses_fpn
from resnext_det.config.rules import get_value
from resnext_det.config.values import MOST_CHANNELS
from resnext_det.files import show

_MOST_LAYERS = 100
_MOST_ANCHORS = 1000
_MOST_STAGES = 10  # of a cascade


def check_heads(cfg: CfgNode) -> None:
    """Refuse settings of the parts in use that contradict each other, or that cannot be.

    Raises:
        ValueError: naming the key, its value and what to write.
    """
    _check_matching(cfg)
    if "RPN" in list_parts_in_use(cfg):
        _check_anchors(cfg, "RPN")
        _check_rpn(cfg)
        _check_box_deltas(cfg, "MODEL.RPN.BBOX_REG_WEIGHTS")
    if "RETINANET" in list_parts_in_use(cfg):
        _check_anchors(cfg, "RETINANET")
        _check_retinanet(cfg)
        _check_box_deltas(cfg, "MODEL.RETINANET.BBOX_REG_WEIGHTS")
    if "ROI_HEADS" in list_parts_in_use(cfg):
        _check_box_head(cfg)
        if cfg.MODEL.ROI_HEADS.NAME in (CASCADE_HEAD, FAST_CASCADE_HEAD):
            _check_cascade(cfg)
        else:
            _check_box_deltas(cfg, "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS")
    if cfg.MODEL.MASK_ON:
        _check_masks(cfg)


def _check_anchors(cfg: CfgNode, part: str) -> None:
    """Refuse anchors that are not one list for all feature maps of a part, or one for each."""
    levels = len(cfg.MODEL[part].IN_FEATURES)
    for key in ("SIZES", "ASPECT_RATIOS"):
        value = cfg.MODEL.ANCHOR_GENERATOR[key]
        nested = all(isinstance(level, (list, tuple)) and level for level in value)
        if not nested or len(value) not in (1, levels):
            raise ValueError(
                f"MODEL.ANCHOR_GENERATOR.{key} = {value} must be a list that holds one list, as "
                f"{[[32, 64]]}, or one for each of the {levels} MODEL.{part}.IN_FEATURES"
            )
    if cfg.MODEL.ANCHOR_GENERATOR.NAME == TORCHVISION_ANCHORS:
        _check_torchvision_anchors(cfg, part)
    sizes, ratios = cfg.MODEL.ANCHOR_GENERATOR.SIZES, cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS
    counts = {
        len(sizes[level % len(sizes)]) * len(ratios[level % len(ratios)]) for level in range(levels)
    }
    if len(counts) > 1:
        raise ValueError(
            f"MODEL.ANCHOR_GENERATOR.SIZES = {sizes} and ASPECT_RATIOS = {ratios} give "
            f"{sorted(counts)} anchors at different levels; give every level the same number"
        )
    if max(counts) > _MOST_ANCHORS:
        raise ValueError(
            f"MODEL.ANCHOR_GENERATOR.SIZES and ASPECT_RATIOS give {max(counts)} anchors at each "
            f"place; write fewer, {_MOST_ANCHORS} at most"
        )


def _check_torchvision_anchors(cfg: CfgNode, part: str) -> None:
    """Refuse feature maps for which torchvision's anchors have no size of the image to go by."""
    name, first = cfg.MODEL.ANCHOR_GENERATOR.NAME, cfg.MODEL[part].IN_FEATURES[0]
    if first not in ("p2", "p3", "p4", "p5"):
        raise ValueError(
            f"MODEL.{part}.IN_FEATURES begins with {first!r}, and MODEL.ANCHOR_GENERATOR.NAME = "
            f"{name!r} takes the image's size from it; begin with p3, or write "
            "DefaultAnchorGenerator"
        )
    if offset := cfg.MODEL.ANCHOR_GENERATOR.OFFSET:
        raise ValueError(
            f"MODEL.ANCHOR_GENERATOR.OFFSET = {offset}, but {name} has none; write 0.0, or "
            "DefaultAnchorGenerator"
        )


def _check_rpn(cfg: CfgNode) -> None:
    dims = cfg.MODEL.RPN.CONV_DIMS
    if not 1 <= len(dims) <= _MOST_LAYERS or not all(
        dim == -1 or 1 <= dim <= MOST_CHANNELS for dim in dims
    ):
        raise ValueError(
            f"MODEL.RPN.CONV_DIMS = {show(dims)}: write the channels of one convolution or more, "
            "-1 for those of its input"
        )


def _check_retinanet(cfg: CfgNode) -> None:
    prior, alpha = cfg.MODEL.RETINANET.PRIOR_PROB, cfg.MODEL.RETINANET.FOCAL_LOSS_ALPHA
    if not 0 < prior < 1:
        raise ValueError(
            f"MODEL.RETINANET.PRIOR_PROB = {prior}: write a number between 0 and 1, such as 0.01, "
            "the score that every class begins with"
        )
    if not (alpha == -1 or 0 <= alpha <= 1):
        raise ValueError(
            f"MODEL.RETINANET.FOCAL_LOSS_ALPHA = {alpha}: write the weight of objects, from 0 to "
            "1, such as 0.25, or -1 for none"
        )
    if (limit := cfg.TEST.DETECTIONS_PER_IMAGE) < 0:
        raise ValueError(
            f"TEST.DETECTIONS_PER_IMAGE = {limit} is not supported of RetinaNet, of which "
            "detectron2 would drop the worst detection; write how many an image may have"
        )


def _check_matching(cfg: CfgNode) -> None:
    for name in list_parts_in_use(cfg):
        thresholds, labels = cfg.MODEL[name].IOU_THRESHOLDS, cfg.MODEL[name].IOU_LABELS
        rising = bool(thresholds) and thresholds[0] > 0 and sorted(thresholds) == list(thresholds)
        if not rising or len(labels) != len(thresholds) + 1:
            raise ValueError(
                f"MODEL.{name}.IOU_THRESHOLDS = {thresholds} must rise from above 0, and "
                f"IOU_LABELS = {labels} must be one longer; write, for example, [0.3, 0.7] and "
                "[0, -1, 1]"
            )
        known = [label for label in labels if label != -1]
        if sorted(known) != known or not {0, 1} == set(known) or labels[-1] != 1:
            raise ValueError(
                f"MODEL.{name}.IOU_LABELS = {labels}: write 0 (background), then 1 (object) for "
                "what overlaps most, and -1 (ignore) among them, such as [0, -1, 1]"
            )


def _check_box_deltas(cfg: CfgNode, key: str) -> None:
    weights = get_value(cfg, key)
    if not _are_weights(weights):
        raise ValueError(
            f"{key} = {weights}: write four numbers above 0, for x, y, width and height"
        )


def _are_weights(value: Any) -> bool:
    """Tell whether these are the weights of the four deltas of a box."""
    return isinstance(value, (list, tuple)) and len(value) == 4 and all(w > 0 for w in value)


def _check_cascade(cfg: CfgNode) -> None:
    heads, stages = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_CASCADE_HEAD
    ious, weights = stages.IOUS, stages.BBOX_REG_WEIGHTS
    node = "MODEL.ROI_BOX_CASCADE_HEAD"
    if not cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG:
        raise ValueError(
            f"MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = False, but {heads.NAME} hands one box of "
            "a region on to the next stage, of whatever class; write True"
        )
    if not 1 <= len(ious) <= _MOST_STAGES or len(weights) != len(ious):
        raise ValueError(
            f"{node}.IOUS = {show(ious)} and BBOX_REG_WEIGHTS = {show(weights)} must have one "
            f"entry for each stage, {_MOST_STAGES} stages at most; write, for example, (0.5, 0.6) "
            "and ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0))"
        )
    if not all(map(_are_weights, weights)):
        raise ValueError(
            f"{node}.BBOX_REG_WEIGHTS = {show(weights)}: write four numbers above 0 for each "
            "stage, for x, y, width and height"
        )
    if list(ious) != sorted(ious):
        raise ValueError(
            f"{node}.IOUS = {show(ious)} falls, and each stage gets the better boxes of the one "
            "before it; write rising numbers, such as (0.5, 0.6, 0.7)"
        )
    if ious[0] != heads.IOU_THRESHOLDS[0]:
        raise ValueError(
            f"{node}.IOUS = {show(ious)} begins with another number than "
            f"MODEL.ROI_HEADS.IOU_THRESHOLDS = {heads.IOU_THRESHOLDS}, by which the regions of the "
            "first stage are sampled; write the same first number in both"
        )


def _check_masks(cfg: CfgNode) -> None:
    name, mask = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_MASK_HEAD
    if "ROI_HEADS" not in list_parts_in_use(cfg):
        raise ValueError(
            f"MODEL.MASK_ON = True, but MODEL.META_ARCHITECTURE = {name!r} computes no masks; "
            "write False, or MODEL.META_ARCHITECTURE: GeneralizedRCNN"
        )
    if not uses_c4_head(cfg):
        return
    defaults = get_cfg().MODEL.ROI_MASK_HEAD
    for key in ("POOLER_RESOLUTION", "POOLER_SAMPLING_RATIO", "POOLER_TYPE"):
        default = defaults[key]
        if mask[key] != default:
            raise ValueError(
                f"MODEL.ROI_MASK_HEAD.{key} = {mask[key]!r} has no effect under "
                f"{cfg.MODEL.ROI_HEADS.NAME}, whose masks and boxes share the features that "
                f"MODEL.ROI_BOX_HEAD.{key} cuts out; write {default!r}"
            )


def _check_box_head(cfg: CfgNode) -> None:
    heads, box = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD
    given = (
        f"MODEL.ROI_BOX_HEAD.NAME = {box.NAME!r}, NUM_FC = {box.NUM_FC}, NUM_CONV = {box.NUM_CONV}"
    )
    if uses_c4_head(cfg):
        if list(heads.IN_FEATURES) != ["res4"] or uses_fpn(cfg):
            raise ValueError(
                f"MODEL.ROI_HEADS.IN_FEATURES = {heads.IN_FEATURES}, but {heads.NAME} continues "
                "res4 of a plain backbone; write ['res4'], or MODEL.ROI_HEADS.NAME: "
                "StandardROIHeads"
            )
        if box.NAME or box.NUM_FC or box.NUM_CONV:
            raise ValueError(
                f"{given}, but {heads.NAME} has no box head; write '', 0 and 0, or "
                "MODEL.ROI_HEADS.NAME: StandardROIHeads"
            )
    elif not box.NAME or box.NUM_FC + box.NUM_CONV == 0:
        raise ValueError(
            f"{given}, but {heads.NAME} needs a box head; write FastRCNNConvFCHead and, for "
            "example, NUM_FC 2"
        )
