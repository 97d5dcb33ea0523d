"""Weights into a classifier, and a classifier out of a file of weights."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from fvcore.common.config import CfgNode

from resnext_det.resnext import ResNeXtClassifier
from resnext_det.weights import WeightFile, check_preprocessing, load_weights, read_weights
from resnext_det.weights.preprocessing import batch_norm_of
from resnext_det.weights.recognition import recognised

logger = logging.getLogger(__name__)

_LINEAR = ("linear.weight", "linear.bias")


def load_start(cfg: CfgNode, classifier: ResNeXtClassifier) -> None:
    """Load what a training starts from, ``MODEL.WEIGHTS``; a linear layer of other classes starts at random, with a warning.

    Raises:
        ValueError, FileNotFoundError: see ``load_weights`` and ``check_preprocessing``.
    """
    file = read_weights(cfg.MODEL.WEIGHTS, mapped=True)
    check_preprocessing(cfg, file)
    bias = file.state.get("linear.bias")
    if bias is not None and len(bias) != classifier.num_classes:
        logger.warning(
            "%s has %d classes, and this training %d: the linear layer starts at random.",
            *(file.path, len(bias), classifier.num_classes),
        )
        kept = {name: tensor for name, tensor in file.state.items() if name not in _LINEAR}
        file = replace(file, state=kept)
    load_weights(classifier, file)


def load_classifier(source: str | Path | WeightFile) -> ResNeXtClassifier:
    """The classifier whose weights a file holds, in evaluation mode; its batch norms are frozen, which is faster.

    What its images have to be, and its classes, are in what ``read_weights`` gives: ``preprocessing``, ``class_names``.

    Args:
        source: a path, a name of the catalog, or what ``read_weights`` gave.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, of no ResNeXt, or of one without a linear layer.
    """
    file = source if isinstance(source, WeightFile) else read_weights(source, mapped=True)
    try:
        architecture = recognised(file.state)
    except ValueError as error:
        raise ValueError(f"{file.path} is no classifier: {error}") from error
    missing = [name for name in _LINEAR if name not in file.state]
    if missing:
        raise ValueError(
            f"{file.path} has no {' and no '.join(missing)}: it is a backbone without a classifier; give the file that it was taken from"
        )
    classifier = ResNeXtClassifier(
        architecture,
        len(file.state["linear.bias"]),
        "GN" if batch_norm_of(file.state) == "none" else "FrozenBN",
        stride_in_1x1=file.preprocessing is not None and file.preprocessing.stride_in_1x1,
    )
    load_weights(classifier, file)
    return classifier.eval()
