"""Top-1 and top-5 of a classifier: counted exactly, over batches and processes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor

from resnext_det.files import escape_controls, format_json

logger = logging.getLogger(__name__)

TOP = 5
"""How many of the best outputs top-5 looks at."""


def has_top5(ways: int) -> bool:
    """Tell whether top-5 says anything: of five classes or fewer it is 100, whatever the scores."""
    return ways > TOP


@dataclass(frozen=True)
class ClassificationMetrics:
    """Percentages of images that a classifier gets right; nan without any image.

    The paper's tables are errors, 100 minus these.

    Attributes:
        num_images: images that were scored.
        top1, top5: percent of them whose label has the best, or one of the five best scores; see
            ``Tally`` for ties. None is top-5 where no more than five classes compete, see
            ``has_top5``.
        cross_entropy: mean of -log softmax(scores)[label], in nats.
        class_names: of the outputs that competed, in their order.
        class_images, class_top1, class_top5: the same of every class by itself; no class has
            a top-5 where the whole has none.
        skipped: names of the images left out, sorted: they count neither as right nor as wrong.
        dataset, protocol: the name of the set, and how images were scored, such as "crop 224".
        resize, interpolation: the shorter side of the images before they were cropped, None where
            the protocol's name has it, and how they were resized.
        usual: what of "preprocessing", "resize" and "interpolation" is not known of the weights and
            only usual for their kind.
    """

    num_images: int
    top1: float
    top5: float | None
    cross_entropy: float
    class_names: tuple[str, ...] = field(repr=False)
    class_images: tuple[int, ...] = field(repr=False)
    class_top1: tuple[float, ...] = field(repr=False)
    class_top5: tuple[float, ...] = field(repr=False)
    skipped: tuple[str, ...] = ()
    dataset: str = ""
    protocol: str = ""
    resize: int | None = None
    interpolation: str = ""
    usual: tuple[str, ...] = ()

    @property
    def ways(self) -> int:
        """The number of outputs that competed."""
        return len(self.class_names)

    def as_dict(self) -> dict[str, float]:
        """Name the numbers that say something: ``top1``, ``top5`` if any, ``cross_entropy``."""
        return {
            "top1": self.top1,
            **({} if self.top5 is None else {"top5": self.top5}),
            "cross_entropy": self.cross_entropy,
        }

    def to_json(self) -> str:
        """Write everything as a JSON object; null stands for nan.

        There is no ``top5`` where no more than five classes compete.
        """
        content = {
            "dataset": self.dataset,
            "protocol": self.protocol,
            "resize": self.resize,
            "interpolation": self.interpolation,
            **({"usual": self.usual} if self.usual else {}),
            "images": self.num_images,
            "ways": self.ways,
            **self.as_dict(),
            "skipped": self.skipped,
            "classes": [
                dict(zip(("name", "images", "top1", "top5"), row)) for row in self._list_classes()
            ],  # a row without top-5 is shorter, and so is its object
        }
        return format_json(content)

    def describe_test(self) -> str:
        """Say how images were scored: "crop 224 of shorter side 256, torch7_bicubic"."""
        resized = f" of shorter side {self.resize}" if self.resize is not None else ""
        return f"{self.protocol}{resized}{f', {self.interpolation}' if self.interpolation else ''}"

    def summarize(self) -> str:
        """Write the numbers in a line, with the errors."""
        figures = (
            f"top-{k} {value:.2f} % (error {100 - value:.2f})"
            for k, value in ((1, self.top1), (TOP, self.top5))
            if value is not None
        )
        text = f"{', '.join(figures)} of {self.num_images} images, {self.ways}-way"
        if self.top5 is None:
            text += f" (top-{TOP} of {self.ways} classes is always 100)"
        if self.usual:
            text += f"; {', '.join(self.usual)} as is usual, not known"
        return text + (f"; {len(self.skipped)} skipped" if self.skipped else "")

    def format_table(self, *, per_class: bool = False) -> str:
        """Format the numbers in columns; per class those that have images, the worst first."""
        accuracies = {"1": self.top1, **({} if self.top5 is None else {"5": self.top5})}
        row = {
            **{"images": self.num_images, "ways": self.ways},
            **{f"top{k}": value for k, value in accuracies.items()},
            **{f"error{k}": 100 - value for k, value in accuracies.items()},
            "cross_entropy": self.cross_entropy,
        }
        text = tabulate([row.values()], headers=[*row], tablefmt="pipe", floatfmt=".3f")
        if not per_class:
            return text
        rows = sorted((row for row in self._list_classes() if row[1]), key=lambda row: row[2:])
        cells = [
            (escape_controls(row[0]), str(row[1]), *(f"{value:.3f}" for value in row[2:]))
            for row in rows
        ]
        table = tabulate(
            cells,
            ["class", "images", "top1", "top5"][: 3 if self.top5 is None else 4],
            tablefmt="pipe",
            colalign=("left", *["right"] * (len(cells[0]) - 1)) if cells else None,
            disable_numparse=True,
        )
        return f"{text}\n\n{table}"

    def _list_classes(self) -> list[tuple[Any, ...]]:
        """List name, images, top-1 and, where there is one, top-5 of each class."""
        columns = [self.class_names, self.class_images, self.class_top1]
        return list(zip(*columns, *([self.class_top5] if self.class_top5 else []), strict=True))


class Tally:
    """Counts over batches from which the metrics follow; small, and can be pickled.

    Those of several processes are merged. The label's rank is the number of scores above its own,
    and of equal ones with a lower index: what a stable sort gives. So a network whose outputs are
    all equal predicts class 0, and is right by chance alone.

    Args:
        class_names: of the columns of the scores, in their order.

    Raises:
        ValueError: there is no class.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        if len(class_names) == 0:
            raise ValueError("there is no class to count; give the names of the network's outputs")
        self.class_names = tuple(class_names)
        self.skipped: list[str] = []
        # Images, and those right by top-1 and top-5, of every class.
        self._counts = np.zeros((3, len(class_names)), dtype=np.int64)
        self._cross_entropy = 0.0  # the sum; a Python float is float64

    def add(self, scores: Tensor, labels: Tensor) -> None:
        """Count a batch.

        Args:
            scores: (N, K), floating point: logits, or anything whose softmax is the prediction, as
                log probabilities.
            labels: (N,), int64, the right column of each row.

        Raises:
            ValueError: a shape or type differs, a label is no column, or a score is nan or
                infinite. Nothing is counted then.
        """
        scores, labels = scores.detach().cpu(), labels.detach().cpu()
        _check_batch(scores, labels, len(self.class_names))
        own = scores.gather(1, labels[:, None])  # (N, 1)
        before = torch.arange(scores.shape[1]) < labels[:, None]
        ranks = ((scores > own) | ((scores == own) & before)).sum(dim=1).numpy()
        logs = torch.log_softmax(scores.double(), dim=1).gather(1, labels[:, None])
        classes = labels.numpy()
        for counts, chosen in zip(
            self._counts, (classes, classes[ranks < 1], classes[ranks < TOP])
        ):
            counts += np.bincount(chosen, minlength=len(counts))
        self._cross_entropy -= float(logs.sum())

    def skip(self, name: str) -> None:
        """Record an image that could not be scored, such as an unreadable one."""
        self.skipped.append(name)

    def merge(self, other: Tally) -> None:
        """Add what another process has counted.

        Raises:
            ValueError: it is of other classes.
        """
        if other.class_names != self.class_names:
            raise ValueError(
                f"counts of {len(self.class_names)} and of {len(other.class_names)} classes that "
                "are not the same, or in another order, cannot be added; give every process the "
                "same class_names"
            )
        self._counts += other._counts
        self._cross_entropy += other._cross_entropy
        self.skipped += other.skipped

    def compute_metrics(self, protocol: str = "", dataset: str = "") -> ClassificationMetrics:
        """Compute the metrics from the counts so far; they bear the names that are given."""
        total, top1, top5 = self._counts.sum(axis=1).tolist()
        if total == 0:
            logger.warning("There is no image to evaluate on: every number is nan.")
        images, of_top1, of_top5 = self._counts.tolist()
        return ClassificationMetrics(
            num_images=total,
            top1=_to_percent(top1, total),
            top5=_to_percent(top5, total) if has_top5(len(self.class_names)) else None,
            cross_entropy=self._cross_entropy / total if total else float("nan"),
            class_names=self.class_names,
            class_images=tuple(images),
            class_top1=tuple(map(_to_percent, of_top1, images)),
            class_top5=tuple(map(_to_percent, of_top5, images))
            if has_top5(len(self.class_names))
            else (),
            skipped=tuple(sorted(self.skipped)),
            protocol=protocol,
            dataset=dataset,
        )


def _check_batch(scores: Tensor, labels: Tensor, ways: int) -> None:
    if scores.dim() != 2 or scores.shape[1] != ways or not scores.is_floating_point():
        raise ValueError(
            f"the scores are {scores.dtype} of shape {tuple(scores.shape)}; give floating-point "
            f"numbers (N, {ways}), a column for each of the {ways} classes"
        )
    if labels.shape != scores.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(
            f"the labels are {labels.dtype} of shape {tuple(labels.shape)}; give int64 "
            f"({len(scores)},), one for each row of scores"
        )
    outside = (labels < 0) | (labels >= ways)
    if outside.any():
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"label {int(labels[row])} of row {row} is none of the {ways} classes; labels count "
            f"from 0 to {ways - 1}"
        )
    broken = ~scores.isfinite().all(dim=1)
    if broken.any():
        raise ValueError(
            f"scores of {int(broken.sum())} of {len(scores)} images are nan or infinite: the "
            "network has diverged; take weights from before that, or train again with a lower "
            "learning rate"
        )


def _to_percent(part: int, total: int) -> float:
    return 100 * part / total if total else float("nan")
