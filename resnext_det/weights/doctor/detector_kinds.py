"""Tell the kind of a trained detector by the names of its weights, and count its classes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from resnext_det.weights.file import WeightFile

# Names that tell what regions are cut from, where a file holds no configuration.
_PARTS = (("backbone.fpn_", "FPN"), ("roi_heads.res5.", "C4"), ("roi_heads.box_head.", "DC5"))
# Names of parts of kinds for which no configuration is shipped: other mask heads, keypoints,
# panoptic segmentation.
_OTHER_HEADS = re.compile(
    r"(roi_heads\.(mask_(?!head\.(?:mask_fcn\d+|deconv|predictor)\.)|keypoint_)|sem_seg_).*"
)
_STAGE = re.compile(r"roi_heads\.box_head\.(\d+)\..*")
_DENSE_LAYERS = re.compile(r"head\.((cls|bbox)_subnet\.[0246]|cls_score|bbox_pred)\..*")
_CLASS_SCORES = re.compile(r"roi_heads\.box_predictor\.(?:0\.)?cls_score\.weight")
_ANCHORS = 9  # at each place, of RetinaNets whose configurations are shipped


def find_detector_kind(state: Mapping[str, Tensor]) -> str | None:
    """Find the kind of a trained detector by the names of its weights.

    Returns:
        a kind that ``choose_config`` knows; None where no configuration of its kind is shipped.
    """
    if any(map(_OTHER_HEADS.match, state)):
        return None
    if any(name.startswith("head.") for name in state):
        return _find_dense_kind(state)
    kind = next((kind for part, kind in _PARTS if any(part in n for n in state)), "RPN")
    if kind == "FPN" and not any(name.startswith("roi_heads.") for name in state):
        return None  # an RPN of a pyramid
    if stages := {found[1] for found in map(_STAGE.fullmatch, state) if found}:
        if kind != "FPN" or stages != {"0", "1", "2"}:
            return None
        kind = "FPN, cascade"
    return f"{kind}, masks" if any(".mask_head." in name for name in state) else kind


def _find_dense_kind(state: Mapping[str, Tensor]) -> str | None:
    """Find the kind of a RetinaNet by where its p6 is from; None if its head is another."""
    heads = [name for name in state if name.startswith("head.")]
    p6, lateral = (state.get(f"backbone.{n}.weight") for n in ("top_block.p6", "fpn_lateral5"))
    plain = all(map(_DENSE_LAYERS.fullmatch, heads)) and "head.cls_subnet.6.weight" in state
    if not plain or p6 is None or lateral is None or _count_anchors(state) != _ANCHORS:
        return None
    return "RetinaNet, p6 from p5" if p6.shape[1] == len(lateral) else "RetinaNet"


def _count_anchors(state: Mapping[str, Tensor]) -> int:
    """Count the anchors at each place of a RetinaNet, whose boxes have four deltas each."""
    deltas = state.get("head.bbox_pred.bias")
    return 0 if deltas is None else len(deltas) // 4


def count_classes(file: WeightFile) -> int | None:
    """Count the classes of a detector, by its names for them or by its outputs."""
    if file.class_names:
        return len(file.class_names)
    scores, anchors = file.state.get("head.cls_score.bias"), _count_anchors(file.state)
    if scores is not None and anchors:
        return len(scores) // anchors
    rows = [len(tensor) for name, tensor in file.state.items() if _CLASS_SCORES.fullmatch(name)]
    return rows[0] - 1 if rows else None  # one is the background's
