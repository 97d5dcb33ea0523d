"""Weights into a classifier, and a classifier out of a file of weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fvcore.common.config import CfgNode

from resnext_det.classification.scoring import columns_of
from resnext_det.resnext import ResNeXtClassifier
from resnext_det.weights import WeightFile, check_preprocessing, load_weights, read_weights
from resnext_det.weights.conversion import extract_backbone
from resnext_det.weights.file import find_architecture
from resnext_det.weights.preprocessing import find_batch_norm

logger = logging.getLogger(__name__)

_LINEAR = ("linear.weight", "linear.bias")


def load_start(cfg: CfgNode, classifier: ResNeXtClassifier, class_names: Sequence[str]) -> None:
    """Load what a training starts from, ``MODEL.WEIGHTS``; a linear layer of other classes starts at random, with a warning.

    Of a detector's file the backbone is taken. Where the file names its classes and they are the same in another order, so are the
    outputs.

    Raises:
        ValueError, FileNotFoundError: see ``load_weights`` and ``check_preprocessing``.
    """
    file = read_weights(cfg.MODEL.WEIGHTS, mapped=True)
    if file.format == "detector":
        logger.warning(
            "%s is a detector's: its backbone is taken, and the linear layer starts at random.",
            file.path,
        )
        file = extract_backbone(file)
    check_preprocessing(cfg, file)
    load_weights(classifier, _of_classes(file, class_names))


def _of_classes(file: WeightFile, class_names: Sequence[str]) -> WeightFile:
    """The weights with a linear layer for these classes, in their order; without one where it is of others."""
    bias = file.state.get("linear.bias")
    if bias is None or file.class_names == tuple(class_names):
        return file
    if file.class_names is not None and set(file.class_names) == set(class_names):
        order = columns_of(class_names, file.class_names)
        return replace(
            file, state={**file.state, **{name: file.state[name][order] for name in _LINEAR}}
        )
    if file.class_names is None and len(bias) == len(class_names):
        logger.info(
            "%s has %d outputs and does not name their classes: they are taken for those of this training, in their order.",
            *(file.path, len(bias)),
        )
        return file
    known = (
        f"other classes ({', '.join(file.class_names[:3])} ...)"
        if file.class_names
        else f"{len(bias)} classes"
    )
    logger.warning(
        "%s is of %s and not of the %d of this training, so the linear layer starts at random.",
        *(file.path, known, len(class_names)),
    )
    return replace(
        file, state={name: tensor for name, tensor in file.state.items() if name not in _LINEAR}
    )


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
    if file.format == "detector":
        raise ValueError(
            f"{file.path} is a detector's and has no classifier; give the file of a classifier, or evaluate the detector with "
            "tools/train_net.py --eval-only"
        )
    try:
        architecture = find_architecture(file.state)
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
        "GN" if find_batch_norm(file.state) == "none" else "FrozenBN",
        stride_in_1x1=file.preprocessing is not None and file.preprocessing.stride_in_1x1,
    )
    load_weights(classifier, file)
    return classifier.eval()
