"""Measure the training's losses on test sets, so that they can be compared with its own.

Nothing of the training changes: neither weights, nor the statistics of batch norms, nor, where the
caller brings them back, random numbers.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from tqdm import tqdm

from resnext_det.config.detection import get_own
from resnext_det.data.coco import CocoDataset, filter_empty
from resnext_det.data.loaders import build_test_loader
from resnext_det.data.records import Record
from resnext_det.detection.datasets import test_mapper
from resnext_det.files import escape_controls
from resnext_det.training import distributed
from resnext_det.training.interruption import leave_if_asked
from resnext_det.training.normalizer import exchange_average

PREFIX = "validation"
"""Comes before the names of these losses in metrics.json and TensorBoard."""

Sets = Mapping[str, Callable[[], Iterable[Sequence[dict[str, Any]]]]]
"""By name of a test set: loads this process's share of its samples, with their ground truth."""


def prepare_sets(
    cfg: CfgNode,
    test_sets: Sequence[CocoDataset],
    convert: Callable[[dict[str, Any]], dict[str, Any]] = lambda sample: sample,
) -> Sets:
    """Prepare the loading of test sets: images of the test's size, with their objects.

    As in training, images without objects are left out where
    ``DATALOADER.FILTER_EMPTY_ANNOTATIONS`` says so.

    Args:
        convert: is applied to every sample.

    Returns:
        nothing where ``TEST.LOSS_PERIOD`` asks for nothing.

    Raises:
        ValueError: none of the images of a set is left.
    """
    if not get_own(cfg, "TEST.LOSS_PERIOD"):
        return {}
    mapper = _Mapper(cfg)

    def load(records: Sequence[Record]) -> Iterator[list[dict[str, Any]]]:
        loader = build_test_loader(
            records,
            mapper=mapper,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            rank=distributed.get_rank(),
            world_size=distributed.get_world_size(),
        )
        for batch in loader:
            yield [convert(sample) for sample in batch]

    sets: dict[str, Callable[[], Iterable[list[dict[str, Any]]]]] = {}
    for dataset in test_sets:
        filtered = cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        records = filter_empty(dataset.records) if filtered else dataset.records
        if not records:
            raise explain_no_objects(dataset.name)
        sets[dataset.name] = partial(load, records)
    return sets


def explain_no_objects(name: str) -> ValueError:
    """Explain that the losses of a test set are asked for, and none of its images has an object."""
    return ValueError(
        f"TEST.LOSS_PERIOD measures losses on {escape_controls(name)}, none of whose images has an "
        "object; write TEST.LOSS_PERIOD 0, or another set in DATASETS.TEST"
    )


class _Mapper:
    """Map a record to a sample of the test's size that keeps its objects; nothing is drawn."""

    def __init__(self, cfg: CfgNode) -> None:
        self._mapper = test_mapper(cfg, with_objects=True)

    def __call__(self, record: Record, random_state: Any = None) -> dict[str, Any]:
        return self._mapper(record, np.random.RandomState(0))  # draws one of one size


def measure_losses(
    model: nn.Module,
    sets: Sets,
    *,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> dict[str, float]:
    """Measure the losses of a model on test sets, each a mean over the images.

    What a model draws, as the anchors and regions that its losses are of, follows from the image
    alone: the same in every measurement, and with any number of processes. Torch's generators are
    left elsewhere. Norms and dropouts compute as in a test.

    Args:
        model: bare, of either engine.
        around: a context for each call of the model.

    Returns:
        "validation/total_loss" and the losses that it is the sum of, "NAME/validation/..." where
        there are several sets; in other processes than the first an empty dict.
    """
    distributed.share_buffers(model)
    numbers: dict[str, float] = {}
    for name, load in sets.items():
        rows: list[dict[str, float]] = []
        hidden = None if distributed.is_main_process() else True
        with distributed.fail_together(), torch.no_grad():
            bar = tqdm(load(), f"validation, {name}", unit="image", disable=hidden, leave=False)
            for batch in leave_if_asked(bar):
                torch.manual_seed(zlib.crc32(str(batch[0]["image_id"]).encode()))
                # RetinaNet and FCOS divide their losses by an average over the training's batches:
                # those of a single image would be as many times too small as a batch has images.
                alone = exchange_average(model, lambda count: count)
                with around(), _compute_losses(model), alone:
                    losses = model(batch)
                rows.append({key: float(value) for key, value in losses.items()})
        every = [row for share in distributed.gather_objects(rows) for row in share]
        prefix = PREFIX if len(sets) == 1 else f"{name}/{PREFIX}"
        numbers.update({f"{prefix}/{key}": value for key, value in _average(every).items()})
    return numbers


def _average(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    if not rows:
        return {}
    means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    return {"total_loss": sum(means.values()), **means}


@contextmanager
def _compute_losses(model: nn.Module) -> Iterator[None]:
    """Let a model compute losses, with norms and dropouts as in a test.

    The modes of its modules come back, and what else they note in training, such as the mean number
    of objects by which detectron2's RetinaNet divides its losses.
    """
    before = {module: dict(vars(module)) for module in model.modules()}
    model.train()
    for module in model.modules():
        if isinstance(module, (_BatchNorm, _DropoutNd)):
            module.eval()
    try:
        yield
    finally:
        for module, attributes in before.items():
            vars(module).clear()
            vars(module).update(attributes)
