"""Compute with weights of any type in float64, and round once to a type that holds the result.

16 bits hold what was trained, not what is computed from it: a stem divided by a pixel std of 57
lies among float16's subnormal numbers, and 1 - 1e-5 is 1 in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def compute_exactly(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Call a function with tensors as float64, and round its result to ``choose_type`` of them."""
    return function(*(tensor.double() for tensor in tensors)).to(choose_type(*tensors))


def choose_type(*tensors: Tensor) -> torch.dtype:
    """Choose the type of what is computed from weights: float32, or float64 if one of them is."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
