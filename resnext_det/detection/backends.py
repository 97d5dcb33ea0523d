"""Make a detector fast for tests, by a backend and a type that the user names."""

from __future__ import annotations

import torch
from fvcore.common.config import CfgNode
from torch import nn

from resnext_det.data.transforms import ResizeShortestEdge
from resnext_det.runtimes.backends import read_dtype
from resnext_det.runtimes.optimize import optimize

_WIDE = (480, 640)  # the shape of most photographs


def optimize_detector(
    cfg: CfgNode, model: nn.Module, backend: str | None, dtype: str | None
) -> nn.Module:
    """Optimize a detector of either engine, on an image of the size that it is tested with.

    Args:
        backend: see ``optimize``; None: "auto" with a ``dtype``, and else the model as it is.
        dtype: "float32" or "bfloat16"; None is float32.

    Raises:
        ValueError: see ``optimize``; the model takes proposals from files.
    """
    if backend is None and dtype is None:
        return model
    if cfg.MODEL.LOAD_PROPOSALS:
        raise ValueError(
            f"backend {backend!r} is for whole detectors, and MODEL.LOAD_PROPOSALS = True takes "
            "proposals from files; leave the backend and the dtype out"
        )
    resize = ResizeShortestEdge((cfg.INPUT.MIN_SIZE_TEST,), cfg.INPUT.MAX_SIZE_TEST)
    size = resize.compute_size(*_WIDE, resize.min_sizes[0] or min(_WIDE))
    generator = torch.Generator().manual_seed(0)
    shape = (len(cfg.MODEL.PIXEL_MEAN), *size)
    image = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    chosen = None if dtype is None else read_dtype(dtype)
    training = model.training
    fast = optimize(model.eval(), backend or "auto", chosen, example=[{"image": image}])
    model.train(training)
    return fast
