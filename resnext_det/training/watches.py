"""Warn once of what goes wrong in a training: it waits for data, or its losses rise.

A watch takes each line of metrics.json, see ``MetricsWriter``.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from resnext_det.training import distributed
from resnext_det.training.metrics import Watch, read_recorded
from resnext_det.training.pace import WAITING
from resnext_det.training.threads import count_processors

logger = logging.getLogger(__name__)

_WAITING_LINES = 3  # in a row, of 20 iterations each
_SMOOTHED = 5  # lines
_HIGH_LINES = 5  # smoothed losses in a row that have to be high
_RISEN = 2.0  # a healthy loss of boxes may rise by half while the first objects are found
_MEASURED = 3  # validation losses since the lowest one
_OVERFITTED = 1.1


class DataWatch:
    """Warn once where a training waits for its batches, with what to do.

    Args:
        num_workers: loading processes of each training process.
        processes: training processes on this machine.
    """

    def __init__(self, num_workers: int, processes: int = 1) -> None:
        self._num_workers, self._processes = num_workers, processes
        self._lines = 0  # in a row in which data was the bound
        self._told = False

    def __call__(self, iteration: int, scalars: Mapping[str, float]) -> None:
        share = scalars.get("data_share")
        if share is None or self._told:
            return
        self._lines = self._lines + 1 if share >= WAITING else 0
        if self._lines == _WAITING_LINES:
            self._told = True
            logger.warning(
                "The training waits for its images: %.0f%% of the time of a step, %.3g of %.3g s. "
                "%s.",
                *(100 * share, share * scalars["time"], scalars["time"], self._advise()),
            )

    def _advise(self) -> str:
        workers, processors = self._num_workers, math.floor(count_processors() / self._processes)
        more = min(max(2, 2 * workers), processors)
        resume = "; --resume takes it too"
        if workers == 0:
            return (
                "DATALOADER.NUM_WORKERS is 0, so nothing is loaded meanwhile; write "
                f"{max(1, min(2, processors - 1))}{resume}"
            )
        if more > workers:
            return (
                f"Write DATALOADER.NUM_WORKERS {more} in place of {workers} ({processors} "
                f"processors for this process){resume}"
            )
        return (
            f"The {workers} loading processes have the processors that there are ({processors}); "
            "store the images at the size that the training needs (INPUT.MIN_SIZE_TRAIN), or on a "
            "faster disk"
        )


class RisingLossWatch:
    """Warn once where the training loss has been far above its lowest for long.

    Args:
        earlier: the total loss of the lines so far, where a run goes on.
        clips_gradients: of the training.
    """

    def __init__(self, earlier: Sequence[float] = (), *, clips_gradients: bool = False) -> None:
        self._clips_gradients = clips_gradients
        self._values = [value for value in earlier if math.isfinite(value)]
        self._told = False

    def __call__(self, iteration: int, scalars: Mapping[str, float]) -> None:
        value = scalars.get("total_loss", math.nan)
        if self._told or not math.isfinite(value):
            return
        self._values.append(value)
        if (rise := find_rise(self._values)) is not None:
            self._told = True
            remedies = ["a lower SOLVER.BASE_LR", "a longer SOLVER.WARMUP_ITERS"]
            if not self._clips_gradients:
                remedies.append("SOLVER.CLIP_GRADIENTS.ENABLED True")
            logger.warning(
                "The training loss rises: it was %.4g, and is %.4g at iteration %d. The learning "
                "rate, %.3g, may be too high: begin anew with %s.",
                *(*rise, iteration, scalars.get("lr", math.nan), " or ".join(remedies)),
            )


def find_rise(values: Sequence[float]) -> tuple[float, float] | None:
    """Find whether the last of a series of losses are twice its lowest, all of them smoothed.

    Returns:
        the lowest and the last one, each a median of five; None where the losses are in order.
    """
    ends = range(_SMOOTHED, len(values) + 1)
    smoothed = [statistics.median(values[end - _SMOOTHED : end]) for end in ends]
    before, last = smoothed[:-_HIGH_LINES], smoothed[-_HIGH_LINES:]
    if not before or min(last) <= _RISEN * min(before):
        return None
    return min(before), last[-1]


class OverfittingWatch:
    """Warn once where the validation loss rises and the training loss falls.

    It has to be above its lowest of three measurements ago or more. While the first objects are
    found, losses rise in training and test alike: so those of the warm-up do not count, and the
    training loss has to be lower than it was then.

    Args:
        earlier: the scalars so far by name and iteration, where a run goes on.
        warm_up: iterations in which the learning rate rises.
        keeps_best: whether the training keeps the best weights.
    """

    NAME = "validation/total_loss"
    """Ends the name of a validation loss; where there are several test sets theirs stand before."""

    def __init__(
        self,
        earlier: Mapping[str, Mapping[int, float]] = {},
        *,
        warm_up: int = 0,
        keeps_best: bool = False,
    ) -> None:
        self._warm_up, self._keeps_best = warm_up, keeps_best
        self._totals = dict(earlier.get("total_loss", {}))
        self._values: dict[str, dict[int, float]] = {
            name: {known: value for known, value in values.items() if known >= warm_up}
            for name, values in earlier.items()
            if name.endswith(self.NAME)
        }
        self._told = False

    def __call__(self, iteration: int, scalars: Mapping[str, float]) -> None:
        if "total_loss" in scalars:
            self._totals[iteration] = scalars["total_loss"]
        for name, value in scalars.items():
            measured = name.endswith(self.NAME) and math.isfinite(value)
            if measured and iteration >= self._warm_up:
                self._values.setdefault(name, {})[iteration] = value
                self._warn_once(name, value)

    def _warn_once(self, name: str, value: float) -> None:
        """Warn where the last loss of a set is far above its lowest one, unless it is told."""
        values = self._values[name]
        lowest = min(values, key=lambda known: values[known])
        later = sum(known > lowest for known in values)
        risen = value >= _OVERFITTED * values[lowest]
        if self._told or later < _MEASURED or not risen or not self._learned_since(lowest):
            return
        self._told = True
        logger.warning(
            "The loss on %s has risen since iteration %d, from %.4g to %.4g: the training learns "
            "its images by heart. A shorter training or more images help%s.",
            *(name.removesuffix(self.NAME).rstrip("/") or "the test set", lowest),
            *(values[lowest], value),
            "" if self._keeps_best else ", or TEST.BEST_METRIC, which keeps the best weights",
        )

    def _learned_since(self, iteration: int) -> bool:
        """Tell whether the training loss, smoothed, is lower now than it was at an iteration."""
        before = [value for known, value in self._totals.items() if known <= iteration]
        now = list(self._totals.values())
        if not before:
            return True
        return statistics.median(now[-_SMOOTHED:]) < statistics.median(before[-_SMOOTHED:])


def watch_training(
    output_dir: str | Path,
    num_workers: int,
    start: int,
    *,
    warm_up: int = 0,
    clips_gradients: bool = False,
    keeps_best: bool = False,
) -> list[Watch]:
    """Make the watches of a training, which know the lines before ``start``; in every process.

    Args:
        num_workers: loading processes of each training process.
        start: the first iteration.
        warm_up: iterations in which the learning rate rises.
        clips_gradients, keeps_best: of the training, which is not advised to do what it does.
    """
    earlier = {
        name: {iteration: value for iteration, value in values.items() if iteration < start}
        for name, values in read_recorded(output_dir).items()
    }
    return [
        DataWatch(num_workers, distributed.get_world_size()),
        RisingLossWatch(
            list(earlier.get("total_loss", {}).values()), clips_gradients=clips_gradients
        ),
        OverfittingWatch(earlier, warm_up=warm_up, keeps_best=keeps_best),
    ]
