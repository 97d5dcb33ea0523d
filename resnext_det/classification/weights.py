"""Read the weights of classifiers, start a training from weights, and write what it trained."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from fvcore.common.config import CfgNode

from resnext_det.classification.build import get_preprocessing
from resnext_det.classification.evaluation import find_columns
from resnext_det.config.classification import get_classifier_cfg
from resnext_det.data.images.catalog import name_image_set
from resnext_det.evaluation.classification import ClassificationMetrics
from resnext_det.files import list_first
from resnext_det.forms import convert
from resnext_det.resnext import ResNeXtClassifier
from resnext_det.weights import (
    WeightFile,
    check_configuration,
    load_weights,
    read_weights,
    write_weights,
)
from resnext_det.weights.conversion import assume_preprocessing, extract_backbone
from resnext_det.weights.preprocessing import find_batch_norm
from resnext_det.weights.published.catalog import advise_shipped
from resnext_det.weights.structure import find_architecture

logger = logging.getLogger(__name__)

FINAL, BEST = "model_final.pth", "model_best.pth"
"""Files of weights for ``MODEL.WEIGHTS`` of a detector; a training does not go on from them."""

_LINEAR = ("linear.weight", "linear.bias")


def load_classifier(source: str | Path | WeightFile) -> ResNeXtClassifier:
    """Build the classifier whose weights a file holds, in evaluation mode.

    Its batch norms are frozen, which is faster. ``read_weights`` gives the classes of its outputs
    and the preprocessing of its images.

    Args:
        source: a path, a name of the catalog, or what ``read_weights`` gave.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, of no ResNeXt, or of one without a linear layer.
    """
    file = source if isinstance(source, WeightFile) else read_weights(source, mapped=True)
    if file.format == "detector":
        raise ValueError(
            f"{file.path} is a detector's and has no classifier; give the file of a classifier, or "
            "evaluate the detector with resnext-det train --eval-only"
        )
    try:
        architecture = find_architecture(file.state)
    except ValueError as error:
        raise ValueError(f"{file.path} is no classifier: {error}") from error
    missing = [name for name in _LINEAR if name not in file.state]
    if missing:
        raise ValueError(
            f"{file.path} has no {' and no '.join(missing)}: it is a backbone without a "
            f"classifier{_describe_heads(file)}; give the file of a classifier with one linear "
            "layer named fc, or the file that the backbone was taken from"
        )
    classifier = ResNeXtClassifier(
        architecture,
        len(file.state["linear.bias"]),
        "GN" if find_batch_norm(file.state) == "none" else "FrozenBN",
        stride_in_1x1=file.preprocessing is not None and file.preprocessing.stride_in_1x1,
    )
    load_weights(classifier, file)
    return classifier.eval()


def _describe_heads(file: WeightFile) -> str:
    """Name what was left out of a file, as its head may be there under another name."""
    if not file.left_out:
        return ""
    return f" ({list_first((ascii(n)[1:-1][:80] for n in file.left_out), 6)} were left out)"


def load_initial_weights(
    cfg: CfgNode,
    classifier: ResNeXtClassifier,
    class_names: Sequence[str],
    *,
    overridden: Collection[str] = (),
    preprocessing: str | None = None,
) -> None:
    """Load ``MODEL.WEIGHTS``, from which a training starts.

    The linear layer is sorted by class name; for other classes it starts at random, with a warning.
    From a detector's file the backbone is taken.

    Args:
        overridden: keys that the user gave by hand, see ``check_configuration``.
        preprocessing: what the user states of the weights, see ``assume_preprocessing``.

    Raises:
        ValueError, FileNotFoundError: see ``load_weights``, ``WeightFile.refuse_unusable``,
            ``assume_preprocessing`` and ``check_configuration``.
    """
    try:
        file = read_weights(cfg.MODEL.WEIGHTS, mapped=True)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}{advise_shipped(cfg.MODEL.WEIGHTS)}") from None
    file.refuse_unusable()
    if file.format == "detector":
        logger.warning(
            "%s is a detector's: its backbone is taken, and the linear layer starts at random.",
            file.path,
        )
        file = extract_backbone(file)
    file = assume_preprocessing(file, preprocessing)
    check_configuration(cfg, file, overridden=overridden, defaults=get_classifier_cfg())
    load_weights(classifier, _fit_linear(file, class_names))


def _fit_linear(file: WeightFile, class_names: Sequence[str]) -> WeightFile:
    """Sort the linear layer by these classes, or leave it out where it is of others."""
    if "linear.bias" not in file.state or file.class_names == tuple(class_names):
        return file
    state, theirs, count = dict(file.state), file.class_names, len(file.state["linear.bias"])
    if theirs is None and count == len(class_names):
        logger.info(
            "%s has %d outputs and does not name their classes: they are taken for those of this "
            "training, in their order.",
            *(file.path, count),
        )
    elif theirs is not None and set(theirs) == set(class_names):
        order = find_columns(class_names, theirs)  # refuses names that stand twice
        state.update({name: state[name][order] for name in _LINEAR})
    else:
        known = f"other classes ({list_first(theirs, 3)})" if theirs else f"{count} classes"
        logger.warning(
            "%s is of %s and not of the %d of this training, so the linear layer starts at random.",
            *(file.path, known, len(class_names)),
        )
        state = {name: tensor for name, tensor in state.items() if name not in _LINEAR}
    return replace(file, state=state)


def write_classifier(
    path: Path,
    classifier: ResNeXtClassifier,
    cfg: CfgNode,
    *,
    class_names: Sequence[str],
    epochs: int,
    metrics: ClassificationMetrics | None,
) -> None:
    """Write the weights in form C, with preprocessing, classes, training and, if known, top-1."""
    metadata = {**describe_training(cfg), "epochs": str(epochs)}
    if metrics is not None:
        metadata |= {"tested_on": name_image_set(cfg.DATASETS.TEST), "protocol": metrics.protocol}
        tops = {name: value for name, value in metrics.as_dict().items() if name.startswith("top")}
        metadata |= {name: f"{value:.3f}" for name, value in tops.items()}
    form_c = classifier if cfg.MODEL.FORM == "C" else convert(copy.deepcopy(classifier), "C")
    write_weights(
        form_c,
        path,
        "native",
        preprocessing=get_preprocessing(cfg),
        metadata=metadata,
        class_names=class_names,
    )


def describe_training(cfg: CfgNode) -> dict[str, str]:
    """Describe a training for its weights: the set, the seed, and the images of its tests."""
    keys = ("INTERPOLATION", "SIZE_TEST", "RESIZE_TEST")
    images = {key.lower(): str(cfg.INPUT[key]) for key in keys}
    return {"trained_on": name_image_set(cfg.DATASETS.TRAIN), "seed": str(cfg.SEED), **images}


def read_top1(path: Path) -> float:
    """Read the top-1 of the weights in a file, to three digits; -1 where it is not known."""
    metadata = read_weights(path, mapped=True).metadata if path.is_file() else {}
    return float(metadata.get("top1", -1))
