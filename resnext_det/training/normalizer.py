"""Keep the average by which RetinaNet divides its losses with checkpoints, or exchange it.

Each process has its own, an attribute of the model. detectron2's own checkpoints do not hold it:
there a resumed training begins it anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from resnext_det.training import distributed

KEY = "loss_normalizer"
"""The attribute of a model of either engine, and the entry of a checkpoint, a list."""


def collect_normalizers(model: nn.Module) -> dict[str, list[float]]:
    """Collect the averages of all processes as the entry of a checkpoint; every process calls it.

    Returns:
        nothing of a model that has none.
    """
    values = distributed.gather_objects(getattr(model, KEY, None))
    return {KEY: values} if None not in values else {}


def restore_normalizer(model: nn.Module, entry: Any) -> None:
    """Give a model the average of this process; the mean of all, where there were others.

    Args:
        entry: of a checkpoint; without one the model begins its average anew.

    Raises:
        ValueError: it holds something else than numbers above 0.
    """
    if entry is None:
        return
    values = entry if isinstance(entry, list) and entry else [None]
    if not all(isinstance(value, float) and 0 < value < float("inf") for value in values):
        raise ValueError(
            f"the checkpoint's {KEY} is not one number above 0 for each process; take another "
            "checkpoint of that run"
        )
    same = len(values) == distributed.get_world_size()
    value = values[distributed.get_rank()] if same else sum(values) / len(values)
    setattr(model, KEY, value)


@contextmanager
def exchange_average(model: Any, compute: Callable[[float], float]) -> Iterator[None]:
    """Let a model divide its losses by another number, and leave its average where it is.

    Args:
        model: of either engine, bare: one with ``_ema_update``, as RetinaNet and FCOS have it;
            any other stays as it is.
        compute: takes how many anchors on objects a batch has, and gives the number.
    """
    if not hasattr(model, "_ema_update"):
        yield
        return
    model._ema_update = lambda name, value, *others, **options: compute(value)
    try:
        yield
    finally:
        del model._ema_update
