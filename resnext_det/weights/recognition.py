"""Which network weights belong to, told by the shapes of the weights, and a detector's backbone among its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from resnext_det.architecture import BLOCKS_PER_STAGE, DETECTION_DEPTHS, Architecture

_STAGES = ("res2", "res3", "res4", "res5")
_OF_A_BLOCK = re.compile(r"(res[2-5])\.(\d{1,4})\.(.*)")
_PARTS_OF_A_BLOCK = re.compile(r"(conv[123]|shortcut)\.(weight|norm\.\w+)")
_SHORTCUT = re.compile(r"res\d\.\d+\.shortcut\.weight")
_OF_A_DETECTOR = re.compile(
    r"(?:backbone\.(?:bottom_up\.)?|bottom_up\.|roi_heads\.(?=res5\.))((?:stem|res[2-5])\..*)"
)


def recognise(state: Mapping[str, Tensor]) -> Architecture | None:
    """The network that weights belong to, or None: ``recognised`` without its error."""
    try:
        return recognised(state)
    except ValueError:
        return None


def recognised(state: Mapping[str, Tensor]) -> Architecture:
    """The network that weights belong to, from the names and shapes of its convolutions.

    The depth is told by the blocks of every stage, cardinality and width by the 3x3 convolutions of res2. Every convolution of
    the network must be there, and have its shape; norms, classifier and the number of input channels do not matter. A backbone
    may end at res4.

    Args:
        state: weights under our names: of a classifier, a backbone or a whole detector.

    Raises:
        ValueError: they are of no ResNeXt or ResNet with bottleneck blocks; the text says where they differ.
    """
    if "stem.conv1.weight" not in state:
        state = backbone_of_detector(state)
    blocks = _blocks(state)
    depths = [
        depth for depth, counts in BLOCKS_PER_STAGE.items() if counts[: len(blocks)] == blocks
    ]
    if len(depths) != 1:
        known = ", ".join(
            f"{depth}: {'-'.join(map(str, n))}" for depth, n in BLOCKS_PER_STAGE.items()
        )
        counts = "-".join(map(str, blocks)) or "no"
        raise ValueError(
            f"the weights have {counts} blocks in the stages from res2 on, as no net of {known} has"
        )
    (stem_channels, _, *size), (res2_channels, *_) = (
        _shape(state, name) for name in ("stem.conv1.weight", "res2.0.conv3.weight")
    )
    kernel = 7 if depths[0] in DETECTION_DEPTHS else 3
    if size != [kernel, kernel]:
        raise ValueError(
            f"the weights' first convolution is {size[0]}x{size[1]}, where that of a ResNeXt-{depths[0]} is {kernel}x{kernel}"
        )
    bottleneck_channels, width, *_ = _shape(state, "res2.0.conv2.weight")
    if bottleneck_channels % width:
        raise ValueError(
            f"res2.0.conv2 has {bottleneck_channels} channels and groups of {width}; these do not divide"
        )
    cardinality, shortcuts = bottleneck_channels // width, any(map(_SHORTCUT.fullmatch, state))
    architecture = Architecture(
        depths[0], cardinality, width, stem_channels, res2_channels, shortcuts=shortcuts
    )
    _check(state, architecture, len(blocks))
    return architecture


def backbone_of_detector(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The ResNeXt of a detector's weights, under a classifier's names: stem, res2 ... res5.

    It is looked for under ``backbone``, under ``backbone.bottom_up`` of a pyramid, and its res5 under ``roi_heads.res5`` of a C4
    detector. Everything else is left out.

    Raises:
        ValueError: there is no stem under any of these names, or one weight is there twice.
    """
    backbone: dict[str, Tensor] = {}
    for name, tensor in state.items():
        found = _OF_A_DETECTOR.fullmatch(name)
        if found is None:
            continue
        if found[1] in backbone:
            raise ValueError(
                f"the detector has the weight {found[1]} in two places, the second is {name}"
            )
        backbone[found[1]] = tensor
    if "stem.conv1.weight" not in backbone:
        raise ValueError(
            f"the weights have no stem.conv1.weight, neither bare nor under backbone or backbone.bottom_up (first name "
            f"{next(iter(state), 'none')!a:.80}); give those of a ResNeXt or of a detector that has one"
        )
    return backbone


def _blocks(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """How many blocks the stages have: of res2, res3 ..."""
    numbers: dict[str, set[int]] = {}
    for name in state:
        found = _OF_A_BLOCK.fullmatch(name)
        if found:
            if not _PARTS_OF_A_BLOCK.fullmatch(found[3]):
                raise ValueError(f"the weights have {name!a:.80}, which no ResNeXt has")
            numbers.setdefault(found[1], set()).add(int(found[2]))
    counts = []
    for stage in _STAGES[: len(numbers)]:
        if numbers.get(stage) != set(range(len(numbers.get(stage, ())))):
            raise ValueError(f"the weights lack some of the blocks of {stage}")
        counts.append(len(numbers[stage]))
    return tuple(counts)


def _check(state: Mapping[str, Tensor], architecture: Architecture, num_stages: int) -> None:
    expected = {
        f"{layer.name}.weight": (
            layer.out_channels,
            layer.in_channels // layer.groups,
            *[layer.kernel_size] * 2,
        )
        for layer in architecture.convolutions()
        if layer.name.partition(".")[0] in _STAGES[:num_stages]
    }
    for name, shape in expected.items():
        if _shape(state, name) != shape:
            raise ValueError(
                f"{name} is {_shape(state, name)}, where {architecture} has {shape}: the weights are of no ResNeXt of one template"
            )
    for name in filter(_SHORTCUT.fullmatch, state):
        if name not in expected:
            raise ValueError(f"the weights have {name}, where {architecture} has no projection")


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    if name not in state:
        raise ValueError(f"the weights lack {name}")
    shape = tuple(state[name].shape)
    if len(shape) != 4 or 0 in shape:
        raise ValueError(f"{name} is {shape}, no weight of a convolution")
    return shape
