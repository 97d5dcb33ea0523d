"""A model of either engine run over a dataset, by all processes together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from resnext_det.data.coco import CocoDataset
from resnext_det.data.loaders import build_test_loader
from resnext_det.training import distributed

Collect = Callable[[dict[str, Any], dict[str, Any]], list[Any]]
"""From a sample and the model's output for it to what is kept of them."""


def run_on(
    model: nn.Module,
    dataset: CocoDataset,
    collect: Collect,
    *,
    mapper: Callable[..., dict[str, Any]],
    num_workers: int,
) -> list[Any]:
    """Run a model on every image of a dataset, and gather what ``collect`` keeps of each.

    Every process takes its share of the images, with the first one's running statistics, which checkpoints hold: so this equals a run
    on a checkpoint. The model's mode is left as it was.

    Returns:
        what was kept, in the order of the images; in other processes than the first an empty list.
    """
    distributed.share_buffers(model)
    mine = _run_on_share(model, dataset, collect, mapper, num_workers)
    return [kept for share in distributed.gather_objects(mine) for kept in share]


def _run_on_share(
    model: nn.Module,
    dataset: CocoDataset,
    collect: Collect,
    mapper: Callable[..., dict[str, Any]],
    num_workers: int,
) -> list[Any]:
    loader = build_test_loader(
        dataset.records,
        mapper=mapper,
        num_workers=num_workers,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )
    was_training = model.training
    model.eval()
    kept: list[Any] = []
    # On a terminal a bar, in the main process alone; it goes when it is done, as a training may go on.
    hidden = None if distributed.is_main_process() else True
    with torch.inference_mode():
        for batch in tqdm(loader, f"detecting, {dataset.name}", unit="image", disable=hidden, leave=False):
            for sample, output in zip(batch, model(batch)):
                kept += collect(sample, output)
    model.train(was_training)
    return kept
