"""Learning rate schedules, as pure functions of the iteration.

fvcore's ``param_scheduler`` computes them, composed as in detectron2's ``build_lr_scheduler``, so
the factors are detectron2's to the last bit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
    StepWithFixedGammaParamScheduler,
)

logger = logging.getLogger(__name__)

LearningRateSchedule = Callable[[int], float]
"""The factor on the base learning rate at an iteration, 0 <= iteration <= max_iter."""

SCHEDULES = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")
WARMUP_METHODS = ("linear", "constant")


@dataclass(frozen=True)
class ScheduleSettings:
    """Settings of a schedule, named as detectron2's keys of SOLVER.

    Attributes:
        max_iter: length of the training in iterations.
        lr_scheduler_name: "WarmupMultiStepLR" multiplies by ``gamma`` at each of ``steps``;
            "WarmupCosineLR" falls along half a cosine from 1 to ``base_lr_end / base_lr``;
            "WarmupStepWithFixedGammaLR" multiplies ``num_decays`` times, at equal distances.
        warmup_iters, warmup_factor, warmup_method: the warm-up starts at ``warmup_factor`` times
            the first factor, and rises linearly to the schedule's value at its end, or is constant.
        rescale_interval: the schedule begins after the warm-up, compressed into what is left;
            otherwise the warm-up replaces its beginning.
    """

    max_iter: int
    lr_scheduler_name: str = "WarmupMultiStepLR"
    steps: tuple[int, ...] = ()
    gamma: float = 0.1
    base_lr: float = 1.0
    base_lr_end: float = 0.0
    num_decays: int = 3
    warmup_iters: int = 1000
    warmup_factor: float = 1e-3
    warmup_method: str = "linear"
    rescale_interval: bool = False


def build_schedule(settings: ScheduleSettings) -> LearningRateSchedule:
    """Build the schedule that detectron2 builds for these settings.

    Raises:
        ValueError: an unknown name or method, a length that is not positive, steps that do not
            increase, or an end learning rate outside [0, base_lr].
    """
    if settings.max_iter <= 0:
        raise ValueError(
            f"SOLVER.MAX_ITER is {settings.max_iter}; a schedule needs at least 1 iteration"
        )
    warmed = _add_warmup(_build_scheduler(settings), settings)
    return lambda iteration: warmed(iteration / settings.max_iter)


class _FixedGamma(StepWithFixedGammaParamScheduler):
    """Keep the last factor to the very end, where fvcore's index leaves its list."""

    def __call__(self, where: float) -> float:
        return super().__call__(min(where, 1 - 2 * self.WHERE_EPSILON))


def _build_scheduler(settings: ScheduleSettings) -> ParamScheduler:
    name, gamma, max_iter = settings.lr_scheduler_name, settings.gamma, settings.max_iter
    if name == "WarmupMultiStepLR":
        steps = _drop_late_steps(settings.steps, max_iter)
        factors = [gamma**decays for decays in range(len(steps) + 1)]
        return MultiStepParamScheduler(factors, num_updates=max_iter, milestones=steps)
    if name == "WarmupCosineLR":
        base, end = settings.base_lr, settings.base_lr_end
        if base <= 0 or not 0 <= end <= base:
            raise ValueError(
                f"SOLVER.BASE_LR_END is {end} and SOLVER.BASE_LR {base}; a cosine needs a positive "
                "BASE_LR and 0 <= BASE_LR_END <= BASE_LR"
            )
        return CosineParamScheduler(1, end / base)
    if name == "WarmupStepWithFixedGammaLR":
        if gamma <= 0 or settings.num_decays <= 0:
            raise ValueError(
                f"SOLVER.GAMMA is {gamma} and SOLVER.NUM_DECAYS {settings.num_decays}; both have "
                "to be positive"
            )
        return _FixedGamma(1.0, settings.num_decays, gamma, num_updates=max_iter)
    raise ValueError(
        f"SOLVER.LR_SCHEDULER_NAME is {name!r}; the known ones are {', '.join(SCHEDULES)}"
    )


def _drop_late_steps(steps: tuple[int, ...], max_iter: int) -> list[int]:
    """Drop the steps that are not before the end of the training, with a warning."""
    if list(steps) != sorted(set(steps)) or (steps and steps[0] <= 0):
        raise ValueError(
            f"SOLVER.STEPS is {steps}; write positive iterations in increasing order, each once, "
            "as (60000, 80000)"
        )
    late = tuple(step for step in steps if step >= max_iter)
    if late:
        logger.warning(
            "SOLVER.STEPS %s are not before the end of the training (SOLVER.MAX_ITER %d) and have "
            "no effect.",
            *(late, max_iter),
        )
    return [step for step in steps if step < max_iter]


def _add_warmup(scheduler: ParamScheduler, settings: ScheduleSettings) -> ParamScheduler:
    """Lay a warm-up over a scheduler's beginning, as detectron2's ``WarmupParamScheduler``."""
    method, rescale = settings.warmup_method, settings.rescale_interval
    if settings.warmup_iters < 0:
        raise ValueError(f"SOLVER.WARMUP_ITERS is {settings.warmup_iters}; write 0 for no warm-up")
    length = min(settings.warmup_iters / settings.max_iter, 1.0)
    first = settings.warmup_factor * scheduler(0.0)
    if method == "linear":
        warmup = LinearParamScheduler(first, scheduler(0.0 if rescale else length))
    elif method == "constant":
        warmup = ConstantParamScheduler(first)
    else:
        raise ValueError(
            f"SOLVER.WARMUP_METHOD is {method!r}; the known ones are {', '.join(WARMUP_METHODS)}"
        )
    # After a warm-up that is the whole training nothing is left to compress the schedule into.
    scaling = ["rescaled", "rescaled" if rescale and length < 1 else "fixed"]
    return CompositeParamScheduler([warmup, scheduler], [length, 1 - length], scaling)
