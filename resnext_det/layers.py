"""Convolutions with their norm, batch norms with frozen statistics, and norms by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn


class _FixedStatisticsNorm(nn.Module):
    """y = x * scale + shift; scale = weight / sqrt(running_var + eps), shift = bias - running_mean * scale.

    It starts as the identity. The state is detectron2's: weight, bias, running_mean, running_var;
    ``num_batches_tracked`` is no part of it, unless the norm was made from a batch norm that counted.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor | None

    def __init__(self, num_features: int, eps: float, *, trainable: bool) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        if trainable:
            self.weight = nn.Parameter(torch.ones(num_features))
            self.bias = nn.Parameter(torch.zeros(num_features))
        else:
            self.register_buffer("weight", torch.ones(num_features))
            self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features) - eps)
        self.register_buffer("num_batches_tracked", None)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """The norm as (scale, shift), each of shape (num_features,), float32 (float64 where the norm is)."""
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        scale = self.weight.to(dtype) * (self.running_var.to(dtype) + self.eps).rsqrt()
        return scale, self.bias.to(dtype) - self.running_mean.to(dtype) * scale

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = (
            values.to(x.dtype).reshape(1, -1, 1, 1) for values in self.scale_and_shift()
        )
        return x * scale + shift

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}"

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Also take a batch norm's state, which counts its batches, and Caffe2's, which has no statistics."""
        count = prefix + "num_batches_tracked"
        if self.num_batches_tracked is None:
            state_dict.pop(count, None)
        else:
            state_dict.setdefault(count, self.num_batches_tracked)
        version = local_metadata.get("version")
        if (
            (version is None or version < 2)
            and prefix + "weight" in state_dict
            and prefix + "bias" in state_dict
        ):
            mean, variance = prefix + "running_mean", prefix + "running_var"
            if mean not in state_dict and variance not in state_dict:
                state_dict[mean] = torch.zeros_like(self.running_mean)
                state_dict[variance] = torch.ones_like(self.running_var)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


class FrozenBatchNorm2d(_FixedStatisticsNorm):
    """A batch norm of which nothing is trained: weight, bias and statistics are buffers ("FrozenBN").

    Strict loading takes the state of ``nn.BatchNorm2d`` and detectron2's FrozenBatchNorm2d; both take ours.

    Args:
        num_features: channels of the input, which has the shape (N, C, H, W).
        eps: added to the variance; the variance starts at 1 - eps, which makes the norm the identity.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps, trainable=False)


class FrozenStatisticsBatchNorm2d(_FixedStatisticsNorm):
    """A batch norm whose statistics are frozen while its weight and bias are trained ("FrozenStatisticsBN").

    Args:
        num_features: channels of the input, which has the shape (N, C, H, W).
        eps: added to the variance.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps, trainable=True)


class SynchronizedBatchNorm2d(nn.SyncBatchNorm):
    """``nn.SyncBatchNorm``, an ordinary batch norm in one process, with a clear error where it cannot train.

    Raises:
        ValueError: it is trained on a CPU within a process group.
    """

    def forward(self, x: Tensor) -> Tensor:
        grouped = torch.distributed.is_available() and torch.distributed.is_initialized()
        if grouped and self.training and x.device.type == "cpu":
            raise ValueError(
                'norm "SyncBN" cannot train on the CPU within a process group: torch synchronises only GPUs; '
                'set MODEL.RESNETS.NORM to "BN", "GN" or "FrozenBN", or train on GPUs'
            )
        return super().forward(x)


def _group_norm(channels: int) -> nn.GroupNorm:
    if channels % 32 != 0:
        raise ValueError(
            f'norm "GN" has 32 groups, which do not divide {channels} channels; '
            'choose a cardinality and width whose product is a multiple of 32, or the norm "BN"'
        )
    return nn.GroupNorm(32, channels)


NORMS: dict[str, Callable[[int], nn.Module | None]] = {
    "": lambda channels: None,
    "FrozenBN": FrozenBatchNorm2d,
    "BN": nn.BatchNorm2d,
    "SyncBN": SynchronizedBatchNorm2d,
    "GN": _group_norm,
    "FrozenStatisticsBN": FrozenStatisticsBatchNorm2d,
}


def make_norm(name: str, channels: int) -> nn.Module | None:
    """The norm that ``MODEL.RESNETS.NORM`` and its like call ``name``, for maps of ``channels``; None for "".

    Raises:
        ValueError: the name is unknown; "GN" has 32 groups, and they do not divide the channels.
    """
    if name not in NORMS:
        raise ValueError(f"norm {name!r} is not known; choose one of {', '.join(map(repr, NORMS))}")
    return NORMS[name](channels)


class ConvNorm(nn.Conv2d):
    """activation(norm(convolution(x))), with detectron2's keys: ``weight``, ``bias``, ``norm.weight`` ...

    A norm with frozen statistics is multiplied into the convolution's weights, in training as in inference.
    This is exact algebra, it spares a pass over the map and its memory, and gradients reach what is trained.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups: as in ``nn.Conv2d``.
        bias: whether the convolution has a bias; None: exactly where there is no norm.
        norm: a name that ``make_norm`` knows; "" for none.
        activation: applied last; it may work in place (``torch.relu_``).

    Raises:
        ValueError: the norm is unknown or does not fit the channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool | None = None,
        norm: str = "",
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=norm == "" if bias is None else bias,
        )
        self.norm = make_norm(norm, out_channels)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.norm, _FixedStatisticsNorm):
            x = self._conv_forward(x, *self.folded())
        else:
            x = self._conv_forward(x, self.weight, self.bias)
            if self.norm is not None:
                x = self.norm(x)
        return x if self.activation is None else self.activation(x)

    def folded(self) -> tuple[Tensor, Tensor]:
        """(weight, bias) of the one convolution that equals this one with its frozen norm."""
        assert isinstance(self.norm, _FixedStatisticsNorm)
        scale, shift = self.norm.scale_and_shift()
        weight = self.weight * scale.reshape(-1, 1, 1, 1)
        bias = shift if self.bias is None else shift + self.bias * scale
        # The product was taken in float32 at least; autocast, if any, casts it for the convolution.
        return weight.to(self.weight.dtype), bias.to(self.weight.dtype)

    def is_frozen_unloaded(self) -> bool:
        """Whether weights or statistics are frozen, and the norm (the bias, without one) is as it was made.

        Nothing was loaded then: the layer computes with random weights, and will do so after training.
        """
        if self.weight.requires_grad and not isinstance(self.norm, _FixedStatisticsNorm):
            return False
        if self.norm is None:
            return self.bias is not None and not bool(self.bias.any())
        weight, bias, mean = (
            getattr(self.norm, name, None) for name in ("weight", "bias", "running_mean")
        )
        moved = [values is not None and bool(values.any()) for values in (bias, mean)]
        return not any(moved) and (weight is None or bool((weight == 1).all()))


def freeze_norms(module: nn.Module) -> nn.Module:
    """Replace every BatchNorm2d and SyncBatchNorm by a FrozenBatchNorm2d of the same numbers.

    It equals detectron2's ``FrozenBatchNorm2d.convert_frozen_batchnorm``; other norms stay as they are.

    Returns:
        The module, changed in place; where it is a batch norm itself, the new one.

    Raises:
        ValueError: a batch norm keeps no running statistics.
    """
    if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
        return _frozen(module)
    for name, child in module.named_children():
        frozen = freeze_norms(child)
        if frozen is not child:
            setattr(module, name, frozen)
    return module


def _frozen(norm: nn.BatchNorm2d | nn.SyncBatchNorm) -> FrozenBatchNorm2d:
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError(
            f"{norm} keeps no running statistics to freeze; make it with track_running_stats=True"
        )
    frozen = FrozenBatchNorm2d(norm.num_features, norm.eps).to(norm.running_mean)
    if norm.affine:
        frozen.weight.copy_(norm.weight.detach())
        frozen.bias.copy_(norm.bias.detach())
    frozen.running_mean.copy_(norm.running_mean)
    frozen.running_var.copy_(norm.running_var)
    if norm.num_batches_tracked is not None:
        frozen.num_batches_tracked = norm.num_batches_tracked.clone()
    return frozen.train(norm.training)
