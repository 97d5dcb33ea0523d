"""Load batches of images for classification in worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.random import RandomState
from torch import Tensor
from torch.utils.data import Dataset

from resnext_det.data import sampling
from resnext_det.data.images.image_set import ImageSet
from resnext_det.data.images.modern_augmentation import Mixing
from resnext_det.data.sampling import Batch
from resnext_det.data.workers import Failure, Loader, Repeatable, check_loading, start_loader

Augmentation = Callable[[np.ndarray, RandomState], Tensor]
"""Turns an image, uint8 RGB (H, W, 3), into the network's input: float32 (3, size, size)."""

Views = Callable[[np.ndarray], "Tensor | list[Tensor]"]
"""Turns an image into its crops (n, 3, size, size), or into a list of scales, each (n, 3, h, w)."""

# Streams of random numbers within one seed: of the images by their place in the training, and of
# the batches.
_IMAGES, _BATCHES = 0, 1
_MOST_BROKEN = 100  # images in place of one, before the set itself must be at fault


class _Sample(NamedTuple):
    """Hold one image of a batch."""

    views: Tensor | list[Tensor] | None  # None where the image is broken and was left out
    label: int
    file_name: str
    # (name in the set, what is wrong) of every image that was skipped
    broken: tuple[tuple[str, str], ...]


def build_image_train_loader(
    images: ImageSet,
    *,
    augmentation: Augmentation,
    batch_size: int,
    seed: int,
    num_workers: int,
    rank: int = 0,
    world_size: int = 1,
    mixing: Mixing | None = None,
    skip_broken: bool = False,
    start_batch: int = 0,
    pin_memory: bool = False,
) -> Loader:
    """Load endless training batches, a function of (images, seed, world_size, rank, batch_size).

    Permutation after permutation of the set is divided among the processes, so that image k of the
    training is the same, augmented alike, however many processes there are. With start_batch=k the
    batches are those of an uninterrupted run from batch k on.

    Args:
        batch_size: images in a batch of this process.
        mixing: MixUp and CutMix within the batch of this process.
        skip_broken: replace a broken image by another one, drawn at random, and name it under
            ``broken``; otherwise it is an error.
        start_batch: the first batch to give; nothing is loaded for those before it.

    Returns:
        Batches of ``images`` float32 (N, 3, size, size), ``labels`` int64 (N,) or, mixed, float32
        (N, classes), ``file_names`` and ``broken``.

    Raises:
        ValueError: an argument is out of its range; while iterating, the image that is broken.
    """
    check_loading(batch_size, num_workers)
    if start_batch < 0:
        raise ValueError(f"start_batch is {start_batch}; give 0 or more batches")
    start = start_batch * batch_size

    def plan() -> Iterator[Batch]:
        indices = sampling.draw_training_indices(
            len(images), seed=seed, rank=rank, world_size=world_size, start=start
        )
        for batch in sampling.form_batches(indices, batch_size):
            yield [(index, (start + position) * world_size + rank) for index, position in batch]

    next(plan())  # so that a wrong rank is an error here and not in the first step
    dataset = _TrainingImages(images, augmentation, seed, skip_broken)
    collate = partial(_collate, key="images", mixing=mixing, seed=seed)
    return start_loader(
        dataset, Repeatable(plan), num_workers, collate=collate, pin_memory=pin_memory
    )


def build_image_test_loader(
    images: ImageSet,
    *,
    views: Views,
    batch_size: int,
    num_workers: int,
    rank: int = 0,
    world_size: int = 1,
    skip_broken: bool = False,
    pin_memory: bool = False,
) -> Loader:
    """Load every image of this process's share once, in order; all ranks together load each once.

    Args:
        skip_broken: leave a broken image out and name it under ``broken``; else it is an error.

    Returns:
        Batches of ``views`` (N, n, 3, size, size), or a list of lists where they are of several
        sizes; ``labels`` int64 (N,), ``file_names`` and ``broken``. N may be 0 where images are
        left out.

    Raises:
        ValueError: an argument is out of its range; while iterating, the image that is broken.
    """
    check_loading(batch_size, num_workers)
    shard = sampling.take_inference_shard(len(images), rank=rank, world_size=world_size)
    plan = [list(shard[start : start + batch_size]) for start in range(0, len(shard), batch_size)]
    dataset = _TestImages(images, views, skip_broken)
    return start_loader(
        dataset, plan, num_workers, collate=partial(_collate, key="views"), pin_memory=pin_memory
    )


class _TrainingImages(Dataset):
    def __init__(
        self, images: ImageSet, augmentation: Augmentation, seed: int, skip_broken: bool
    ) -> None:
        self._images, self._augmentation, self._seed = images, augmentation, seed
        self._attempts = _MOST_BROKEN if skip_broken else 1

    def __getitem__(self, item: tuple[int, int]) -> tuple[int, _Sample | Failure]:
        index, position = item
        random_state = sampling.make_random_state(self._seed, _IMAGES, position)
        broken: list[tuple[str, str]] = []
        for _ in range(self._attempts):
            try:
                view = self._augmentation(self._images.read(index), random_state)
            except (ValueError, OSError) as error:
                failure = Failure(error, self._images.locate(index))
            else:
                label, name = int(self._images.labels[index]), self._images.locate(index)
                return position, _Sample(view, label, name, tuple(broken))
            broken.append((self._images.name_image(index), str(failure.error)))
            index = random_state.randint(len(self._images))
        return position, failure


class _TestImages(Dataset):
    def __init__(self, images: ImageSet, views: Views, skip_broken: bool) -> None:
        self._images, self._views, self._skip_broken = images, views, skip_broken

    def __getitem__(self, index: int) -> tuple[int, _Sample | Failure]:
        label, name = int(self._images.labels[index]), self._images.locate(index)
        try:
            views = self._views(self._images.read(index))
        except (ValueError, OSError) as error:
            failure = Failure(error, name)
            broken = (self._images.name_image(index), str(failure.error))
            return index, _Sample(None, label, name, (broken,)) if self._skip_broken else failure
        return index, _Sample(views, label, name, ())


def _collate(
    items: list[tuple[int, _Sample | Failure]],
    key: str,
    mixing: Mixing | None = None,
    seed: int = 0,
) -> dict[str, Any] | Failure:
    """Put the samples of a batch together, or pass on the error of one of them."""
    for _, sample in items:
        if isinstance(sample, Failure):
            return sample
    samples = [sample for _, sample in items if isinstance(sample, _Sample)]
    whole = [sample for sample in samples if sample.views is not None]
    views: Any = [sample.views for sample in whole]
    if views and isinstance(views[0], Tensor):
        views = torch.stack(views)
    labels = torch.tensor([sample.label for sample in whole], dtype=torch.int64)
    if mixing is not None:
        random_state = sampling.make_random_state(seed, _BATCHES, items[0][0])
        views, labels = mixing(views, labels, random_state)
    return {
        key: views,
        "labels": labels,
        "file_names": [sample.file_name for sample in whole],
        "broken": [skipped for sample in samples for skipped in sample.broken],
    }
