"""Compile a training step of the portable detector into one graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from resnext_det.detection.portable.faster_rcnn import FasterRCNN

TrainingStep = Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]]


def compile_step(model: FasterRCNN, backend: str = "inductor") -> TrainingStep:
    """Compile what a detector computes in training, from samples to losses, and their gradients.

    All is one graph, from the padding of images to the losses. The first call takes minutes; graphs
    are made again for another number of images, and where one has no object, or only one. Losses
    and gradients are the model's within rounding, with the same random draws. Where the RPN
    predicts what is not finite, the losses are NaN.

    Args:
        model: in training mode; its parameters get the gradients.
        backend: of ``torch.compile``; "eager" computes the graph with the model's own operators.

    Returns:
        takes the samples of ``model`` and gives its losses.

    Example:
        >>> step = compile_step(build_detector(cfg).train())
        >>> sum(step(samples).values()).backward()
    """
    # To save memory inductor would let one image draw its regions before another.
    options: Any = {"reorder_for_peak_memory": False} if backend == "inductor" else None
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=backend, options=options)

    def step(samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        # Another graph would be made for every name of a file.
        needed = ("image", "instances", "proposals")
        return compiled([{key: one[key] for key in needed if key in one} for one in samples])

    return step
