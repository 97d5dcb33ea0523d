"""Names of other libraries' weights, each as a table of renames into detectron2's names, which are ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# Pattern of torchvision's name (timm's, gluon's and mmpretrain's too) -> ours. Stage "layer1" is res2.
_TORCHVISION = (
    (r"conv1\.(.*)", r"stem.conv1.\1"),
    (r"bn1\.(.*)", r"stem.conv1.norm.\1"),
    (r"layer(\d)\.(\d+)\.downsample\.0\.(.*)", r"res{stage}.\2.shortcut.\3"),
    (r"layer(\d)\.(\d+)\.downsample\.1\.(.*)", r"res{stage}.\2.shortcut.norm.\3"),
    (r"layer(\d)\.(\d+)\.conv(\d)\.(.*)", r"res{stage}.\2.conv\3.\4"),
    (r"layer(\d)\.(\d+)\.bn(\d)\.(.*)", r"res{stage}.\2.conv\3.norm.\4"),
    (r"(?:head\.)?fc\.(.*)", r"linear.\1"),
)

# What may stand before every name of a backbone that was saved as a part of something.
_PREFIXES = ("backbone.bottom_up.", "backbone.", "bottom_up.")

# What stands in a detector of detectron2, RetinaNet included, and in no backbone.
_DETECTOR = ("roi_heads.", "proposal_generator.", "backbone.fpn_")

# Constants that detectors of detectron2 up to 0.3 saved; ours come from the configuration.
_CONSTANTS = re.compile(r"pixel_mean|pixel_std|proposal_generator\.anchor_generator\.cell_anchors\..*")


def to_native(state: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """The weights under our names, and what they are, told by the names alone.

    Returns:
        ``detector`` (a whole detector in our names), ``detectron2`` (a backbone or classifier in our names) or ``torchvision``; and
        the weights, a backbone's without what stands before its names.

    Raises:
        ValueError: the names are of no known format, or one of them is strange to it.
    """
    if any(name.startswith(_DETECTOR) for name in state):
        return "detector", {name: tensor for name, tensor in state.items() if not _CONSTANTS.fullmatch(name)}
    bare = _without_prefix(state)
    if "stem.conv1.weight" in bare:
        return "detectron2", bare
    if "conv1.weight" in bare and any(name.startswith("layer1.") for name in bare):
        return "torchvision", {_renamed(name): tensor for name, tensor in bare.items()}
    some = ", ".join(list(state)[:4])
    raise ValueError(
        f"weights named {some} ... are of no known format; give a checkpoint of this project or of detectron2, or a ResNeXt "
        "in torchvision's names (conv1.weight, layer1.0.conv1.weight ...)"
    )


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if f"{prefix}stem.conv1.weight" in state or f"{prefix}conv1.weight" in state:
            return {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return dict(state)


def _renamed(name: str) -> str:
    for pattern, replacement in _TORCHVISION:
        found = re.fullmatch(pattern, name)
        if found:
            stage = str(int(found[1]) + 1) if "{stage}" in replacement else ""
            return found.expand(replacement.replace("{stage}", stage))
    raise ValueError(f"{name!r} is no name of torchvision's ResNeXt; remove it from the file, or rename it")
