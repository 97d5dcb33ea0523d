"""Find the network that weights under our names belong to: its architecture, deformable stages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from resnext_det.architecture import BLOCKS_PER_STAGE, DETECTION_DEPTHS, Architecture
from resnext_det.weights.other_networks import find_cause

_STAGES = ("res2", "res3", "res4", "res5")
_OF_A_BLOCK = re.compile(r"(res[2-5])\.(\d{1,4})\.(.*)")
_PARTS_OF_A_BLOCK = re.compile(
    r"(conv[123]|shortcut)\.(weight|norm\.\w+)|conv2_offset\.(weight|bias)"
)
_OFFSETS = re.compile(r"(?:.*\.)?(res[2-5])\.\d+\.conv2_offset\.bias")
_SHORTCUT = re.compile(r"res\d\.\d+\.shortcut\.weight")
_OF_A_DETECTOR = re.compile(
    r"(?:backbone\.(?:bottom_up\.)?|bottom_up\.|roi_heads\.(?=res5\.))((?:stem|res[2-5])\..*)"
)


def guess_architecture(state: Mapping[str, Tensor]) -> Architecture | None:
    """Find the network that weights belong to; None where they are of no ResNeXt or ResNet."""
    try:
        return find_architecture(state)
    except ValueError:
        return None


def find_architecture(state: Mapping[str, Tensor]) -> Architecture:
    """Find the network that weights belong to, by the names and shapes of its convolutions.

    The blocks of every stage tell the depth, the 3x3 convolutions of res2 cardinality and width.
    Every convolution of the network must be there, and have its shape; norms, classifier and the
    number of input channels do not matter. A backbone may end at res4.

    Args:
        state: weights under our names: of a classifier, a backbone or a whole detector.

    Raises:
        ValueError: they are of no ResNeXt or ResNet with bottleneck blocks; the text says where
            they differ.
    """
    if "stem.conv1.weight" not in state:
        state = extract_detector_backbone(state)
    cause = find_cause_in_blocks(state)
    if cause:
        raise ValueError(cause)
    blocks = _count_blocks(state)
    depths = [depth for depth, n in BLOCKS_PER_STAGE.items() if n[: len(blocks)] == blocks]
    if len(depths) != 1 or len(blocks) < 2:
        known = ", ".join(f"{d}: {'-'.join(map(str, n))}" for d, n in BLOCKS_PER_STAGE.items())
        raise ValueError(
            f"the weights have {'-'.join(map(str, blocks)) or 'no'} blocks in the stages from res2 "
            f"on, as no net of {known} has"
        )
    stem_channels, _, *size = _find_shape(state, "stem.conv1.weight")
    res2_channels = _find_shape(state, "res2.0.conv3.weight")[0]
    kernel = 7 if depths[0] in DETECTION_DEPTHS else 3
    if size != [kernel, kernel]:
        raise ValueError(
            f"the weights' first convolution is {size[0]}x{size[1]}, where that of a "
            f"ResNeXt-{depths[0]} is {kernel}x{kernel}"
        )
    bottleneck_channels, width, *_ = _find_shape(state, "res2.0.conv2.weight")
    if bottleneck_channels % width:
        raise ValueError(
            f"res2.0.conv2 has {bottleneck_channels} channels and groups of {width}; these do not "
            "divide"
        )
    architecture = Architecture(
        depths[0],
        bottleneck_channels // width,
        width,
        stem_channels,
        res2_channels,
        shortcuts=any(map(_SHORTCUT.fullmatch, state)),
    )
    _check_convolutions(state, architecture, _STAGES[: len(blocks)])
    return architecture


def find_deformable_settings(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Find the keys of MODEL.RESNETS that tell a network's deformable stages, with their values.

    Args:
        state: weights under our names: of a classifier, a backbone or a whole detector.

    Returns:
        DEFORM_ON_PER_STAGE, DEFORM_MODULATED and DEFORM_NUM_GROUPS; the last two are left out where
        the number of channels allows both kinds. Empty where no stage is deformable.
    """
    offsets = {found[1]: state[name] for name in state if (found := _OFFSETS.fullmatch(name))}
    if not offsets:
        return {}
    settings: dict[str, Any] = {"DEFORM_ON_PER_STAGE": [stage in offsets for stage in _STAGES]}
    channels = next(iter(offsets.values())).numel()
    kinds = [
        (modulated, size) for modulated, size in ((False, 18), (True, 27)) if not channels % size
    ]
    if len(kinds) == 1:
        ((modulated, size),) = kinds
        settings |= {"DEFORM_MODULATED": modulated, "DEFORM_NUM_GROUPS": channels // size}
    return settings


def extract_detector_backbone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take the ResNeXt out of a detector's weights, under a classifier's names: stem, res2 ...

    It is looked for under ``backbone``, under ``backbone.bottom_up`` of a pyramid, and its res5
    under ``roi_heads.res5`` of a C4 detector. Everything else is left out.

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
            "the weights have no stem.conv1.weight, neither bare nor under backbone or "
            f"backbone.bottom_up (first name {next(iter(state), 'none')!a:.80}); give those of a "
            "ResNeXt or of a detector that has one"
        )
    return backbone


def find_cause_in_blocks(state: Mapping[str, Tensor]) -> str | None:
    """Find why a backbone, under our names, is of no ResNeXt; None where nothing known is wrong."""
    return find_cause(state, [name for name in state if _is_strange(name)])


def _is_strange(name: str) -> bool:
    """Tell whether a name stands in a block or the stem, and is of nothing that a ResNeXt has."""
    found = _OF_A_BLOCK.fullmatch(name)
    return found is not None and not _PARTS_OF_A_BLOCK.fullmatch(found[3])


def _count_blocks(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Count the blocks of res2, res3 ..., as far as there are stages."""
    numbers: dict[str, set[int]] = {}
    for name in state:
        found = _OF_A_BLOCK.fullmatch(name)
        if found:
            numbers.setdefault(found[1], set()).add(int(found[2]))
    stages = _STAGES[: len(numbers)]
    for stage in stages:
        if numbers.get(stage) != set(range(len(numbers.get(stage, ())))):
            raise ValueError(f"the weights lack some of the blocks of {stage}")
    return tuple(len(numbers[stage]) for stage in stages)


def _check_convolutions(
    state: Mapping[str, Tensor], architecture: Architecture, stages: tuple[str, ...]
) -> None:
    expected = {
        f"{layer.name}.weight": (
            layer.out_channels,
            layer.in_channels // layer.groups,
            *[layer.kernel_size] * 2,
        )
        for layer in architecture.convolutions()
        if layer.name.startswith(stages)
    }
    for name, shape in expected.items():
        if _find_shape(state, name) != shape:
            raise ValueError(
                f"{name} is {_find_shape(state, name)}, where {architecture} has {shape}: the "
                "weights are of no ResNeXt of one template"
            )
    for name in filter(_SHORTCUT.fullmatch, state):
        if name not in expected:
            raise ValueError(f"the weights have {name}, where {architecture} has no projection")


def _find_shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    if name not in state:
        raise ValueError(f"the weights lack {name}")
    shape = tuple(state[name].shape)
    if len(shape) != 4 or 0 in shape:
        raise ValueError(f"{name} is {shape}, no weight of a convolution")
    return shape
