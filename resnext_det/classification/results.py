"""What a training of a classifier leaves: its weights, the last and the best, and what was measured of them."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from resnext_det.classification.build import preprocessing_of
from resnext_det.evaluation.classification import ClassificationMetrics
from resnext_det.forms import convert
from resnext_det.resnext import ResNeXtClassifier
from resnext_det.weights import read_weights, write_weights

logger = logging.getLogger(__name__)

FINAL, BEST = "model_final.pth", "model_best.pth"
"""Files of weights for ``MODEL.WEIGHTS`` of a detector, without what a training needs to go on."""

_LONGEST_NAME = 80  # of a set, whose name may be a path, in the name of a file


def write_classifier(
    path: Path,
    classifier: ResNeXtClassifier,
    cfg: CfgNode,
    *,
    class_names: Sequence[str],
    epochs: int,
    metrics: ClassificationMetrics | None,
) -> None:
    """Write the weights in form C, with preprocessing, architecture, classes, and top-1 where it was measured."""
    facts = {**facts_of_training(cfg), "epochs": str(epochs)}
    if metrics is not None:
        facts |= {"tested_on": cfg.DATASETS.TEST, "protocol": metrics.protocol}
        facts |= {"top1": _digits(metrics.top1), "top5": _digits(metrics.top5)}
    in_form_c = classifier if cfg.MODEL.FORM == "C" else convert(copy.deepcopy(classifier), "C")
    write_weights(
        in_form_c,
        path,
        "native",
        preprocessing=preprocessing_of(cfg),
        metadata=facts,
        class_names=class_names,
    )


def facts_of_training(cfg: CfgNode) -> dict[str, str]:
    """What weights tell of their training: the set, the seed, and how images are shown in testing."""
    shown = {
        key.lower(): str(cfg.INPUT[key]) for key in ("INTERPOLATION", "SIZE_TEST", "RESIZE_TEST")
    }
    return {"trained_on": cfg.DATASETS.TRAIN, "seed": str(cfg.SEED), **shown}


def write_metrics(folder: Path, found: Sequence[ClassificationMetrics]) -> list[Path]:
    """``test/imagenet_val_crop_224_of_shorter_side_256_bilinear_1000_way.json`` for each: no test replaces another one."""
    written = []
    for metrics in found:
        name = f"{metrics.dataset[-_LONGEST_NAME:]} {metrics.test()} {metrics.ways} way"
        (folder / "test").mkdir(parents=True, exist_ok=True)
        file = folder / "test" / f"{re.sub('[^A-Za-z0-9.-]+', '_', name).strip('._')}.json"
        file.write_text(metrics.to_json(), encoding="utf-8")
        written.append(file)
    return written


def scalars(found: Sequence[ClassificationMetrics]) -> dict[str, float]:
    """The names in metrics.json and TensorBoard: test/top1, and test_1000_way/top1 of fewer classes."""
    return {
        f"test{f'_{metrics.ways}_way' if number else ''}/{name}": value
        for number, metrics in enumerate(found)
        for name, value in metrics.as_dict().items()
    }


class BestSoFar:
    """The best top-1 of a training.

    Args:
        file: the best weights so far, which a training that goes on reads; None for one that begins.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._top1 = -1.0
        if file is not None and file.is_file():
            self._top1 = float(read_weights(file, mapped=True).metadata.get("top1", self._top1))

    def is_new(self, metrics: ClassificationMetrics) -> bool:
        """Take note of a test; whether it is better than every one before."""
        top1 = float(
            _digits(metrics.top1)
        )  # as the file has it, so that a training that goes on decides alike
        is_better, self._top1 = top1 > self._top1, max(top1, self._top1)
        return is_better


class SameClasses:
    """The classes of a training, which its checkpoints name, and which stay the same when it goes on."""

    def __init__(self, class_names: Sequence[str]) -> None:
        self._names = list(class_names)

    def state_dict(self) -> Any:
        return self._names

    def load_state_dict(self, state_dict: Any) -> None:
        if state_dict != self._names:
            pairs = zip_longest(state_dict, self._names)
            was, now = next((was, now) for was, now in pairs if was != now)
            raise ValueError(
                f"the checkpoint is of {len(state_dict)} classes and DATASETS.TRAIN has {len(self._names)}, or they differ (first {was!r}, "
                f"now {now!r}); resume with the same set, or start anew from the weights: MODEL.WEIGHTS, without --resume"
            )


def _digits(percent: float) -> str:
    return f"{percent:.3f}"
