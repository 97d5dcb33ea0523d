"""Keep the average by which RetinaNet divides its losses with a training's checkpoints.

Each process has its own, an attribute of the model. detectron2's own checkpoints do not hold it:
there a resumed training begins it anew.
"""

from __future__ import annotations

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
