"""Parameter groups, stochastic gradient descent and gradient clipping, as detectron2 builds them.

The groups and the order of the parameters in them are those of detectron2's ``build_optimizer``, so the
state of one optimizer loads into the other, index for index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from resnext_det.layers import FrozenStatisticsBatchNorm2d

GradientClipper = Callable[[torch.optim.Optimizer], None]
"""Changes the gradients of an optimizer's parameters in place, before its step."""

CLIP_TYPES = ("value", "norm")

# Those that detectron2 counts as norms, and ours, which detectron2 does not have. Subclasses count too.
_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.LocalResponseNorm,
    FrozenStatisticsBatchNorm2d,
)


def group_parameters(
    model: nn.Module,
    *,
    base_lr: float,
    weight_decay: float,
    weight_decay_norm: float | None = 0.0,
    weight_decay_bias: float | None = None,
    bias_lr_factor: float = 1.0,
) -> list[dict[str, Any]]:
    """The trainable parameters of ``model``, each once, grouped as detectron2's ``build_optimizer`` groups
    them.

    Args:
        weight_decay: of every parameter that the next two do not speak of.
        weight_decay_norm: of the parameters of normalization layers; None: as the others.
        weight_decay_bias: of every parameter named ``bias`` (norms' too, it comes last); None: as the others.
        bias_lr_factor: the learning rate of every parameter named ``bias`` is ``base_lr`` times this.

    Returns:
        Groups ``{"params", "lr", "weight_decay"}``. A group for each combination of overrides, in the order
        in which the modules show them first; a setting that is spoken of has a group of its own even where
        its value is the common one, as in detectron2.

    Raises:
        ValueError: no parameter of the model is trainable.
    """
    grouped: dict[tuple[float, float | None], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            learning_rate = base_lr
            decay = weight_decay_norm if isinstance(module, _NORMS) else None
            if name == "bias":
                learning_rate = base_lr * bias_lr_factor if bias_lr_factor != 1.0 else base_lr
                decay = weight_decay_bias if weight_decay_bias is not None else decay
            grouped.setdefault((learning_rate, decay), []).append(parameter)
    if not grouped:
        raise ValueError(
            "no parameter of the model is trainable, so there is nothing to optimize; lower "
            "MODEL.BACKBONE.FREEZE_AT"
        )
    return [
        {
            "params": parameters,
            "lr": learning_rate,
            "weight_decay": weight_decay if decay is None else decay,
        }
        for (learning_rate, decay), parameters in grouped.items()
    ]


def build_optimizer(
    model: nn.Module,
    *,
    base_lr: float,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 1e-4,
    weight_decay_norm: float | None = 0.0,
    weight_decay_bias: float | None = None,
    bias_lr_factor: float = 1.0,
) -> torch.optim.SGD:
    """``torch.optim.SGD`` over ``group_parameters``, with the settings ``SOLVER.*`` of detectron2's names.

    Build it from the bare model, before it is wrapped for several processes.
    """
    groups = group_parameters(
        model,
        base_lr=base_lr,
        weight_decay=weight_decay,
        weight_decay_norm=weight_decay_norm,
        weight_decay_bias=weight_decay_bias,
        bias_lr_factor=bias_lr_factor,
    )
    return torch.optim.SGD(
        groups,
        lr=base_lr,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        foreach=True,
    )


def gradient_clipper(
    *, clip_type: str, clip_value: float, norm_type: float = 2.0
) -> GradientClipper:
    """Clip each parameter's gradient by itself, as detectron2 does with ``SOLVER.CLIP_GRADIENTS``.

    Args:
        clip_type: "value" (every entry into [-clip_value, clip_value]) or "norm" (a gradient whose
            ``norm_type`` norm is larger than ``clip_value`` is scaled down to it).

    Raises:
        ValueError: an unknown type, or a value that is not positive.
    """
    if clip_value <= 0:
        raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_VALUE is {clip_value}; it has to be positive")
    if clip_type == "value":
        return lambda optimizer: nn.utils.clip_grad_value_(list(_parameters(optimizer)), clip_value)
    if clip_type == "norm":

        def clip_norms(optimizer: torch.optim.Optimizer) -> None:
            for parameter in _parameters(optimizer):
                nn.utils.clip_grad_norm_(parameter, clip_value, norm_type)

        return clip_norms
    raise ValueError(
        f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip_type!r}; the known ones are {', '.join(CLIP_TYPES)}"
    )


def clipper_of(cfg: CfgNode) -> GradientClipper | None:
    """What clips the gradients before each step, by ``SOLVER.CLIP_GRADIENTS``; None where that is not enabled."""
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return None
    return gradient_clipper(
        clip_type=clip.CLIP_TYPE, clip_value=clip.CLIP_VALUE, norm_type=clip.NORM_TYPE
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Every group's learning rate becomes its first one, kept under ``initial_lr``, times ``factor``."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


def get_learning_rate(optimizer: torch.optim.Optimizer) -> float:
    """The learning rate to report: that of the group with the most parameters, as in detectron2."""
    return float(max(optimizer.param_groups, key=lambda group: len(group["params"]))["lr"])


def _parameters(optimizer: torch.optim.Optimizer) -> Iterable[nn.Parameter]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])
