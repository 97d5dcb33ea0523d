"""Iterables of mapped batches, loaded by worker processes."""

from __future__ import annotations

import pickle
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from resnext_det.data.sampling import (
    Batch,
    batches,
    inference_shard,
    is_wide,
    repeat_factors,
    repeated_training_indices,
    sample_random_state,
    training_indices,
)

SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler")
Record = dict[str, Any]
Mapper = Callable[[Record, "np.random.RandomState | None"], dict[str, Any]]


class Loader:
    """Batches, each a list of mapped samples; an error in a worker arrives as itself and names the file."""

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        failure = None
        for batch in self._loader:
            failure = next((sample for sample in batch if isinstance(sample, _Failure)), None)
            if failure is not None:
                break  # ends the workers before the error is raised
            yield batch
        if failure is not None:
            raise failure.error

    def __len__(self) -> int:
        """Number of batches; a training loader is endless and raises TypeError."""
        return len(self._loader)


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
    """Endless training batches, a pure function of (records, seed, rank, world_size, batch_size).

    They do not depend on num_workers, and with start_batch=k they are those of an uninterrupted run from
    batch k on.

    Args:
        records: detectron2's standard dicts.
        mapper: takes a record and the sample's own RandomState.
        batch_size: images in a batch of this process.
        seed: of the order and of the augmentation; the same in every process.
        num_workers: loading processes; 0 loads in this one.
        rank: this process, of ``world_size``.
        aspect_ratio_grouping: a batch holds images of one orientation.
        sampler: "TrainingSampler" or "RepeatFactorTrainingSampler", with detectron2's REPEAT_THRESHOLD and
            REPEAT_SQRT.
        start_batch: the first batch to give; nothing is loaded for those before it.

    Raises:
        ValueError: no records, or an argument out of its range; while iterating, what the mapper raises.
    """
    _check(records, batch_size, num_workers)
    if sampler not in SAMPLERS:
        raise ValueError(f"SAMPLER_TRAIN is {sampler!r}; it is one of {', '.join(SAMPLERS)}")
    factors = None
    if sampler == "RepeatFactorTrainingSampler":
        factors = repeat_factors(records, threshold=repeat_threshold, sqrt=repeat_sqrt)
    wide = is_wide(records) if aspect_ratio_grouping else None

    def plan() -> Iterator[Batch]:
        if factors is None:
            indices = training_indices(len(records), seed=seed, rank=rank, world_size=world_size)
        else:
            indices = repeated_training_indices(factors, seed=seed, rank=rank, world_size=world_size)
        return batches(indices, batch_size, wide=wide, start_batch=start_batch)

    plan()  # so that a wrong rank or start_batch is an error here and not in the first step
    dataset = _TrainingSamples(_stored(records, num_workers), mapper, seed, rank)
    return _loader(dataset, _Repeatable(plan), num_workers)


def build_test_loader(
    records: Sequence[Record],
    *,
    mapper: Mapper,
    num_workers: int,
    batch_size: int = 1,
    rank: int = 0,
    world_size: int = 1,
) -> Loader:
    """Every image of this process's contiguous share once, in order; over all ranks each image once.

    Raises:
        ValueError: no records, or an argument out of its range; while iterating, what the mapper raises.
    """
    _check(records, batch_size, num_workers)
    shard = inference_shard(len(records), rank=rank, world_size=world_size)
    plan = [list(shard[start : start + batch_size]) for start in range(0, len(shard), batch_size)]
    return _loader(_TestSamples(_stored(records, num_workers), mapper), plan, num_workers)


def _loader(dataset: Dataset, plan: Iterable[list[Any]], num_workers: int) -> Loader:
    # Without a generator of its own DataLoader draws from torch's global one at each start, as a model does.
    options: dict[str, Any] = {"collate_fn": _as_list, "generator": torch.Generator()}
    if num_workers > 0:
        options |= {"prefetch_factor": 2, "worker_init_fn": _start_worker}
    return Loader(DataLoader(dataset, batch_sampler=plan, num_workers=num_workers, **options))


def _check(records: Sequence[Record], batch_size: int, num_workers: int) -> None:
    if not records:
        raise ValueError(
            "the dataset holds no images with usable annotations; check that the annotations hold boxes "
            "that are no crowd, or set DATALOADER.FILTER_EMPTY_ANNOTATIONS to False"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; give at least 1 image a process")
    if num_workers < 0:
        raise ValueError(f"num_workers is {num_workers}; give 0 or more loading processes")


class _Repeatable:
    """A batch sampler that begins anew each time it is iterated."""

    def __init__(self, plan: Callable[[], Iterator[Batch]]) -> None:
        self._plan = plan

    def __iter__(self) -> Iterator[Batch]:
        return self._plan()


class _PackedRecords:
    """Records as one tensor of bytes: workers share it, where each would copy a list of Python objects."""

    def __init__(self, records: Sequence[Record]) -> None:
        packed = [pickle.dumps(record, protocol=pickle.HIGHEST_PROTOCOL) for record in records]
        self._ends = torch.from_numpy(np.cumsum([len(part) for part in packed]))
        self._bytes = torch.frombuffer(bytearray(b"".join(packed)), dtype=torch.uint8)

    def __getitem__(self, index: int) -> Record:
        begin = int(self._ends[index - 1]) if index else 0
        return pickle.loads(self._bytes[begin : int(self._ends[index])].numpy().tobytes())


def _stored(records: Sequence[Record], num_workers: int) -> Sequence[Record] | _PackedRecords:
    return _PackedRecords(records) if num_workers > 0 else records


class _Failure:
    """An error on its way from a worker; DataLoader would bury its message in a traceback."""

    def __init__(self, error: Exception, record: Record) -> None:
        text, file_name = str(error), str(record.get("file_name"))
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        self.error = kind(text if file_name in text else f"image {file_name}: {text}")


def _mapped(mapper: Mapper, record: Record, random_state: np.random.RandomState | None) -> Any:
    try:
        return mapper(record, random_state)
    except (ValueError, OSError) as error:  # what a user's files cause; a bug of ours keeps its traceback
        return _Failure(error, record)


class _TrainingSamples(Dataset):
    def __init__(
        self, records: Sequence[Record] | _PackedRecords, mapper: Mapper, seed: int, rank: int
    ) -> None:
        self._records, self._mapper, self._seed, self._rank = records, mapper, seed, rank

    def __getitem__(self, item: tuple[int, int]) -> Any:
        index, position = item
        random_state = sample_random_state(self._seed, self._rank, position)
        return _mapped(self._mapper, self._records[index], random_state)


class _TestSamples(Dataset):
    def __init__(self, records: Sequence[Record] | _PackedRecords, mapper: Mapper) -> None:
        self._records, self._mapper = records, mapper

    def __getitem__(self, index: int) -> Any:
        return _mapped(self._mapper, self._records[index], None)


def _as_list(samples: list[Any]) -> list[Any]:
    return samples


def _start_worker(worker: int) -> None:
    """One thread a worker; Ctrl-C is left to the main process, which may finish its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(0)
