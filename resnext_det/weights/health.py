"""Check the numbers of weights for what no trained network has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from resnext_det.files import list_first

_NAMED = 3  # names that a sentence tells


class _Extremes(NamedTuple):
    """The smallest and the largest number of a tensor."""

    least: float
    greatest: float


class Health(NamedTuple):
    """Hold what is wrong with weights.

    Attributes:
        faults: with these a network computes nothing of use; each a sentence.
        warnings: what may be meant, and seldom is; each a few words, a colon, and the rest.
    """

    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def check_numbers(state: Mapping[str, Tensor]) -> Health:
    """Check every number of weights: whether it is finite, and whether it was ever trained.

    A pass over 100 MB takes some hundredths of a second, and no memory where the file is mapped.

    Args:
        state: weights under our names: of a classifier, a backbone or a detector.
    """
    extremes = _find_extremes(state)
    return Health(tuple(_find_faults(state, extremes)), tuple(_find_warnings(state, extremes)))


def tell_not_finite(state: Mapping[str, Tensor]) -> str | None:
    """Say which numbers of weights are NaN or infinite, and what to do; None where all are finite.

    One pass: some 40 ms for 335 MB on one core.
    """
    return _tell_endless(state, _find_endless(_find_extremes(state)))


def _find_extremes(state: Mapping[str, Tensor]) -> dict[str, _Extremes]:
    return {
        name: _Extremes(*(float(each) for each in torch.aminmax(_widen(tensor))))
        for name, tensor in state.items()
        if tensor.is_floating_point() and tensor.numel() and not tensor.is_meta
    }


def _widen(tensor: Tensor) -> Tensor:
    """Make numbers of 8 bits, which torch does not compare, wider; others are as they are."""
    return tensor.float() if tensor.element_size() == 1 else tensor


def _find_endless(extremes: Mapping[str, _Extremes]) -> list[str]:
    # A NaN is both the smallest and the largest number, and an infinite one is either.
    return [name for name, each in extremes.items() if not all(map(math.isfinite, each))]


def _tell_endless(state: Mapping[str, Tensor], endless: Sequence[str]) -> str | None:
    if not endless:
        return None
    count = sum(int((~_widen(state[name]).isfinite()).sum()) for name in endless)
    return (
        f"there are {count} NaN or infinite numbers, in {len(endless)} of {len(state)} tensors "
        f"({list_first(endless, _NAMED)}); get the file again, or take a checkpoint from before "
        "the training diverged"
    )


def _find_faults(state: Mapping[str, Tensor], extremes: Mapping[str, _Extremes]) -> Iterator[str]:
    not_finite = _tell_endless(state, _find_endless(extremes))
    negative = [
        name for name, each in extremes.items() if name.endswith("running_var") and each.least < 0
    ]
    integers = [
        name for name, tensor in state.items() if tensor.ndim > 1 and not tensor.is_floating_point()
    ]
    if not_finite:
        yield not_finite
    if _is_untrained(extremes):
        yield (
            "never trained: every norm is as it began, with scale 1, bias 0, and mean 0 and "
            "variance 1 if it has them; give the file of a trained network"
        )
    if negative:
        yield (
            f"there are variances below 0, which have no root, in {list_first(negative, _NAMED)}"
        )
    if integers:
        kind = str(state[integers[0]].dtype).removeprefix("torch.")
        yield (
            f"there are weights of {kind}, as of a quantized network, in "
            f"{list_first(integers, _NAMED)}"
        )


def _find_warnings(state: Mapping[str, Tensor], extremes: Mapping[str, _Extremes]) -> Iterator[str]:
    if _is_untrained(extremes):
        return
    constant = [
        name
        for name, each in extremes.items()
        if state[name].ndim > 1
        and state[name].numel() > 1
        and each.least == each.greatest
        and "conv2_offset" not in name  # which begin at 0
    ]
    closed = [
        name
        for name, each in extremes.items()
        if name.endswith("norm.weight") and each.least == each.greatest == 0
    ]
    if constant:
        yield f"constant weights: all are one number in {list_first(constant, _NAMED)}"
    if closed:
        yield f"norms of scale 0: nothing comes through {list_first(closed, _NAMED)}"


def _is_untrained(extremes: Mapping[str, _Extremes]) -> bool:
    """Tell whether every norm has the numbers that it begins with.

    The scale of a block's last norm may begin at 0 (torchvision's zero_init_residual).
    """
    begins = {
        "norm.weight": ((1, 1), (0, 0)),
        "norm.bias": ((0, 0),),
        "running_mean": ((0, 0),),
        "running_var": ((1, 1),),
    }
    found = [
        extremes[name] in numbers
        for name in extremes
        for ending, numbers in begins.items()
        if name.endswith(ending)
    ]
    return bool(found) and all(found)
