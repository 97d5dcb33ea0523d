"""Names of other libraries' weights, each as a table of renames into detectron2's names, which are ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# Pattern of torchvision's name (timm's and gluon's too) -> ours. Stage "layer1" is res2.
_TORCHVISION = (
    (r"conv1\.(.*)", r"stem.conv1.\1"),
    (r"bn1\.(.*)", r"stem.conv1.norm.\1"),
    (r"layer(\d)\.(\d+)\.downsample\.0\.(.*)", r"res{stage}.\2.shortcut.\3"),
    (r"layer(\d)\.(\d+)\.downsample\.1\.(.*)", r"res{stage}.\2.shortcut.norm.\3"),
    (r"layer(\d)\.(\d+)\.conv(\d)\.(.*)", r"res{stage}.\2.conv\3.\4"),
    (r"layer(\d)\.(\d+)\.bn(\d)\.(.*)", r"res{stage}.\2.conv\3.norm.\4"),
    (r"fc\.(.*)", r"linear.\1"),
)


def format_of(state: Mapping[str, Tensor]) -> str:
    """Which library's names these are, told by the names alone.

    Returns:
        ``detector`` (a whole detector in our names), ``detectron2`` (a backbone or classifier in our names) or ``torchvision``.

    Raises:
        ValueError: none of them.
    """
    if any(name.startswith(("backbone.", "roi_heads.", "proposal_generator.")) for name in state):
        return "detector"
    if "stem.conv1.weight" in state:
        return "detectron2"
    if "conv1.weight" in state and any(name.startswith("layer1.") for name in state):
        return "torchvision"
    some = ", ".join(list(state)[:4])
    raise ValueError(
        f"weights named {some} ... are of no known format; give a checkpoint of this project or of detectron2, or a ResNeXt "
        "in torchvision's names (conv1.weight, layer1.0.conv1.weight ...)"
    )


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under our names.

    Raises:
        ValueError: a name that torchvision's ResNeXt does not have.
    """
    return {_renamed(name): tensor for name, tensor in state.items()}


def _renamed(name: str) -> str:
    for pattern, replacement in _TORCHVISION:
        found = re.fullmatch(pattern, name)
        if found:
            stage = str(int(found[1]) + 1) if "{stage}" in replacement else ""
            return found.expand(replacement.replace("{stage}", stage))
    raise ValueError(f"{name!r} is no name of torchvision's ResNeXt; remove it from the file, or rename it")
