"""Check a detector's configuration: every value is honored, and no two contradict each other.

What would not be honored is refused, with the key, its value and what to write instead.
"""

from __future__ import annotations

from typing import Any

from fvcore.common.config import CfgNode

from resnext_det.config.augmentation import check_augmentation
from resnext_det.config.backbone import (
    check_backbone,
    check_c4_head,
    check_resnet_layers,
    check_standard_head,
)
from resnext_det.config.detection import get_cfg
from resnext_det.config.rules import check_layers, get_value
from resnext_det.config.values import (
    C4_HEADS,
    CASCADE_HEAD,
    FPN_BACKBONES,
    MOST_CHANNELS,
    P6_P7_BACKBONES,
    SHARED_C4_HEAD,
    TORCHVISION_ANCHORS,
    check_cosine,
    check_values,
)
from resnext_det.files import show
from resnext_det.resnext import FEATURES

_MOST_LAYERS = 100
_MOST_ANCHORS = 1000
_MOST_STAGES = 10  # of a cascade


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
        _check_box_deltas(cfg, "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS")
        _check_box_head(cfg)
        if cfg.MODEL.ROI_HEADS.NAME == CASCADE_HEAD:
            _check_cascade(cfg)
    if cfg.MODEL.MASK_ON:
        _check_masks(cfg)
    check_cosine(cfg.SOLVER)
    _check_layers(cfg)


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
    if not all(std > 0 for std in cfg.MODEL.PIXEL_STD):
        raise ValueError(
            f"MODEL.PIXEL_STD = {cfg.MODEL.PIXEL_STD} must be above 0: the image is divided by it; "
            "write 1.0 for no scaling"
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
        if not all(number > 0 for level in value for number in level):
            raise ValueError(f"MODEL.ANCHOR_GENERATOR.{key} = {value}: write numbers above 0")
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
        if not set(labels) <= {-1, 0, 1}:
            raise ValueError(
                f"MODEL.{name}.IOU_LABELS = {labels}: write -1 (ignore), 0 (background) or "
                "1 (object) in it"
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
