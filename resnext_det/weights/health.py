"""Check the numbers of weights for what no trained network has."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from resnext_det.files import list_first

_NAMED = 3  # names that a sentence tells


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
        name: tuple(float(each) for each in torch.aminmax(tensor))
        for name, tensor in state.items()
        if tensor.is_floating_point() and tensor.numel()
    }
    faults: list[str] = []
    warnings: list[str] = []

    def tell(into: list[str], text: str, is_so: Callable[[str, float, float], bool]) -> None:
        names = [name for name, (low, high) in extremes.items() if is_so(name, low, high)]
        if names:
            into.append(text.format(list_first(names, _NAMED)))

    # A NaN is both the smallest and the largest number, and an infinite one is either.
    tell(
        faults,
        "there are NaN or infinite numbers in {}",
        lambda _, low, high: not (math.isfinite(low) and math.isfinite(high)),
    )
    tell(
        faults,
        "there are variances below 0, which have no root, in {}",
        lambda name, low, _: name.endswith("running_var") and low < 0,
    )
    integers = [
        name for name, tensor in state.items() if tensor.ndim > 1 and not tensor.is_floating_point()
    ]
    if integers:
        kind = str(state[integers[0]].dtype).removeprefix("torch.")
        faults.append(
            f"there are weights of {kind}, as of a quantized network, in "
            f"{list_first(integers, _NAMED)}"
        )
    if _is_untrained(extremes):
        warnings.append(
            "never trained: every norm is as it began, with scale 1, bias 0, and mean 0 and "
            "variance 1 if it has them"
        )
        return Health(tuple(faults), tuple(warnings))
    tell(
        warnings,
        "constant weights: all are one number in {}",
        lambda name, low, high: (
            state[name].ndim > 1
            and low == high
            and state[name].numel() > 1
            and "conv2_offset" not in name  # which begin at 0
        ),
    )
    tell(
        warnings,
        "norms of scale 0: nothing comes through {}",
        lambda name, low, high: name.endswith("norm.weight") and low == high == 0,
    )
    return Health(tuple(faults), tuple(warnings))


def _is_untrained(extremes: Mapping[str, tuple[float, ...]]) -> bool:
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
