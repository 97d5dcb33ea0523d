"""The order of samples against detectron2's samplers, over ranks and restarts."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from resnext_det.data.sampling import (
    compute_repeat_factors,
    draw_repeated_indices,
    draw_training_indices,
    find_wide,
    form_batches,
    make_random_state,
    take_inference_shard,
)


def records(number: int, seed: int = 0) -> list[dict[str, Any]]:
    random = np.random.RandomState(seed)
    return [
        {
            "width": int(random.choice([3, 4, 5])),
            "height": 4,
            "annotations": [
                {"category_id": int(c)} for c in random.geometric(0.3, random.randint(0, 4))
            ],
        }
        for _ in range(number)
    ]


@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make detectron2 believe that it is one of several processes."""
    comm = pytest.importorskip("detectron2.utils.comm", reason="detectron2 is not installed")

    def pretend(rank: int, world_size: int) -> None:
        monkeypatch.setattr(comm, "get_rank", lambda: rank)
        monkeypatch.setattr(comm, "get_world_size", lambda: world_size)

    return pretend


RANKS = [(0, 1), (0, 3), (2, 3), (1, 8)]


@pytest.mark.detectron2
@pytest.mark.parametrize("rank, world_size", RANKS)
def test_training_order_equals_detectron2(as_rank: Any, rank: int, world_size: int) -> None:
    as_rank(rank, world_size)
    from detectron2.data.samplers import TrainingSampler

    for size, seed in ((1, 0), (7, 3), (100, -1)):
        ours = draw_training_indices(size, seed=seed, rank=rank, world_size=world_size)
        theirs = TrainingSampler(size, seed=seed)
        assert list(islice(ours, 150)) == list(islice(theirs, 150))


@pytest.mark.detectron2
@pytest.mark.parametrize("rank, world_size", RANKS)
@pytest.mark.parametrize("sqrt", [True, False])
def test_repeat_factor_order_equals_detectron2(
    as_rank: Any, rank: int, world_size: int, sqrt: bool
) -> None:
    as_rank(rank, world_size)
    from detectron2.data.samplers import RepeatFactorTrainingSampler

    dicts = records(60)
    factors = compute_repeat_factors(dicts, threshold=0.4, sqrt=sqrt)
    expected = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        dicts, 0.4, sqrt=sqrt
    )
    assert torch.equal(factors, expected) and factors.dtype == expected.dtype
    assert factors.max() > 1
    ours = draw_repeated_indices(factors, seed=5, rank=rank, world_size=world_size)
    theirs = RepeatFactorTrainingSampler(expected, seed=5)
    assert list(islice(ours, 400)) == list(islice(theirs, 400))


@pytest.mark.detectron2
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_grouping_equals_detectron2(batch_size: int) -> None:
    common = pytest.importorskip("detectron2.data.common", reason="detectron2 is not installed")
    dicts = [record | {"index": index} for index, record in enumerate(records(41))]
    stream = list(islice(draw_training_indices(41, seed=2), 500))
    theirs = common.AspectRatioGroupedDataset([dicts[index] for index in stream], batch_size)
    ours = list(form_batches(stream, batch_size, wide=find_wide(dicts)))
    assert [[index for index, _ in batch] for batch in ours] == [
        [d["index"] for d in batch] for batch in theirs
    ]
    assert all(stream[position] == index for batch in ours for index, position in batch)


@pytest.mark.detectron2
@pytest.mark.parametrize("size, world_size", [(1, 1), (10, 3), (9, 3), (2, 5)])
def test_inference_shards_equal_detectron2(as_rank: Any, size: int, world_size: int) -> None:
    as_rank(0, world_size)
    from detectron2.data.samplers import InferenceSampler

    together = []
    for rank in range(world_size):
        as_rank(rank, world_size)
        shard = take_inference_shard(size, rank=rank, world_size=world_size)
        assert list(shard) == list(InferenceSampler(size))
        together += list(shard)
    assert together == list(range(size))


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("start", [1, 17, 60])
def test_batches_resume_anywhere(grouped: bool, start: int) -> None:
    dicts = records(23)
    wide = find_wide(dicts) if grouped else None

    def run(start_batch: int, number: int) -> list[Any]:
        indices = draw_training_indices(23, seed=9, rank=1, world_size=2)
        return list(islice(form_batches(indices, 4, wide=wide, start_batch=start_batch), number))

    assert run(start, 20) == run(0, start + 20)[start:]


@pytest.mark.parametrize("world_size", [1, 3])
def test_the_order_starts_anywhere(world_size: int) -> None:
    for rank in range(world_size):
        where = {"seed": 4, "rank": rank, "world_size": world_size}
        whole = list(islice(draw_training_indices(5, **where), 40))
        for start in range(30):
            assert (
                list(islice(draw_training_indices(5, **where, start=start), 8))
                == whole[start : start + 8]
            )


def test_plain_batches_take_the_stream_as_it_comes() -> None:
    assert list(form_batches([5, 3, 1, 0], 2)) == [[(5, 0), (3, 1)], [(1, 2), (0, 3)]]


def test_ranks_share_each_permutation() -> None:
    streams = [
        list(islice(draw_training_indices(12, seed=1, rank=r, world_size=3), 8)) for r in range(3)
    ]
    assert Counter(index for stream in streams for index in stream) == dict.fromkeys(range(12), 2)


def test_sample_random_state_depends_on_each_number() -> None:
    triples = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (-1, 0, 0), (2**40, 0, 0)]
    draws = [make_random_state(*triple).uniform() for triple in triples]
    assert len(set(draws)) == len(triples)
    assert draws == [make_random_state(*triple).uniform() for triple in triples]


def test_augmentation_of_neighboring_positions_is_uniform() -> None:
    draws = np.array([make_random_state(7, 0, position).uniform() for position in range(4000)])
    counts = np.histogram(draws, bins=10, range=(0, 1))[0]
    assert ((counts - 400) ** 2 / 400).sum() < 27.9  # chi square of 9 degrees of freedom, p = 0.001
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.05


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: draw_training_indices(0, seed=0), "a dataset of 0 images cannot be sampled"),
        (
            lambda: draw_training_indices(5, seed=0, rank=2, world_size=2),
            "rank 2 of 2 processes .* from 0 to 1",
        ),
        (lambda: take_inference_shard(5, rank=-1), "rank -1 of 1 processes"),
        (lambda: form_batches([0], 0), "batch_size is 0"),
        (lambda: form_batches([0], 1, start_batch=-3), "start_batch -3"),
    ],
)
def test_wrong_arguments_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
