"""Load batches of transformed records for detection in worker processes."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from resnext_det.data import sampling
from resnext_det.data.records import Record, Records
from resnext_det.data.sampling import Batch
from resnext_det.data.workers import Failure, Loader, Repeatable, check_loading, start_loader

_IMAGES = 0  # the stream of random numbers that augments images
SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler")
Mapper = Callable[[Record, "np.random.RandomState | None"], dict[str, Any]]


def build_train_loader(
    records: Sequence[Record],
    *,
    mapper: Mapper,
    batch_size: int,
    seed: int,
    num_workers: int,
    rank: int = 0,
    world_size: int = 1,
    aspect_ratio_grouping: bool = True,
    sampler: str = "TrainingSampler",
    repeat_threshold: float = 0.0,
    repeat_sqrt: bool = True,
    start_batch: int = 0,
) -> Loader:
    """Load endless training batches, a function of (records, seed, rank, world_size, batch_size).

    They do not depend on num_workers, and with start_batch=k they are those of an uninterrupted run
    from batch k on. Image k of the training is the same, augmented alike, however many processes
    there are; it is in the same batch of all of them together where no image is grouped by its
    orientation.

    Args:
        records: detectron2's standard dicts.
        mapper: takes a record and the sample's own RandomState.
        batch_size: images in a batch of this process.
        seed: of the order and of the augmentation; the same in every process.
        num_workers: loading processes; 0 loads in this one.
        rank: this process, of ``world_size``.
        aspect_ratio_grouping: a batch holds images of one orientation.
        sampler: "TrainingSampler" or "RepeatFactorTrainingSampler", with detectron2's
            REPEAT_THRESHOLD and REPEAT_SQRT.
        start_batch: the first batch to give; nothing is loaded for those before it.

    Raises:
        ValueError: no records, or an argument out of its range; while iterating, what the mapper
            raises.
    """
    _check(records, batch_size, num_workers)
    if sampler not in SAMPLERS:
        raise ValueError(f"SAMPLER_TRAIN is {sampler!r}; it is one of {', '.join(SAMPLERS)}")
    factors = None
    if sampler == "RepeatFactorTrainingSampler":
        factors = sampling.compute_repeat_factors(
            records, threshold=repeat_threshold, sqrt=repeat_sqrt
        )
    wide = sampling.find_wide(records) if aspect_ratio_grouping else None
    process: dict[str, Any] = {"seed": seed, "rank": rank, "world_size": world_size}

    def plan() -> Iterator[Batch]:
        if factors is None:
            indices = sampling.draw_training_indices(len(records), **process)
        else:
            indices = sampling.draw_repeated_indices(factors, **process)
        batches = sampling.form_batches(indices, batch_size, wide=wide, start_batch=start_batch)
        return (
            [(index, position * world_size + rank) for index, position in batch]
            for batch in batches
        )

    plan()  # so that a wrong rank or start_batch is an error here and not in the first step
    dataset = _Samples(records, num_workers, mapper, seed)
    return start_loader(dataset, Repeatable(plan), num_workers, collate=list)


def build_test_loader(
    records: Sequence[Record],
    *,
    mapper: Mapper,
    num_workers: int,
    batch_size: int = 1,
    rank: int = 0,
    world_size: int = 1,
) -> Loader:
    """Load every image of this process's share once; all ranks together load each once.

    They come in order where ``batch_size`` is 1; else images of one size share a batch.

    Raises:
        ValueError: no records, or an argument out of its range; while iterating, what the mapper
            raises.
    """
    _check(records, batch_size, num_workers)
    shard = sampling.take_inference_shard(len(records), rank=rank, world_size=world_size)
    plan: Iterable[list[int]] = ([index] for index in shard)
    if batch_size > 1:
        plan = sampling.group_by_size(records, shard, batch_size)
    dataset = _Samples(records, num_workers, mapper)
    return start_loader(dataset, list(plan), num_workers, collate=list)


def _check(records: Sequence[Record], batch_size: int, num_workers: int) -> None:
    if not records:
        raise ValueError(
            "the dataset holds no images with usable annotations; check that the annotations hold "
            "boxes that are no crowd, or set DATALOADER.FILTER_EMPTY_ANNOTATIONS to False"
        )
    check_loading(batch_size, num_workers)


class _PackedRecords:
    """Hold records as one tensor of bytes, which workers share; they would copy a list of dicts."""

    def __init__(self, records: Sequence[Record]) -> None:
        packed = [pickle.dumps(record, protocol=pickle.HIGHEST_PROTOCOL) for record in records]
        self._ends = torch.from_numpy(np.cumsum([len(part) for part in packed]))
        self._bytes = torch.frombuffer(bytearray(b"".join(packed)), dtype=torch.uint8)

    def __getitem__(self, index: int) -> Record:
        begin = int(self._ends[index - 1]) if index else 0
        return pickle.loads(self._bytes[begin : int(self._ends[index])].numpy().tobytes())


class _Samples(Dataset):
    """Map records: by (index, position) with a random state in training, else by index alone."""

    def __init__(
        self,
        records: Sequence[Record],
        num_workers: int,
        mapper: Mapper,
        seed: int = 0,
    ) -> None:
        alone = num_workers == 0 or isinstance(records, Records)  # which workers share as it is
        self._records = records if alone else _PackedRecords(records)
        self._mapper, self._seed = mapper, seed

    def __getitem__(self, item: tuple[int, int] | int) -> Any:
        random_state = None
        if isinstance(item, tuple):
            item, position = item
            random_state = sampling.make_random_state(self._seed, _IMAGES, position)
        record = self._records[item]
        try:
            return self._mapper(record, random_state)
        except (ValueError, OSError) as error:  # from a user's files; our bugs keep their traceback
            return Failure(error, str(record.get("file_name")))
