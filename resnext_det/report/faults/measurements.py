"""Hold everything that the rules look at, so that each is a pure function of numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode

from resnext_det.config.rules import get_value
from resnext_det.data.statistics import SetStatistics
from resnext_det.evaluation.systematic import Displacement, Renaming

_HARDLY_ANY = 0.25  # of the objects


@dataclass(frozen=True)
class Difference:
    """Say how images of the training and of the test set differ in one respect.

    Attributes:
        name: what was measured, such as "brightness".
        train, test: means over images.
        spread: the standard deviation over the images of a set.
    """

    name: str
    train: float
    test: float
    spread: float

    @property
    def distance(self) -> float:
        """Count the standard deviations by which the means are apart."""
        return abs(self.train - self.test) / max(self.spread, 1e-9)


@dataclass(frozen=True, eq=False)
class Found:
    """Hold what was found of the P objects of a test set, by D detections.

    Attributes:
        sides: (P,) the square root of an object's area, in pixels of what the detector sees.
        classes: (P,) int.
        reached: (P,) an object's highest IoU with a detection of its class.
        touched: (P,) the same with any detection.
        scores: (D,).
        nearest: (D,) a detection's highest IoU with any annotation.
        objects_of_image, detections_of_image: (M,) int.
        confusion: (K, K) int, objects by their class and by the class of the detection on them,
            where the boxes agree by an IoU of 0.5.
    """

    sides: np.ndarray
    classes: np.ndarray
    reached: np.ndarray
    touched: np.ndarray
    scores: np.ndarray
    nearest: np.ndarray
    objects_of_image: np.ndarray
    detections_of_image: np.ndarray
    confusion: np.ndarray

    @property
    def finds_hardly_any(self) -> bool:
        """Tell whether hardly any object is found, under whatever class."""
        return bool(len(self.sides)) and float((self.touched >= 0.5).mean()) < _HARDLY_ANY


@dataclass(frozen=True)
class Measurements:
    """Hold what was measured of a run; None, nan or an empty mapping where it is not known.

    Attributes:
        cfg: the configuration of the run.
        class_names: K names, in the order of ``category_ap`` and ``found.classes``.
        ap50, category_ap: of the test set's boxes, in percent.
        mask_ap50: of its masks.
        costs: points of AP50 that each kind of error costs.
        series: scalars of metrics.json by name and iteration.
        train, test: statistics of the sets, at the size of tests.
        found: what was found of the test set's objects.
        shared: (test image, training image) that are the same file by content.
        copies: (image, earlier image) of the training set that are the same by content.
        appearance: how the images of the two sets differ.
        renaming, displacement: what the detections do wrong in one way everywhere.
        warnings: sentences that the run warned of.
        began_as_detector: whether the training went on from a detector's weights.
    """

    cfg: CfgNode | None = None
    class_names: tuple[str, ...] = ()
    ap50: float = math.nan
    mask_ap50: float = math.nan
    category_ap: tuple[float, ...] = ()
    costs: Mapping[str, float] = field(default_factory=dict)
    series: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    train: SetStatistics | None = None
    test: SetStatistics | None = None
    found: Found | None = None
    shared: Sequence[tuple[str, str]] = ()
    copies: Sequence[tuple[str, str]] = ()
    appearance: Sequence[Difference] = ()
    renaming: Renaming | None = None
    displacement: Displacement | None = None
    warnings: Sequence[str] = ()
    began_as_detector: bool = False

    def get(self, key: str) -> Any:
        """Get the value of a dotted key of the configuration; None where it is not known."""
        try:
            return None if self.cfg is None else get_value(self.cfg, key)
        except (KeyError, AttributeError):
            return None

    @property
    def is_retinanet(self) -> bool:
        """Tell whether the detector is a RetinaNet, without an RPN and ROI heads."""
        return self.get("MODEL.META_ARCHITECTURE") == "RetinaNet"

    @property
    def head(self) -> str:
        """Name the node of the configuration that has the thresholds of a test."""
        return "MODEL.RETINANET" if self.is_retinanet else "MODEL.ROI_HEADS"

    @property
    def lacking(self) -> float:
        """Compute how many points AP50 is below 100; 50 where AP50 is not known."""
        return 50.0 if math.isnan(self.ap50) else 100.0 - self.ap50

    @property
    def is_low(self) -> bool:
        """Tell whether AP50 is so low that something is likely wrong, or is not known."""
        return not self.ap50 >= LOW_AP50

    def count_by_name(self, statistics: SetStatistics | None) -> np.ndarray | None:
        """Count a set's objects of every class, in the order of ``class_names``: (K,)."""
        return None if statistics is None else statistics.count_by_name(self.class_names)


LOW_AP50 = 60.0
"""Points of AP50 that a detector of almost any set exceeds when nothing is wrong."""
