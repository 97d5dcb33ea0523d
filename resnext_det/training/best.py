"""Follow the evaluations of a training: which was the best, and how many came after it."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from resnext_det.training.checkpoint import BEST
from resnext_det.training.metrics import read_recorded

logger = logging.getLogger(__name__)


class Evaluations:
    """Know one number of every evaluation of a run, from the lines of metrics.json.

    So a run that is resumed decides as one that was not, and its checkpoints hold nothing for it.

    Args:
        output_dir: of the run, whose ``MetricsWriter`` has cut the lines that come again.
        metric: the number's name in metrics.json, where larger is better; "" follows none.
        patience: after so many evaluations without a better one the training is over; 0: never.
    """

    def __init__(self, output_dir: str | Path, metric: str, *, patience: int) -> None:
        self.metric = metric
        self._patience = patience
        self._values = read_recorded(output_dir).get(metric, {}) if metric else {}

    def note(self, iteration: int, value: float) -> bool:
        """Note an evaluation after an iteration, unless it is known; tell whether it is the best.

        Of equal ones the earlier is better. A value that is nan is none, and counts as an
        evaluation.
        """
        if math.isnan(value):
            logger.warning("%s is not defined after iteration %d.", self.metric, iteration)
        known = self._values.setdefault(iteration, value)
        return not math.isnan(known) and self._find_best() == iteration

    def is_over(self) -> bool:
        """Tell whether the last ``patience`` evaluations brought no better one."""
        return 0 < self._patience <= self._count_since_best()

    def explain(self) -> str:
        """Say why the training is over."""
        best, count = self._find_best(), self._count_since_best()
        if best is None:
            return f"none of {count} evaluations gave a {self.metric} (TEST.PATIENCE)"
        return (
            f"{count} evaluations brought no {self.metric} above the {self._values[best]:.3f} of "
            f"iteration {best} (TEST.PATIENCE)"
        )

    def tell_best(self, output_dir: str | Path, *, kept: bool) -> str | None:
        """Say which of several evaluations was the best, and where its weights are; None of one.

        Args:
            kept: the best weights were written to ``model_best.pth``.
        """
        best = self._find_best()
        if best is None or len(self._values) < 2:
            return None
        last = max(self._values)
        told = f"{self.metric} was best after iteration {best}, {self._values[best]:.3f}"
        told += " at the end" if best == last else f"; at the end it is {self._values[last]:.3f}"
        name = "model_final.pth" if best == last else f"model_{best:07}.pth"
        path = Path(output_dir, f"{BEST}.pth" if kept else name)
        if path.is_file():
            return f"{told}. These weights are in {path}."
        return f"{told}. With TEST.BEST_METRIC {self.metric} a training keeps the best weights."

    def _find_best(self) -> int | None:
        defined = [pair for pair in sorted(self._values.items()) if not math.isnan(pair[1])]
        return max(defined, key=lambda pair: pair[1])[0] if defined else None  # the first of equals

    def _count_since_best(self) -> int:
        best = self._find_best()
        return sum(best is None or iteration > best for iteration in self._values)
