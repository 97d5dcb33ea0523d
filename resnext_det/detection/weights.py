"""What precedes the first iteration of a detector's training, in either engine."""

from __future__ import annotations

from typing import Any

from fvcore.common.config import CfgNode
from torch import nn

from resnext_det.layers import ConvNorm, FrozenBatchNorm2d
from resnext_det.training.setup import warn_of_earlier_run
from resnext_det.weights import (
    Preprocessing,
    check_preprocessing,
    load_weights,
    read_weights,
)
from resnext_det.weights.preprocessing import batch_norm_of


def load_pretrained(cfg: CfgNode, model: nn.Module) -> None:
    """Load what a training starts from: a backbone, or a detector that may have other classes.

    Where images have another number of channels than three, as gray ones, conv1 is made to fit (``inflate_input``).

    Raises:
        ValueError, FileNotFoundError: see ``load_weights`` and ``check_preprocessing``.
    """
    file = read_weights(cfg.MODEL.WEIGHTS, mapped=True)
    check_preprocessing(cfg, file)
    load_weights(model, file, allow_new_classes=True, inflate_input=len(cfg.MODEL.PIXEL_MEAN) != 3)


def load_detector(cfg: CfgNode, model: nn.Module) -> None:
    """Load the weights of a whole, trained detector: those of a backbone alone would leave the heads random.

    Raises:
        ValueError, FileNotFoundError: ``MODEL.WEIGHTS`` is empty; the file is not a detector's, does not fit, or needs another
            preprocessing.
    """
    path = cfg.MODEL.WEIGHTS
    if not path:
        raise ValueError(
            "MODEL.WEIGHTS is empty, so there is no trained detector; write MODEL.WEIGHTS and the path of its file, such as "
            "model_final.pth in the OUTPUT_DIR of a training"
        )
    file = read_weights(path, mapped=True)
    check_preprocessing(cfg, file)
    report = load_weights(model, file)
    if report.missing:
        raise ValueError(
            f"MODEL.WEIGHTS = {path} holds a backbone and not a whole detector: {len(report.missing)} tensors, such as "
            f"{report.missing[0]}, would be random; give the file of a trained detector"
        )


def facts_for_checkpoints(cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
    """What a checkpoint tells of itself: the preprocessing under which it was trained (not of gray images), as plain data."""
    if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
        return {}
    preprocessing = Preprocessing(
        cfg.INPUT.FORMAT,
        tuple(cfg.MODEL.PIXEL_MEAN),
        tuple(cfg.MODEL.PIXEL_STD),
        stride_in_1x1=cfg.MODEL.RESNETS.STRIDE_IN_1X1,
        batch_norm=batch_norm_of(model.state_dict()),
    )
    return {"preprocessing": preprocessing.as_dict()}


def check_frozen_layers_are_loaded(model: nn.Module) -> None:
    """Refuse to train a model with layers that are frozen at random; it would train to nothing.

    detectron2 allows it.

    Args:
        model: a backbone, or a detector that has one.

    Raises:
        ValueError: there are such layers; no weights were loaded into them.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, ConvNorm)}
    random = [name for name, layer in layers.items() if _is_frozen_unloaded(layer)]
    if random:
        raise ValueError(
            f"{len(random)} of {len(layers)} convolutions (first {random[0]!r}) are frozen, or "
            "their norms are, at the values they were made with, and would train to nothing; set "
            "MODEL.WEIGHTS to a file of a trained network, or start from scratch: "
            'MODEL.RESNETS.NORM "BN" or "GN", MODEL.BACKBONE.FREEZE_AT 0'
        )


def _is_frozen_unloaded(layer: ConvNorm) -> bool:
    """Tell whether weights or statistics are frozen while the norm is as it was made.

    Without a norm the bias is looked at. Such a layer computes with random weights, and training
    does not change that.
    """
    norm = layer.norm
    if layer.weight.requires_grad and not isinstance(norm, FrozenBatchNorm2d):
        return False
    if norm is None:
        return layer.bias is not None and not bool(layer.bias.any())
    weight, bias, mean = (getattr(norm, name, None) for name in ("weight", "bias", "running_mean"))
    moved = any(values is not None and bool(values.any()) for values in (bias, mean))
    return not moved and (weight is None or bool((weight == 1).all()))


def begin(cfg: CfgNode, model: nn.Module) -> None:
    """What precedes the first iteration of a training: its weights, and a word on what it will overwrite."""
    if cfg.MODEL.WEIGHTS:
        load_pretrained(cfg, model)
    check_frozen_layers_are_loaded(model)
    warn_of_earlier_run(cfg)
