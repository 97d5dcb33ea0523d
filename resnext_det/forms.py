"""The paper's equal forms of a block (figure 3), and their conversion into one another.

Form C is our ``Bottleneck``: one convolution in groups. Forms A and B write its C paths out. A batch norm works
on every channel by itself, so that a path's norm is a slice of form C's: outputs, gradients, statistics, and
with them the whole training, are the same numbers, but for the order in which they are summed.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from functools import reduce
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn

from resnext_det.layers import ConvNorm, FrozenBatchNorm2d, FrozenStatisticsBatchNorm2d
from resnext_det.resnext import Bottleneck

_PER_CHANNEL_NORMS = (
    nn.BatchNorm2d,
    nn.SyncBatchNorm,
    FrozenBatchNorm2d,
    FrozenStatisticsBatchNorm2d,
)


def split_convolution(convolution: ConvNorm, count: int, *, dim: int) -> list[ConvNorm]:
    """Parts of a convolution without bias, each of one group.

    Args:
        convolution: dense, or in ``count`` groups where ``dim`` is 0.
        count: number of parts; it divides the channels.
        dim: 0, every part gives its share of the output channels, and has its share of the norm;
            1, every part takes its share of the input channels, and has no norm: it would follow the sum.

    Raises:
        ValueError: the norm mixes the channels of two parts.
    """
    weights = [chunk.clone() for chunk in convolution.weight.detach().chunk(count, dim)]
    norms = _split_norm(convolution.norm if dim == 0 else None, count)
    return [_with(convolution, weight, groups=1, norm=norm) for weight, norm in zip(weights, norms)]


def join_convolutions(convolutions: Sequence[ConvNorm], *, dim: int, groups: int = 1) -> ConvNorm:
    """The inverse of ``split_convolution``: one convolution of many.

    Args:
        convolutions: equal in all but their numbers.
        dim: 0, their outputs side by side, with their norms; 1, the sum of them, without a norm.
        groups: of the result; with as many as there are convolutions, each keeps its own input channels.
    """
    weight = torch.cat([layer.weight.detach() for layer in convolutions], dim=dim)
    norm = _joined_norm([layer.norm for layer in convolutions]) if dim == 0 else None
    return _with(convolutions[0], weight, groups=groups, norm=norm)


def _with(like: ConvNorm, weight: Tensor, *, groups: int, norm: nn.Module | None) -> ConvNorm:
    """A convolution with the stride, padding and dilation of ``like``, and these numbers."""
    out_channels, channels_of_group = weight.shape[:2]
    with torch.device("meta"):  # neither memory nor random numbers: the weight is replaced
        convolution = ConvNorm(
            channels_of_group * groups,
            out_channels,
            like.kernel_size[0],
            stride=like.stride[0],
            padding=int(like.padding[0]),
            dilation=like.dilation[0],
            groups=groups,
            bias=False,
        )
    weight = weight.contiguous(memory_format=torch.channels_last)
    convolution.weight = nn.Parameter(weight, requires_grad=like.weight.requires_grad)
    convolution.norm, convolution.training = norm, like.training
    return convolution


def _split_norm(norm: nn.Module | None, count: int) -> Sequence[nn.Module | None]:
    if norm is None:
        return [None] * count
    if isinstance(norm, nn.GroupNorm):
        if norm.num_groups % count != 0:
            raise ValueError(
                f'norm "GN" takes {norm.num_groups} groups, which do not split into {count} paths: it mixes the '
                f'paths; choose a cardinality that divides {norm.num_groups}, or the norm "BN"'
            )
    elif not isinstance(norm, _PER_CHANNEL_NORMS):
        raise ValueError(
            f'a {type(norm).__name__} cannot be split into paths; choose the norm "BN"'
        )
    values = {name: tensor.detach() for name, tensor in norm.state_dict(keep_vars=True).items()}
    chunks = {name: value.chunk(count) for name, value in values.items() if value.dim() == 1}
    return [
        _resized_norm(norm, {name: parts[index] for name, parts in chunks.items()}, 1 / count)
        for index in range(count)
    ]


def _joined_norm(norms: Sequence[nn.Module | None]) -> nn.Module | None:
    if norms[0] is None:
        return None
    states = [cast(nn.Module, norm).state_dict() for norm in norms]
    names = [name for name, value in states[0].items() if value.dim() == 1]
    values = {name: torch.cat([state[name] for state in states]) for name in names}
    return _resized_norm(norms[0], values, len(norms))


def _resized_norm(norm: nn.Module, values: dict[str, Tensor], factor: float) -> nn.Module:
    """A norm as this one with other values, for ``factor`` times the channels."""
    resized = copy.deepcopy(norm)
    for name, value in values.items():
        old = getattr(norm, name)
        new = value.clone()
        is_parameter = isinstance(old, nn.Parameter)
        setattr(
            resized,
            name,
            nn.Parameter(new, requires_grad=old.requires_grad) if is_parameter else new,
        )
    for name in ("num_features", "num_channels", "num_groups"):
        if hasattr(norm, name):
            setattr(resized, name, round(getattr(norm, name) * factor))
    return resized


FORMS = ("A", "B", "C")


class FormA(nn.Module):
    """relu(shortcut(x) + norm(sum of path(x))): every path is 1x1, 3x3, 1x1 (figure 3a, footnote 6).

    Norm and ReLU follow the first two convolutions of a path; the norm of the third follows the sum.

    Args:
        block: the block in form C that this one computes; its numbers are copied.

    Raises:
        ValueError: the block has biases, or a norm that mixes the channels of two paths.
    """

    def __init__(self, block: Bottleneck) -> None:
        super().__init__()
        self.residual, self.shortcut = block.residual, copy.deepcopy(block.shortcut)
        self.paths = _paths(block, with_conv3=True)
        self.norm = copy.deepcopy(block.conv3.norm)
        self.training = block.training

    def forward(self, x: Tensor) -> Tensor:
        out = reduce(
            torch.add, (path(x) for path in self.paths)
        )  # (N, out_channels, H/stride, W/stride)
        out = out if self.norm is None else self.norm(out)
        return torch.relu_(_with_shortcut(self, x, out))


class FormB(nn.Module):
    """relu(shortcut(x) + conv3(concatenation of path(x))): every path is 1x1, 3x3 (figure 3b).

    Args:
        block: the block in form C that this one computes; its numbers are copied.

    Raises:
        ValueError: the block has biases, or a norm that mixes the channels of two paths.
    """

    def __init__(self, block: Bottleneck) -> None:
        super().__init__()
        self.residual, self.shortcut = block.residual, copy.deepcopy(block.shortcut)
        self.paths = _paths(block, with_conv3=False)
        self.conv3 = copy.deepcopy(block.conv3)
        self.training = block.training

    def forward(self, x: Tensor) -> Tensor:
        out = torch.cat(
            [path(x) for path in self.paths], dim=1
        )  # (N, bottleneck_channels, H/stride, W/stride)
        out = self.conv3(out)  # (N, out_channels, H/stride, W/stride)
        return torch.relu_(_with_shortcut(self, x, out))


Block = Bottleneck | FormA | FormB


def to_form_a(block: Block) -> FormA:
    """A new block in form A with the numbers of ``block``, which may be in any form.

    Raises:
        ValueError: see ``FormA``.
    """
    return copy.deepcopy(block) if isinstance(block, FormA) else FormA(to_form_c(block))


def to_form_b(block: Block) -> FormB:
    """A new block in form B with the numbers of ``block``, which may be in any form.

    Raises:
        ValueError: see ``FormB``.
    """
    return copy.deepcopy(block) if isinstance(block, FormB) else FormB(to_form_c(block))


def to_form_c(block: Block) -> Bottleneck:
    """A new block in form C, with a convolution in groups, with the numbers of ``block`` in any form."""
    if isinstance(block, Bottleneck):
        return copy.deepcopy(block)
    paths = [[cast(ConvNorm, layer) for layer in cast(nn.Sequential, path)] for path in block.paths]
    conv1 = join_convolutions([path[0] for path in paths], dim=0)
    conv2 = join_convolutions([path[1] for path in paths], dim=0, groups=len(paths))
    if isinstance(block, FormB):
        conv3 = copy.deepcopy(block.conv3)
    else:
        conv3 = join_convolutions([path[2] for path in paths], dim=1)
        conv3.norm = copy.deepcopy(block.norm)
    with torch.device("meta"):  # the sizes alone: the layers are replaced
        form = Bottleneck(
            conv1.in_channels,
            conv3.out_channels,
            bottleneck_channels=conv2.out_channels,
            cardinality=len(paths),
            norm="",
        )
    form.residual, form.shortcut = block.residual, copy.deepcopy(block.shortcut)
    form.conv1, form.conv2, form.conv3 = conv1, conv2, conv3
    form.training = block.training
    return form


def convert(model: nn.Module, form: str) -> nn.Module:
    """Put every block of a model into one form, in place: ``convert(ResNeXtClassifier(...), "A")``.

    The parameters are new ones: make the optimizer afterwards. Files of weights know form C alone: convert
    back before you write them, and convert after you load them.

    Args:
        model: a ResNeXt, a classifier, a stage, a detector, or a block.
        form: "A", "B" or "C".

    Returns:
        The model; where it is a block itself, the new one.

    Raises:
        ValueError: the form is unknown, the model has no blocks, or a block has no such form.
    """
    conversions = {"A": to_form_a, "B": to_form_b, "C": to_form_c}
    if form not in conversions:
        raise ValueError(f"form {form!r} is not known; choose one of {', '.join(map(repr, FORMS))}")
    if isinstance(model, Block):
        return conversions[form](model)
    blocks = {name: module for name, module in model.named_modules() if isinstance(module, Block)}
    if not blocks:
        raise ValueError(
            f"a {type(model).__name__} has no bottleneck blocks to convert; give a ResNeXt"
        )
    # All first, so that an error leaves the model as it was.
    converted = {name: conversions[form](block) for name, block in blocks.items()}
    for name, block in converted.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, block)
    return model


def _with_shortcut(block: FormA | FormB, x: Tensor, out: Tensor) -> Tensor:
    if not block.residual:
        return out
    return out + (x if block.shortcut is None else block.shortcut(x))


def _paths(block: Bottleneck, *, with_conv3: bool) -> nn.ModuleList:
    """The paths of a block in form C: 1x1 and 3x3, and the last 1x1 without its norm, where asked for."""
    if any(layer.bias is not None for layer in (block.conv1, block.conv2, block.conv3)):
        raise ValueError(
            "a block whose convolutions have biases has no other form; convert it before its norms are folded"
        )
    count = block.conv2.groups
    layers = {
        "conv1": split_convolution(block.conv1, count, dim=0),
        "conv2": split_convolution(block.conv2, count, dim=0),
    }
    for layer in chain(*layers.values()):
        layer.activation = torch.relu_
    if with_conv3:
        layers["conv3"] = split_convolution(block.conv3, count, dim=1)
    paths = nn.ModuleList()
    for index in range(count):
        path = nn.Sequential(OrderedDict((name, parts[index]) for name, parts in layers.items()))
        path.training = block.training
        paths.append(path)
    paths.training = block.training
    return paths
