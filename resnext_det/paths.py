"""Split a convolution with its norm into the paths of a block, and join paths into one convolution.

Everything is copied; what was frozen stays frozen. The copies have no activation.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from resnext_det.layers import ConvNorm, FrozenBatchNorm2d, FrozenStatisticsBatchNorm2d

_PER_CHANNEL_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d, FrozenStatisticsBatchNorm2d)


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
        raise ValueError(f'a {type(norm).__name__} cannot be split into paths; choose the norm "BN"')
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
        setattr(resized, name, nn.Parameter(new, requires_grad=old.requires_grad) if is_parameter else new)
    for name in ("num_features", "num_channels", "num_groups"):
        if hasattr(norm, name):
            setattr(resized, name, round(getattr(norm, name) * factor))
    return resized
