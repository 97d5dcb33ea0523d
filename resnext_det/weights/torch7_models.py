"""The paper's own networks, as Torch 7 saved them: modules without names, in the order in which they were added.

The order is that of ``models/resnext.lua`` of facebookresearch/ResNeXt: a block is a ``ConcatTable`` of its path and its shortcut,
and a sum. Form B, where the path is a ``ConcatTable`` of one path a group, becomes form C by putting the groups one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from resnext_det.weights.torch7 import TorchObject

_NORM_EPS = 1e-5
# A small file can refer to one tensor or module again and again; what is made of them stays within these.
_MOST_WRAPPERS = 4
_MOST_BLOCKS = 200
_MOST_CHANNELS = 1 << 16
_MOST_ELEMENTS = 1 << 24
_CONVOLUTIONS = ("SpatialConvolution", "SpatialConvolutionMM")
_NORMS = ("SpatialBatchNormalization", "BatchNormalization")
_WITHOUT_WEIGHTS = (
    "ReLU",
    "Identity",
    "SpatialMaxPooling",
    "SpatialAveragePooling",
    "View",
    "Reshape",
    "Dropout",
    "JoinTable",
    "CAddTable",
    "SoftMax",
    "LogSoftMax",
)
_FIELDS = ("weight", "bias", "running_mean", "running_var", "running_std")


def tensors_in_module_order(network: Any) -> list[tuple[str, Tensor]]:
    """The weights of a Torch 7 network with the places of their modules: ("5.1.1.1.weight", tensor), in the order of the modules."""
    return list(_tensors(_network(network), "", set()))


def _network(contents: Any) -> Any:
    """A file's network: bare, or in a table under "model"."""
    return contents.get("model", contents) if isinstance(contents, dict) else contents


def _tensors(module: Any, place: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(module, TorchObject) or id(module) in seen:
        return
    seen.add(id(module))
    for name in _FIELDS:
        if isinstance(module.fields.get(name), Tensor):
            yield f"{place}{name}", module.fields[name]
    modules = module.fields.get("modules")
    if isinstance(modules, dict):
        for number in sorted(number for number in modules if isinstance(number, int)):
            yield from _tensors(modules[number], f"{place}{number}.", seen)


def resnext_state_of_torch7(network: Any) -> dict[str, Tensor]:
    """The weights of a ResNet or ResNeXt classifier for ImageNet under our names: stem.conv1.weight ... linear.bias.

    Batch norms of another epsilon than ours (1e-5) get the variance that makes up for it; a convolution's bias goes into the mean of
    the norm behind it.

    Raises:
        ValueError: the network is another one; the text says where it differs.
    """
    network = _network(network)
    for _ in range(_MOST_WRAPPERS):
        if isinstance(network, TorchObject) and _kind(network) in (
            "DataParallelTable",
            "Sequential",
        ):
            inner = _children(network, "the network")
            network = inner[0] if len(inner) == 1 else network
    parts = _with_weights(network, "the network")
    _need(
        len(parts) == 7,
        f"the network has {len(parts)} parts with weights, not the 7 of a ResNeXt for ImageNet",
    )
    state = _norm_convolution("stem.conv1", parts[0], parts[1])
    for stage, part in zip(("res2", "res3", "res4", "res5"), parts[2:6]):
        blocks = _children(part, stage)
        _need(len(blocks) <= _MOST_BLOCKS, f"{stage} has {len(blocks)} blocks")
        for index, block in enumerate(blocks):
            state |= _block(f"{stage}.{index}", block)
    _need(
        _kind(parts[6]) == "Linear",
        f"the network ends with {parts[6].class_name}, not with nn.Linear",
    )
    state["linear.weight"] = _tensor(parts[6], "weight", "linear")
    state["linear.bias"] = _tensor(parts[6], "bias", "linear")
    return state


def _block(name: str, block: TorchObject) -> dict[str, Tensor]:
    parts = _children(block, name)
    kinds = [_kind(part) for part in parts]
    _need(
        kinds[:2] == ["ConcatTable", "CAddTable"],
        f"{name} is of {', '.join(kinds[:4])}, no residual block",
    )
    both = _children(parts[0], name)
    _need(len(both) == 2, f"{name} sums {len(both)} paths, not 2")
    path, shortcut = _with_weights(both[0], name), _with_weights(both[1], name)
    state: dict[str, Tensor] = {}
    _need(
        len(shortcut) in (0, 2),
        f"{name} has a shortcut of {len(shortcut)} modules, not a convolution and a norm",
    )
    if shortcut:
        state |= _norm_convolution(f"{name}.shortcut", shortcut[0], shortcut[1])
    if path and _kind(path[0]) == "ConcatTable":
        state |= _groups(name, path[0])
        path = path[1:]
        first = 3
    else:
        first = 1
    _need(
        len(path) == 8 - 2 * first, f"{name} has {len(path)} convolutions and norms, no bottleneck"
    )
    for index in range(0, len(path), 2):
        state |= _norm_convolution(f"{name}.conv{first + index // 2}", path[index], path[index + 1])
    return state


def _groups(name: str, table: TorchObject) -> dict[str, Tensor]:
    """conv1 and conv2 of form B (figure 3b), as those of form C (figure 3c)."""
    parts: dict[str, list[Tensor]] = {}
    for number, group in enumerate(_children(table, name), start=1):
        modules = _with_weights(group, name)
        _need(
            len(modules) == 4,
            f"{name} has {len(modules)} modules in group {number}, not 2 convolutions and 2 norms",
        )
        for layer, index in (("conv1", 0), ("conv2", 2)):
            for key, tensor in _norm_convolution(
                f"{name}.{layer}", modules[index], modules[index + 1]
            ).items():
                parts.setdefault(key, []).append(tensor)
    for key, tensors in parts.items():
        _need(
            len({tensor.shape for tensor in tensors}) == 1,
            f"{key} differs in shape between the groups",
        )
        elements = len(tensors) * tensors[0].numel()
        _need(elements <= _MOST_ELEMENTS, f"{key} has {elements} elements in all groups")
    return {key: torch.cat(tensors) for key, tensors in parts.items()}


def _norm_convolution(name: str, convolution: TorchObject, norm: TorchObject) -> dict[str, Tensor]:
    found = f"{convolution.class_name} and {norm.class_name}"
    _need(
        _kind(convolution) in _CONVOLUTIONS and _kind(norm) in _NORMS,
        f"{name} is of {found}, no convolution and norm",
    )
    state = {f"{name}.weight": _weight(convolution, name)}
    for key in ("weight", "bias", "running_mean"):
        state[f"{name}.norm.{key}"] = _tensor(norm, key, name)
    state[f"{name}.norm.running_var"] = _variance(norm, name)
    channels = len(state[f"{name}.weight"])
    _need(channels <= _MOST_CHANNELS, f"{name} has {channels} channels")
    for key, tensor in list(state.items())[1:]:
        _need(
            tensor.shape == (channels,),
            f"{key} is {tuple(tensor.shape)}, where the convolution has {channels} channels",
        )
    if isinstance(convolution.fields.get("bias"), Tensor):
        bias = _tensor(convolution, "bias", name)
        _need(bias.shape == (channels,), f"{name}'s bias is {tuple(bias.shape)}, not ({channels},)")
        state[f"{name}.norm.running_mean"] = state[f"{name}.norm.running_mean"] - bias
    return state


def _weight(convolution: TorchObject, name: str) -> Tensor:
    """Older files have a convolution's weight as a matrix, (out, in * height * width)."""
    weight = _tensor(convolution, "weight", name)
    numbers = [convolution.fields.get(key) for key in ("nOutputPlane", "nInputPlane", "kH", "kW")]
    groups = convolution.fields.get("groups") or 1
    if weight.ndim == 4:
        return weight
    _need(
        all(type(number) is int for number in (*numbers, groups)),
        f"{name}'s convolution lacks its numbers",
    )
    out, planes, height, width = (int(number) for number in numbers if number is not None)
    shape = (out, planes // groups, height, width)
    _need(
        weight.numel() == torch.Size(shape).numel(),
        f"{name}'s weight is {tuple(weight.shape)}, not {shape}",
    )
    return weight.reshape(shape)


def _variance(norm: TorchObject, name: str) -> Tensor:
    eps = norm.fields.get("eps", _NORM_EPS)
    _need(
        isinstance(eps, float | int) and 0 <= eps < 1, f"{name}'s norm has the epsilon {eps!r:.40}"
    )
    if isinstance(
        norm.fields.get("running_std"), Tensor
    ):  # files of 2015 have 1 / sqrt(variance + epsilon) there
        return _tensor(norm, "running_std", name).pow(-2) - _NORM_EPS
    variance = _tensor(norm, "running_var", name)
    return variance if eps == _NORM_EPS else variance + (eps - _NORM_EPS)


def _tensor(module: TorchObject, key: str, name: str) -> Tensor:
    tensor = module.fields.get(key)
    _need(
        isinstance(tensor, Tensor) and tensor.numel() > 0,
        f"{name}: its {module.class_name} has no {key}",
    )
    assert isinstance(tensor, Tensor)
    return tensor


def _kind(module: TorchObject) -> str:
    """The class without its package: those of nn, cudnn, cunn and fbnn have the same fields."""
    return module.class_name.rpartition(".")[2]


def _children(module: Any, name: str) -> list[TorchObject]:
    modules = module.fields.get("modules") if isinstance(module, TorchObject) else None
    what = module.class_name if isinstance(module, TorchObject) else type(module).__name__
    _need(isinstance(modules, dict), f"{name} is {what!r:.60}, which has no modules")
    assert isinstance(modules, dict)
    inner = [modules.get(number) for number in range(1, len(modules) + 1)]
    _need(
        all(isinstance(each, TorchObject) for each in inner),
        f"{name} has other things than modules in it",
    )
    return [each for each in inner if isinstance(each, TorchObject)]


def _with_weights(module: Any, name: str) -> list[TorchObject]:
    if isinstance(module, TorchObject) and _kind(module) in _WITHOUT_WEIGHTS:
        return []
    return [inner for inner in _children(module, name) if _kind(inner) not in _WITHOUT_WEIGHTS]


def _need(right: bool, problem: str) -> None:
    if not right:
        raise ValueError(
            f"the Torch 7 network is no ResNet or ResNeXt for ImageNet: {problem}; give one of facebookresearch/ResNeXt's or "
            "fb.resnet.torch's models"
        )
