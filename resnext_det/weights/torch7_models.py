"""The paper's own networks, as Torch 7 saved them, under our names.

Their modules have no names and lie in the order of ``models/resnext.lua`` of
facebookresearch/ResNeXt: a block is a ``ConcatTable`` of its path and its shortcut, and a sum. Form
B, where the path is a ``ConcatTable`` of one path a group, becomes form C by putting the groups one
after the other.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from resnext_det.weights.rounding import compute_exactly
from resnext_det.weights.torch7 import TorchObject

_NORM_EPS = 1e-5
# A small file can refer to one tensor or module again and again: what it may become is bounded.
_MOST_WRAPPERS = 4
_MOST_BLOCKS = 200
_MOST_CHANNELS = 1 << 16
_MOST_ELEMENTS = 1 << 24
_WRAPPERS = ("DataParallelTable", "Sequential")
_CONVOLUTIONS = ("SpatialConvolution", "SpatialConvolutionMM")
_NORMS = ("SpatialBatchNormalization", "BatchNormalization")
_WITHOUT_WEIGHTS = (
    *("ReLU", "Identity", "SpatialMaxPooling", "SpatialAveragePooling", "View", "Reshape"),
    *("Dropout", "JoinTable", "CAddTable", "SoftMax", "LogSoftMax"),
)


def convert_torch7_network(contents: Any) -> dict[str, Tensor]:
    """Name the weights of a ResNet or ResNeXt classifier: stem.conv1.weight ... linear.bias.

    Batch norms of another epsilon than ours (1e-5) get the variance that makes up for it; a
    convolution's bias goes into the mean of the norm behind it.

    Args:
        contents: of a Torch 7 file: the network, or a table that holds it under "model".

    Raises:
        ValueError: the network is another one; the text says where it differs.
    """
    network = contents.get("model", contents) if isinstance(contents, dict) else contents
    for _ in range(_MOST_WRAPPERS):
        if isinstance(network, TorchObject) and _get_kind(network) in _WRAPPERS:
            inner = _list_modules(network, "the network")
            network = inner[0] if len(inner) == 1 else network
    parts = _list_with_weights(network, "the network")
    _check(
        len(parts) == 7,
        f"the network has {len(parts)} parts with weights, not the 7 of a ResNeXt for ImageNet",
    )
    state = _convert_layer("stem.conv1", parts[0], parts[1])
    for stage, part in zip(("res2", "res3", "res4", "res5"), parts[2:6]):
        blocks = _list_modules(part, stage)
        _check(len(blocks) <= _MOST_BLOCKS, f"{stage} has {len(blocks)} blocks")
        for index, block in enumerate(blocks):
            state |= _convert_block(f"{stage}.{index}", block)
    head = parts[6]
    _check(
        _get_kind(head) == "Linear", f"the network ends with {head.class_name}, not with nn.Linear"
    )
    state["linear.weight"] = _get_tensor(head, "weight", "linear")
    state["linear.bias"] = _get_tensor(head, "bias", "linear")
    return state


def _convert_block(name: str, block: TorchObject) -> dict[str, Tensor]:
    parts = _list_modules(block, name)
    kinds = [_get_kind(part) for part in parts]
    _check(
        kinds[:2] == ["ConcatTable", "CAddTable"],
        f"{name} is of {', '.join(kinds[:4])}, no residual block",
    )
    both = _list_modules(parts[0], name)
    _check(len(both) == 2, f"{name} sums {len(both)} paths, not 2")
    path, shortcut = (_list_with_weights(each, name) for each in both)
    _check(
        len(shortcut) in (0, 2),
        f"{name} has a shortcut of {len(shortcut)} modules, not a convolution and a norm",
    )
    state = _convert_layer(f"{name}.shortcut", *shortcut) if shortcut else {}
    first = 1
    if path and _get_kind(path[0]) == "ConcatTable":
        state |= _join_groups(name, path[0])
        path, first = path[1:], 3
    _check(
        len(path) == 8 - 2 * first, f"{name} has {len(path)} convolutions and norms, no bottleneck"
    )
    for index in range(0, len(path), 2):
        state |= _convert_layer(f"{name}.conv{first + index // 2}", path[index], path[index + 1])
    return state


def _join_groups(name: str, table: TorchObject) -> dict[str, Tensor]:
    """Join conv1 and conv2 of form B (figure 3b) to those of form C (figure 3c)."""
    parts: dict[str, list[Tensor]] = {}
    for number, group in enumerate(_list_modules(table, name), start=1):
        modules = _list_with_weights(group, name)
        _check(
            len(modules) == 4,
            f"{name} has {len(modules)} modules in group {number}, not 2 convolutions and 2 norms",
        )
        layers = _convert_layer(f"{name}.conv1", *modules[:2])
        layers |= _convert_layer(f"{name}.conv2", *modules[2:])
        for key, tensor in layers.items():
            parts.setdefault(key, []).append(tensor)
    for key, tensors in parts.items():
        shapes = {tensor.shape for tensor in tensors}
        _check(len(shapes) == 1, f"{key} differs in shape between the groups")
        elements = len(tensors) * tensors[0].numel()
        _check(elements <= _MOST_ELEMENTS, f"{key} has {elements} elements in all groups")
    return {key: torch.cat(tensors) for key, tensors in parts.items()}


def _convert_layer(name: str, convolution: TorchObject, norm: TorchObject) -> dict[str, Tensor]:
    _check(
        _get_kind(convolution) in _CONVOLUTIONS and _get_kind(norm) in _NORMS,
        f"{name} is of {convolution.class_name} and {norm.class_name}, no convolution and norm",
    )
    weight = _get_weight(convolution, name)
    channels = len(weight)
    _check(channels <= _MOST_CHANNELS, f"{name} has {channels} channels")
    vectors = {key: _get_tensor(norm, key, name) for key in ("weight", "bias", "running_mean")}
    vectors["running_var"] = _get_variance(norm, name)
    for key, tensor in vectors.items():
        _check(
            tensor.shape == (channels,),
            f"{name}'s {key} is {tuple(tensor.shape)}, not ({channels},) as its convolution needs",
        )
    bias = convolution.fields.get("bias")
    if isinstance(bias, Tensor):
        _check(
            bias.shape == (channels,), f"{name}'s bias is {tuple(bias.shape)}, not ({channels},)"
        )
        vectors["running_mean"] = compute_exactly(torch.sub, vectors["running_mean"], bias)
    norms = {f"{name}.norm.{key}": tensor for key, tensor in vectors.items()}
    return {f"{name}.weight": weight, **norms}


def _get_weight(convolution: TorchObject, name: str) -> Tensor:
    """Return a convolution's weight (out, in, height, width).

    Older files have it as a matrix, (out, in * height * width).
    """
    weight = _get_tensor(convolution, "weight", name)
    if weight.ndim == 4:
        return weight
    numbers: list[Any] = [
        convolution.fields.get(key) for key in ("nOutputPlane", "nInputPlane", "kH", "kW")
    ]
    groups = convolution.fields.get("groups") or 1
    if not all(type(number) is int and number > 0 for number in (*numbers, groups)):
        raise _another_network(f"{name}'s convolution lacks its numbers")
    out, planes, height, width = numbers
    shape = (out, planes // groups, height, width)
    _check(
        weight.numel() == math.prod(shape), f"{name}'s weight is {tuple(weight.shape)}, not {shape}"
    )
    return weight.reshape(shape)


def _get_variance(norm: TorchObject, name: str) -> Tensor:
    """Return the variance with which our epsilon gives the norm's results."""
    eps = norm.fields.get("eps", _NORM_EPS)
    _check(
        isinstance(eps, float | int) and 0 <= eps < 1, f"{name}'s norm has the epsilon {eps!r:.40}"
    )
    if isinstance(norm.fields.get("running_std"), Tensor):
        # files of 2015 have 1 / sqrt(variance + epsilon) there
        inverse = _get_tensor(norm, "running_std", name)
        return compute_exactly(lambda inverse: inverse.pow(-2) - _NORM_EPS, inverse)
    variance = _get_tensor(norm, "running_var", name)
    if eps == _NORM_EPS:
        return variance
    return compute_exactly(lambda variance: variance + (eps - _NORM_EPS), variance)


def _get_tensor(module: TorchObject, key: str, name: str) -> Tensor:
    tensor = module.fields.get(key)
    if not isinstance(tensor, Tensor) or not tensor.numel():
        raise _another_network(f"{name}: its {module.class_name} has no {key}")
    return tensor


def _get_kind(module: TorchObject) -> str:
    """Name the class without its package: nn, cudnn, cunn and fbnn have the same fields."""
    return module.class_name.rpartition(".")[2]


def _list_modules(module: Any, name: str) -> list[TorchObject]:
    modules = module.fields.get("modules") if isinstance(module, TorchObject) else None
    if not isinstance(modules, dict):
        what = module.class_name if isinstance(module, TorchObject) else type(module).__name__
        raise _another_network(f"{name} is {what!r:.60}, which has no modules")
    inner = [modules.get(number) for number in range(1, len(modules) + 1)]
    found = [each for each in inner if isinstance(each, TorchObject)]
    _check(len(found) == len(inner), f"{name} has other things than modules in it")
    return found


def _list_with_weights(module: Any, name: str) -> list[TorchObject]:
    if isinstance(module, TorchObject) and _get_kind(module) in _WITHOUT_WEIGHTS:
        return []
    return [
        inner for inner in _list_modules(module, name) if _get_kind(inner) not in _WITHOUT_WEIGHTS
    ]


def _check(right: bool, problem: str) -> None:
    if not right:
        raise _another_network(problem)


def _another_network(problem: str) -> ValueError:
    return ValueError(
        f"the Torch 7 network is no ResNet or ResNeXt for ImageNet: {problem}; give one of "
        "facebookresearch/ResNeXt's or fb.resnet.torch's models"
    )
