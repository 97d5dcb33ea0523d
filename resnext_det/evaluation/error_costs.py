"""What every kind of error costs in AP50, as TIDE computes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ErrorCost:
    """How often a kind of error occurs, and what it costs.

    Attributes:
        kind: one of ``ERROR_KINDS``.
        count: how often, among all detections that count (``max_detections`` an image and
            category); "missed" counts the objects that neither a correct detection nor one with an
            error of classification or localization is at, as TIDE does.
        count_at_score: how often among the detections of ``by_score.best_score`` or more; "missed"
            counts all objects that none of these has found.
        cost: points of AP50 that would be gained if only these errors were mended, 0 to 100.
    """

    kind: str
    count: int
    count_at_score: int
    cost: float
