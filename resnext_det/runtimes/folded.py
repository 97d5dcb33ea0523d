"""Compute a part of a model by eager torch, with the norms multiplied into the weights once."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from resnext_det.layers import FROZEN_NORMS, compute_scale_and_shift
from resnext_det.runtimes.parts import Part, Run

_STATISTICS_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def build(part: Part, dtype: torch.dtype) -> Run:
    """Make what computes a part by eager torch."""
    network = arrange_weights(fold_norms(part.network), dtype)

    @torch.no_grad()
    def run(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(output.float() for output in network(x.to(dtype)))

    return run


def fold_norms(network: nn.Module) -> nn.Module:
    """Copy a network for inference, with its norms of fixed statistics multiplied into the weights.

    The network given stays as it is.
    """
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            fold_norm(layer)
    return network


def arrange_weights(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Convert the weights of a network, in place, to a type and to channels-last memory."""
    return network.to(dtype).to(memory_format=torch.channels_last)


def fold_norm(layer: nn.Conv2d) -> None:
    """Multiply the norm that a convolution has as its attribute ``norm`` into it, in place."""
    norm = getattr(layer, "norm", None)
    fixed = type(norm) in FROZEN_NORMS or (
        isinstance(norm, _STATISTICS_NORMS) and norm.running_var is not None and norm.affine
    )
    if not fixed:
        return
    frozen = cast(nn.BatchNorm2d, norm)
    scale, shift = compute_scale_and_shift(
        frozen.weight,
        frozen.bias,
        cast(Tensor, frozen.running_mean),
        cast(Tensor, frozen.running_var),
        frozen.eps,
    )
    if layer.bias is not None:
        shift = shift + layer.bias * scale
    weight = layer.weight * scale.reshape(-1, 1, 1, 1)
    layer.weight = nn.Parameter(weight.to(layer.weight.dtype), requires_grad=False)
    layer.bias = nn.Parameter(shift.to(layer.weight.dtype), requires_grad=False)
    layer.register_module("norm", None)
