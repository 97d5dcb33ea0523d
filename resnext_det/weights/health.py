"""Check the numbers of weights for what no trained network has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
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
    """What is wrong with weights.

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
    extremes = {
        name: _Extremes(*(float(each) for each in torch.aminmax(tensor)))
        for name, tensor in state.items()
        if tensor.is_floating_point() and tensor.numel()
    }
    return Health(tuple(_find_faults(state, extremes)), tuple(_find_warnings(state, extremes)))


def _find_faults(state: Mapping[str, Tensor], extremes: Mapping[str, _Extremes]) -> Iterator[str]:
    # A NaN is both the smallest and the largest number, and an infinite one is either.
    endless = [name for name, each in extremes.items() if not all(map(math.isfinite, each))]
    negative = [
        name for name, each in extremes.items() if name.endswith("running_var") and each.least < 0
    ]
    integers = [
        name for name, tensor in state.items() if tensor.ndim > 1 and not tensor.is_floating_point()
    ]
    if endless:
        yield f"there are NaN or infinite numbers in {list_first(endless, _NAMED)}"
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
        yield (
            "never trained: every norm is as it began, with scale 1, bias 0, and mean 0 and "
            "variance 1 if it has them"
        )
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
