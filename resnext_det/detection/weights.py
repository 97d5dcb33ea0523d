"""Load weights into a detector, before training and before evaluation, in either engine."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode
from torch import nn

from resnext_det.config import load_config
from resnext_det.layers import ConvNorm
from resnext_det.training.checkpoint import Checkpointer
from resnext_det.weights import (
    Preprocessing,
    WeightFile,
    check_configuration,
    load_weights,
    read_weights,
)
from resnext_det.weights.conversion import assume_preprocessing, refuse_statement
from resnext_det.weights.preprocessing import find_batch_norm
from resnext_det.weights.published.catalog import advise_shipped
from resnext_det.weights.trained_detector import KEY, describe_training

logger = logging.getLogger(__name__)

# What a training from random weights needs on a command line; groups, as batches are often small.
_FROM_RANDOM = (
    "MODEL.WEIGHTS '' MODEL.BACKBONE.FREEZE_AT 0 MODEL.RESNETS.NORM GN, and with a pyramid "
    "MODEL.FPN.NORM GN"
)


def locate_weights(cfg: CfgNode, *, resume: bool = False) -> str | Path:
    """Locate the weights of a job, ``MODEL.WEIGHTS``; with ``resume`` the newest checkpoint.

    Returns:
        with ``resume`` the ``Path`` of the newest checkpoint in ``OUTPUT_DIR``, if there is one;
        else the ``str`` that ``MODEL.WEIGHTS`` is, "" for random weights.
    """
    newest = Checkpointer(cfg.OUTPUT_DIR).latest() if resume else None
    return newest or cfg.MODEL.WEIGHTS


def read_start(
    cfg: CfgNode,
    *,
    resume: bool,
    overridden: Collection[str] = (),
    preprocessing: str | None = None,
) -> WeightFile | None:
    """Read the weights that a training starts from, and hold the configuration to them.

    These are the newest checkpoint of ``OUTPUT_DIR`` with ``resume``, if there is one, and else
    ``MODEL.WEIGHTS``; None where it starts from random weights.

    Args:
        overridden: keys that the user gave by hand, see ``check_configuration``.
        preprocessing: what the user states of the weights, see ``assume_preprocessing``.

    Raises:
        ValueError, FileNotFoundError: see ``read_weights``, ``WeightFile.refuse_unusable``,
            ``assume_preprocessing`` and ``check_configuration``.
    """
    source = locate_weights(cfg, resume=resume)
    if not source:
        refuse_statement(preprocessing)
        return None
    try:
        file = read_weights(source, mapped=True)
    except FileNotFoundError as error:
        if not (shipped := advise_shipped(cfg.MODEL.WEIGHTS)):
            raise
        raise FileNotFoundError(
            f"{error}{shipped}; or from a file of yours, MODEL.WEIGHTS FILE; or from a detector "
            "that you have, such as the quickstart's: --weights output/quickstart/model_final.pth "
            "and no --config-file; or from random weights, which takes several times as long: "
            f"{_FROM_RANDOM}"
        ) from None
    file.refuse_unusable()
    file = assume_preprocessing(file, preprocessing)
    check_configuration(cfg, file, overridden=overridden, training=isinstance(source, str))
    return file


def read_trained(
    cfg: CfgNode,
    *,
    resume: bool = False,
    overridden: Collection[str] = (),
    preprocessing: str | None = None,
) -> WeightFile:
    """Read the weights of a trained detector, and hold the configuration to them.

    Args:
        resume: take the newest checkpoint of ``OUTPUT_DIR``, if there is one, and not
            ``MODEL.WEIGHTS``.
        overridden, preprocessing: as ``read_start``.

    Raises:
        ValueError, FileNotFoundError: as ``read_start``; there are none.
    """
    source = locate_weights(cfg, resume=resume)
    if not source:
        raise ValueError(
            "MODEL.WEIGHTS is empty, so there is no trained detector; write MODEL.WEIGHTS and the "
            "path of its file, such as model_final.pth in the OUTPUT_DIR of a training"
        )
    file = read_weights(source, mapped=True)
    if resume:
        Checkpointer(cfg.OUTPUT_DIR).tell_choice()
    file.refuse_unusable()
    file = assume_preprocessing(file, preprocessing)
    check_configuration(cfg, file, overridden=overridden)
    return file


def load_trained_config(path: str | Path, overrides: Sequence[Any] = ()) -> CfgNode:
    """Load the configuration that the file of a trained detector holds.

    ``MODEL.WEIGHTS`` is the file, and ``MODEL.DEVICE`` what is there.

    Args:
        path: of a file that a training here wrote.
        overrides: KEY VALUE pairs that change it.

    Raises:
        ValueError, FileNotFoundError: see ``read_weights`` and ``load_config``; the file does not
            hold one.
    """
    values = read_trained_config(path)
    if values is None:
        raise ValueError(f"{explain_no_config(path)}; give one beside it, with MODEL.WEIGHTS")
    return load_config(
        values, ["MODEL.WEIGHTS", str(path), "MODEL.DEVICE", "auto", *map(str, overrides)]
    )


def read_trained_config(path: str | Path) -> Mapping[str, Any] | None:
    """Read the values of the configuration in the file of a trained detector; None without one.

    ``OUTPUT_DIR`` is left out, and ``DATALOADER.NUM_WORKERS`` where it is above the number of
    cores: no file that comes from elsewhere decides where is written, or how many processes run.

    Raises:
        ValueError, FileNotFoundError: see ``read_weights``.
    """
    detector = read_weights(path, mapped=True).detector
    if detector is None:
        return None
    values = {key: value for key, value in detector.config.items() if key != "OUTPUT_DIR"}
    loader = values.get("DATALOADER")
    if isinstance(loader, Mapping):
        workers, cores = loader.get("NUM_WORKERS"), os.cpu_count() or 1
        if not isinstance(workers, int) or workers > cores:
            values["DATALOADER"] = {key: loader[key] for key in loader if key != "NUM_WORKERS"}
    return values


def explain_no_config(path: str | Path) -> str:
    """Say why a file of weights holds no configuration of a detector."""
    file = read_weights(path, mapped=True)
    if file.format == "detector":
        return f"{path} does not hold the configuration of its detector, as files of trainings do"
    return f"{path} is a {file.kind}, from which a detector may be trained, and no detector"


def load_pretrained(
    cfg: CfgNode, model: nn.Module, file: WeightFile, class_names: Sequence[str] = ()
) -> None:
    """Load weights to train from: a backbone, or a detector that may have other classes.

    It may also have masks where the model has none, and the other way round. For images without
    three channels, such as gray ones, conv1 is made to fit.

    Args:
        class_names: of the model's outputs, in their order; empty: not known.

    Raises:
        ValueError: see ``load_weights``.
    """
    gray = len(cfg.MODEL.PIXEL_MEAN) != 3
    load_weights(model, file, class_names=class_names, allow_new_heads=True, inflate_input=gray)


def check_frozen_layers_are_loaded(model: nn.Module) -> None:
    """Refuse to train a model with layers that are frozen at random; it would train to nothing.

    detectron2 allows it.

    Args:
        model: a backbone, or a detector that has one.

    Raises:
        ValueError: there are such layers; no weights were loaded into them.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, ConvNorm)}
    random = [name for name, layer in layers.items() if layer.is_frozen_at_random()]
    if random:
        raise ValueError(
            f"{len(random)} of {len(layers)} convolutions (first {random[0]!r}) are frozen, or "
            "their norms are, at the values they were made with, and would train to nothing; set "
            f"MODEL.WEIGHTS to a file of a trained network, or start from scratch: {_FROM_RANDOM}"
        )


def load_detector(model: nn.Module, file: WeightFile) -> None:
    """Load a whole, trained detector; a backbone alone is refused.

    Raises:
        ValueError: the file is not a detector's, or does not fit.
    """
    report = load_weights(model, file)
    if report.missing:
        raise ValueError(
            f"MODEL.WEIGHTS = {file.path} holds a {file.kind} and not a whole detector: "
            f"{len(report.missing)} tensors, such as {report.missing[0]}, would be random; give "
            "the file of a trained detector"
        )


def describe_detector(
    cfg: CfgNode,
    model: nn.Module,
    class_names: Sequence[str],
    metrics: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Describe the detector of a training, for its checkpoints: what makes the file enough.

    Args:
        class_names: of the model's outputs, in their order; empty: not known.
        metrics: of these weights, by name of the test set, as far as they are known.
    """
    detector = describe_training(cfg, class_names, metrics).as_dict()
    return {KEY: detector, **describe_preprocessing(cfg, model)}


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
