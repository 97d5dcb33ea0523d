"""Learning rate schedules as pure functions of the step.

``build_schedule`` gives a function from an iteration to the factor on the base learning rate. The factors
are, to the last bit, those of detectron2's ``build_lr_scheduler`` (``solver/build.py`` over fvcore's
``param_scheduler``): a warm-up laid over the beginning of a multi-step, cosine or fixed-gamma schedule.
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

LearningRateSchedule = Callable[[int], float]
"""The factor on the base learning rate at an iteration, 0 <= iteration <= max_iter."""

_Curve = Callable[[float], float]
"""A factor at a fraction of the training, 0 <= fraction <= 1."""

# Fractions are compared with this slack, as in fvcore: i / max_iter may fall just short of its decimal value.
_SLACK = 1e-6

SCHEDULES = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")
WARMUP_METHODS = ("linear", "constant")


def build_schedule(
    name: str,
    *,
    max_iter: int,
    steps: Sequence[int] = (),
    gamma: float = 0.1,
    base_lr: float = 1.0,
    base_lr_end: float = 0.0,
    num_decays: int = 3,
    warmup_iters: int = 1000,
    warmup_factor: float = 1e-3,
    warmup_method: str = "linear",
    rescale_interval: bool = False,
) -> LearningRateSchedule:
    """The schedule that detectron2 builds for the settings ``SOLVER.*`` of the same names.

    Args:
        name: "WarmupMultiStepLR" (factor ``gamma`` at each of ``steps``), "WarmupCosineLR" (half a cosine
            from 1 to ``base_lr_end / base_lr``) or "WarmupStepWithFixedGammaLR" (``num_decays`` equally
            spaced decays by ``gamma``).
        max_iter: length of the training in iterations.
        warmup_iters, warmup_factor, warmup_method: the warm-up starts at ``warmup_factor`` times the first
            factor and either rises linearly to the schedule's value at its end, or is constant.
        rescale_interval: the schedule begins after the warm-up, compressed into what is left, not underneath
            it.

    Raises:
        ValueError: an unknown name or method, a length that is not positive, steps not in increasing order,
        or an end
            learning rate outside [0, base_lr].
    """
    if max_iter <= 0:
        raise ValueError(f"SOLVER.MAX_ITER is {max_iter}; a schedule needs at least 1 iteration")
    if warmup_iters < 0:
        raise ValueError(f"SOLVER.WARMUP_ITERS is {warmup_iters}; write 0 for no warm-up")
    if name == "WarmupMultiStepLR":
        curve = _multi_step(_usable_steps(steps, max_iter), gamma, max_iter)
    elif name == "WarmupCosineLR":
        curve = _cosine(base_lr, base_lr_end)
    elif name == "WarmupStepWithFixedGammaLR":
        curve = _fixed_gamma(gamma, num_decays)
    else:
        raise ValueError(
            f"SOLVER.LR_SCHEDULER_NAME is {name!r}; the known ones are {', '.join(SCHEDULES)}"
        )
    warmed = _with_warmup(
        curve,
        length=min(warmup_iters / max_iter, 1.0),
        factor=warmup_factor,
        method=warmup_method,
        rescale=rescale_interval,
    )
    return lambda iteration: warmed(iteration / max_iter)


def _usable_steps(steps: Sequence[int], max_iter: int) -> list[int]:
    """The steps before the end of the training, in order; the others are dropped with a warning."""
    if list(steps) != sorted(set(steps)) or (len(steps) > 0 and steps[0] <= 0):
        raise ValueError(
            f"SOLVER.STEPS is {tuple(steps)}; write positive iterations in increasing order, each once, as "
            "(60000, 80000)"
        )
    usable = [step for step in steps if step < max_iter]
    if len(usable) < len(steps):
        dropped = tuple(step for step in steps if step >= max_iter)
        logger.warning(
            "SOLVER.STEPS %s are not before the end of the training (SOLVER.MAX_ITER %d) and have no effect.",
            dropped,
            max_iter,
        )
    return usable


def _multi_step(steps: Sequence[int], gamma: float, max_iter: int) -> _Curve:
    factors = [gamma**decays for decays in range(len(steps) + 1)]
    return lambda fraction: factors[bisect_right(steps, int((fraction + _SLACK) * max_iter))]


def _cosine(base_lr: float, base_lr_end: float) -> _Curve:
    if base_lr <= 0 or not 0 <= base_lr_end <= base_lr:
        raise ValueError(
            f"SOLVER.BASE_LR_END is {base_lr_end} and SOLVER.BASE_LR {base_lr}; a cosine needs 0 <= "
            "BASE_LR_END <= BASE_LR"
            " and a positive BASE_LR"
        )
    end = base_lr_end / base_lr
    return lambda fraction: end + 0.5 * (1 - end) * (1 + math.cos(math.pi * fraction))


def _fixed_gamma(gamma: float, num_decays: int) -> _Curve:
    if gamma <= 0 or num_decays <= 0:
        raise ValueError(
            f"SOLVER.GAMMA is {gamma} and SOLVER.NUM_DECAYS {num_decays}; both have to be positive"
        )
    factors = [1.0]
    for _ in range(num_decays):
        factors.append(factors[-1] * gamma)
    # fvcore's index leaves the list at the very end of the training (fraction 1); the last factor is meant.
    return lambda fraction: factors[min(int((fraction + _SLACK) * len(factors)), num_decays)]


def _with_warmup(
    curve: _Curve, *, length: float, factor: float, method: str, rescale: bool
) -> _Curve:
    """``curve`` with its first ``length`` (a fraction of the training) replaced by a warm-up."""
    first = factor * curve(0.0)
    last = curve(0.0) if rescale else curve(length)
    rest = 1 - length
    # Not simply `length`: detectron2 computes the beginning of the second part so, and rounding shows.
    begin = (length + rest) - rest

    def linear(fraction: float) -> float:
        done = fraction / length
        return last * done + first * (1 - done)

    warmups: dict[str, _Curve] = {"linear": linear, "constant": lambda fraction: first}
    if method not in warmups:
        raise ValueError(
            f"SOLVER.WARMUP_METHOD is {method!r}; the known ones are {', '.join(WARMUP_METHODS)}"
        )
    warmup = warmups[method]

    def warmed(fraction: float) -> float:
        if fraction + _SLACK <= length:
            return warmup(fraction)
        if not rescale:
            return curve(fraction)
        return curve((fraction - begin) / rest) if rest > 0 else curve(1.0)

    return warmed
