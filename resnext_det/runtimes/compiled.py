"""Compute a part of a model by torch.compile, with its weights frozen into the code."""

from __future__ import annotations

import torch
from torch import Tensor

from resnext_det.runtimes.folded import arrange_weights, fold_norms
from resnext_det.runtimes.parts import Part, Run

# All models have the forward of ``parts.py`` in common, which torch compiles 8 times by default.
_LIMITS = {"recompile_limit": 1000, "accumulated_recompile_limit": 1000}


def build(part: Part, dtype: torch.dtype) -> Run:
    """Make what computes a part by torch.compile; the code is made in the first call."""
    network = arrange_weights(fold_norms(part.network), dtype)
    compiled = torch.compile(network, dynamic=True, fullgraph=True)

    @torch.no_grad()
    def run(x: Tensor) -> tuple[Tensor, ...]:
        with torch._inductor.config.patch(freezing=True), torch._dynamo.config.patch(_LIMITS):
            return tuple(output.float() for output in compiled(x.to(dtype)))

    return run
