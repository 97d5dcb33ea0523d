"""Order training samples as a pure function of a seed, from any place on, without loading images.

A batch is a list of (index, position): the record's index, and its place in this rank's endless
stream. The stream and the batches equal detectron2's with its workers at 0 or 1 (with more,
detectron2's order depends on their number).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

Batch = list[tuple[int, int]]


def draw_training_indices(
    size: int, *, seed: int, rank: int = 0, world_size: int = 1, start: int = 0
) -> Iterator[int]:
    """Draw endless permutations of range(size), strided by rank, as detectron2's TrainingSampler.

    With start=k they begin with the k-th of this rank; the permutations before it are drawn, and
    not gone through.

    Raises ValueError where size is not positive or rank is not below world_size.
    """
    _check_rank(size, rank, world_size)
    whole, rest = divmod(rank + start * world_size, size)
    return islice(_permute(size, seed, whole), rest, None, world_size)


def draw_repeated_indices(
    factors: torch.Tensor, *, seed: int, rank: int = 0, world_size: int = 1
) -> Iterator[int]:
    """Draw indices, i repeated factors[i] times an epoch; the fraction is rounded up by chance.

    Equals detectron2's ``RepeatFactorTrainingSampler``; raises as ``draw_training_indices``.
    """
    _check_rank(len(factors), rank, world_size)
    return islice(_permute_repeated(factors, seed), rank, None, world_size)


def compute_repeat_factors(
    records: Sequence[dict[str, Any]], *, threshold: float, sqrt: bool = True
) -> torch.Tensor:
    """Compute how often each image is seen, from the frequency of its rarest category.

    The factor is max(1, sqrt(threshold / frequency)), or without ``sqrt`` the ratio itself; the
    frequency of a category is the share of images that have it (LVIS, appendix B.2).

    Returns:
        float32, (len(records),), equal to detectron2's ``repeat_factors_from_category_frequency``.
    """
    categories = [{a["category_id"] for a in record["annotations"]} for record in records]
    counts = Counter(category for present in categories for category in present)
    ratios = {category: threshold / (count / len(records)) for category, count in counts.items()}
    factors = {c: max(1.0, math.sqrt(ratio) if sqrt else ratio) for c, ratio in ratios.items()}
    rarest = [max((factors[c] for c in present), default=1.0) for present in categories]
    return torch.tensor(rarest, dtype=torch.float32)


def form_batches(
    indices: Iterable[int],
    batch_size: int,
    *,
    wide: Sequence[bool] | None = None,
    start_batch: int = 0,
) -> Iterator[Batch]:
    """Form batches of (index, position), from batch ``start_batch`` on.

    Args:
        indices: a rank's stream.
        batch_size: images in a batch.
        wide: whether record i is wider than high; a batch then holds images of one orientation, as
            detectron2's ``AspectRatioGroupedDataset`` forms them. None takes the stream as it
            comes.
        start_batch: batches to pass over; nothing is loaded for them.
    """
    if batch_size < 1 or start_batch < 0:
        raise ValueError(
            f"batch_size is {batch_size}, start_batch {start_batch}; give at least 1 and at least 0"
        )
    return islice(_group(indices, batch_size, wide), start_batch, None)


def find_wide(records: Sequence[dict[str, Any]]) -> list[bool]:
    """Tell of each record whether its image is wider than high."""
    return [record["width"] > record["height"] for record in records]


def take_inference_shard(size: int, *, rank: int = 0, world_size: int = 1) -> range:
    """Take the indices of one rank: contiguous, the first ranks one longer; as InferenceSampler."""
    _check_rank(size, rank, world_size)
    shard, left = divmod(size, world_size)
    begin = rank * shard + min(rank, left)
    return range(begin, begin + shard + (rank < left))


def group_by_size(
    records: Sequence[dict[str, Any]], indices: Iterable[int], batch_size: int
) -> Iterator[list[int]]:
    """Put images of one size into batches of ``batch_size`` or fewer, so that none is padded more.

    Every image is in one batch. Without another size among them the order stays.
    """
    waiting: dict[tuple[int, int], list[int]] = {}
    for index in indices:
        record = records[index]
        size = (record["height"], record["width"])
        batch = waiting.setdefault(size, [])
        batch.append(index)
        if len(batch) == batch_size:
            yield waiting.pop(size)
    yield from waiting.values()


def make_random_state(seed: int, rank: int, position: int) -> np.random.RandomState:
    """Make the generator of one training sample, from nothing but these three numbers.

    So augmentation depends neither on the number of workers nor on a restart. A negative seed is
    taken modulo 2**64.
    """
    sequence = np.random.SeedSequence(seed % 2**64, spawn_key=(rank, position))
    return np.random.RandomState(np.random.MT19937(sequence))


def _permute(size: int, seed: int, passed: int) -> Iterator[int]:
    """Draw one permutation after another, from number ``passed`` on."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(passed):
        torch.randperm(size, generator=generator)
    while True:
        yield from torch.randperm(size, generator=generator).tolist()


def _permute_repeated(factors: torch.Tensor, seed: int) -> Iterator[int]:
    generator = torch.Generator().manual_seed(seed)
    whole = torch.trunc(factors)
    fraction = factors - whole
    while True:
        repeats = whole + (torch.rand(len(fraction), generator=generator) < fraction)
        epoch = torch.arange(len(factors)).repeat_interleave(repeats.long())
        yield from epoch[torch.randperm(len(epoch), generator=generator)].tolist()


def _group(indices: Iterable[int], batch_size: int, wide: Sequence[bool] | None) -> Iterator[Batch]:
    waiting: dict[bool, Batch] = {True: [], False: []}
    for position, index in enumerate(indices):
        orientation = wide[index] if wide is not None else True
        waiting[orientation].append((index, position))
        if len(waiting[orientation]) == batch_size:
            yield waiting[orientation]
            waiting[orientation] = []


def _check_rank(size: int, rank: int, world_size: int) -> None:
    if size < 1:
        raise ValueError(f"a dataset of {size} images cannot be sampled; give at least one image")
    if not 0 <= rank < world_size:
        raise ValueError(
            f"rank {rank} of {world_size} processes does not exist; give a rank from 0 to "
            f"{world_size - 1}"
        )
