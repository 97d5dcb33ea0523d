"""Load weights into a detector, before training and before evaluation, in either engine."""

from __future__ import annotations

import logging
from typing import Any

from fvcore.common.config import CfgNode
from torch import nn

from resnext_det.layers import ConvNorm, FrozenBatchNorm2d
from resnext_det.training.checkpoint import Checkpointer, load_model_state
from resnext_det.training.setup import warn_of_earlier_run
from resnext_det.weights import (
    Preprocessing,
    WeightFile,
    check_preprocessing,
    load_weights,
    read_weights,
)
from resnext_det.weights.preprocessing import find_batch_norm

logger = logging.getLogger(__name__)


def load_pretrained(cfg: CfgNode, model: nn.Module) -> None:
    """Load ``MODEL.WEIGHTS`` to train from: a backbone, or a detector that may have other classes.

    For images without three channels, such as gray ones, conv1 is made to fit.

    Raises:
        ValueError, FileNotFoundError: see ``load_weights`` and ``check_preprocessing``.
    """
    gray = len(cfg.MODEL.PIXEL_MEAN) != 3
    load_weights(model, _read_checked(cfg), allow_new_classes=True, inflate_input=gray)


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
    """Tell whether a layer is frozen while its norm still has its initial values.

    Without a norm, the bias is checked. Such a layer computes with random weights, and training
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


def load_initial_weights(cfg: CfgNode, model: nn.Module) -> None:
    """Load what a training begins with, if anything, and warn of a run that it will overwrite.

    Raises:
        ValueError, FileNotFoundError: as ``load_pretrained``; layers are frozen at random weights.
    """
    if cfg.MODEL.WEIGHTS:
        load_pretrained(cfg, model)
    check_frozen_layers_are_loaded(model)
    warn_of_earlier_run(cfg)


def load_detector(cfg: CfgNode, model: nn.Module) -> None:
    """Load a whole, trained detector from ``MODEL.WEIGHTS``; a backbone alone is refused.

    Raises:
        ValueError, FileNotFoundError: ``MODEL.WEIGHTS`` is empty; the file is not a detector's,
            does not fit, or needs another preprocessing.
    """
    path = cfg.MODEL.WEIGHTS
    if not path:
        raise ValueError(
            "MODEL.WEIGHTS is empty, so there is no trained detector; write MODEL.WEIGHTS and the "
            "path of its file, such as model_final.pth in the OUTPUT_DIR of a training"
        )
    report = load_weights(model, _read_checked(cfg))
    if report.missing:
        raise ValueError(
            f"MODEL.WEIGHTS = {path} holds a backbone and not a whole detector: "
            f"{len(report.missing)} tensors, such as {report.missing[0]}, would be random; give "
            "the file of a trained detector"
        )


def load_trained(cfg: CfgNode, model: nn.Module, *, resume: bool) -> None:
    """Load the newest checkpoint of ``OUTPUT_DIR``, if ``resume`` and there is one, or a detector.

    Raises:
        ValueError, FileNotFoundError: the checkpoint does not fit, or as ``load_detector``.
    """
    checkpointer = Checkpointer(cfg.OUTPUT_DIR)
    newest = checkpointer.latest() if resume else None
    if newest is None:
        load_detector(cfg, model)
    else:
        load_model_state(model, checkpointer.load(newest)["model"])
        logger.info("The weights are those of %s.", newest)


def describe_preprocessing(cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
    """Describe the preprocessing of a training, for its checkpoints; of gray images, nothing."""
    if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
        return {}
    preprocessing = Preprocessing(
        cfg.INPUT.FORMAT,
        tuple(cfg.MODEL.PIXEL_MEAN),
        tuple(cfg.MODEL.PIXEL_STD),
        stride_in_1x1=cfg.MODEL.RESNETS.STRIDE_IN_1X1,
        batch_norm=find_batch_norm(model.state_dict()),
    )
    return {"preprocessing": preprocessing.as_dict()}


def _read_checked(cfg: CfgNode) -> WeightFile:
    file = read_weights(cfg.MODEL.WEIGHTS, mapped=True)
    check_preprocessing(cfg, file)
    return file
