"""Build parameter groups, optimizers and gradient clipping; SGD and clipping are detectron2's.

The groups and the order of the parameters in them are those of detectron2's ``build_optimizer``, so
the state of one optimizer loads into the other, index for index.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

GradientClipper = Callable[[torch.optim.Optimizer], None]
"""Changes the gradients of an optimizer's parameters in place, before its step."""

_ADAPTIVE = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}
CLIP_TYPES = ("value", "norm")

# Those that detectron2 counts as norms; FrozenStatisticsBatchNorm2d is an InstanceNorm2d.
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
)


@dataclass(frozen=True)
class OptimizerSettings:
    """Hold settings of the optimizer, named as detectron2's keys of SOLVER.

    Attributes:
        momentum, nesterov: of SGD alone.
        weight_decay: of every parameter that the next two do not speak of.
        weight_decay_norm: of the parameters of normalization layers; None: as the others.
        weight_decay_bias: of every parameter named ``bias``, those of norms too; None: as the
            others.
        bias_lr_factor: the factor on the learning rate of every parameter named ``bias``.
    """

    base_lr: float
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    weight_decay_norm: float | None = 0.0
    weight_decay_bias: float | None = None
    bias_lr_factor: float = 1.0


def build_optimizer(
    model: nn.Module, settings: OptimizerSettings, name: str = "SGD"
) -> torch.optim.Optimizer:
    """Build an optimizer over the trainable parameters of a model, grouped as detectron2 does.

    Build it from the bare model, before it is wrapped for several processes.

    Args:
        name: "SGD", or "Adam" or "AdamW" with torch's own betas and epsilon.

    Raises:
        ValueError: no parameter of the model is trainable; an unknown name.
    """
    if name in _ADAPTIVE:
        groups = _group_parameters(model, settings)
        return _ADAPTIVE[name](groups, lr=settings.base_lr, foreach=True)
    if name != "SGD":
        known = ", ".join(("SGD", *_ADAPTIVE))
        raise ValueError(f"SOLVER.OPTIMIZER is {name!r}; the known ones are {known}")
    return torch.optim.SGD(
        _group_parameters(model, settings),
        lr=settings.base_lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        foreach=True,
    )


def _group_parameters(model: nn.Module, settings: OptimizerSettings) -> list[dict[str, Any]]:
    """Group the trainable parameters by learning rate and weight decay, each parameter once.

    The groups stand in the order in which the modules first show them. A setting that is spoken of
    has a group of its own even where its value is the common one, as in detectron2.
    """
    grouped: dict[tuple[float, float | None], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            learning_rate = settings.base_lr
            decay = settings.weight_decay_norm if isinstance(module, _NORMS) else None
            if name == "bias":
                learning_rate *= settings.bias_lr_factor
                if settings.weight_decay_bias is not None:
                    decay = settings.weight_decay_bias
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
            "weight_decay": settings.weight_decay if decay is None else decay,
        }
        for (learning_rate, decay), parameters in grouped.items()
    ]


@dataclass(frozen=True)
class ClippingSettings:
    """Hold settings of gradient clipping, named as detectron2's keys of SOLVER.CLIP_GRADIENTS.

    Attributes:
        clip_type: "value" brings every entry into [-clip_value, clip_value]; "norm" scales a
            gradient whose ``norm_type`` norm is larger than ``clip_value`` down to it.
    """

    enabled: bool = True
    clip_type: str = "value"
    clip_value: float = 1.0
    norm_type: float = 2.0


def build_clipper(settings: ClippingSettings) -> GradientClipper | None:
    """Build what clips each parameter's gradient by itself; None where that is not enabled.

    Raises:
        ValueError: an unknown type, or a value that is not positive.
    """
    value = settings.clip_value
    if not settings.enabled:
        return None
    if value <= 0:
        raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_VALUE is {value}; it has to be positive")
    if settings.clip_type == "value":
        return lambda optimizer: nn.utils.clip_grad_value_(_list_parameters(optimizer), value)
    if settings.clip_type == "norm":

        def clip_norms(optimizer: torch.optim.Optimizer) -> None:
            for parameter in _list_parameters(optimizer):
                nn.utils.clip_grad_norm_(parameter, value, settings.norm_type)

        return clip_norms
    raise ValueError(
        f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {settings.clip_type!r}; the known ones are "
        f"{', '.join(CLIP_TYPES)}"
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to ``factor`` times its first one, kept as ``initial_lr``."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


def get_learning_rate(optimizer: torch.optim.Optimizer) -> float:
    """Get the learning rate of the group with the most parameters, which detectron2 reports too."""
    return float(max(optimizer.param_groups, key=lambda group: len(group["params"]))["lr"])


def _list_parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
