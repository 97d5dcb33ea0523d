"""Loaders: the same samples whatever the workers and restarts, and errors that arrive readable."""

from __future__ import annotations

import copy
import multiprocessing
import os
import signal
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import get_worker_info

from resnext_det.data.color_jitter import ColorJitter
from resnext_det.data.crops import RandomCrop
from resnext_det.data.loaders import build_test_loader, build_train_loader
from resnext_det.data.records import pack_records
from resnext_det.data.sampling import (
    draw_training_indices,
    find_wide,
    form_batches,
    make_random_state,
)
from resnext_det.data.transforms import DetectionMapper

Record = dict[str, Any]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    folder = tmp_path_factory.mktemp("images")
    random = np.random.RandomState(0)
    made = []
    for index in range(11):
        height, width = random.randint(20, 40, 2).tolist()
        path = folder / f"{index}.png"
        Image.fromarray(random.randint(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        boxes = [[0.0, 1.0, 10.5, 12.0], [2, 3, 9, 9]]
        annotations = [
            {"bbox": box, "bbox_mode": 1, "category_id": index % 3, "iscrowd": 0} for box in boxes
        ]
        made.append(
            {
                "file_name": str(path),
                "height": height,
                "width": width,
                "image_id": index,
                "annotations": annotations,
            }
        )
    return made


def train_mapper() -> DetectionMapper:
    return DetectionMapper(
        True,
        min_sizes=(16, 24, 32),
        max_size=48,
        color_jitter=ColorJitter(0.4, 0.4, 0.4, 0.1),
        crop=RandomCrop("relative_range", (0.5, 0.5)),
    )


def flat(sample: dict[str, Any]) -> tuple[Any, ...]:
    instances = sample["instances"]
    boxes = instances.gt_boxes.tensor.tolist()
    return (
        sample["image_id"],
        sample["image"].numpy().tobytes(),
        boxes,
        instances.gt_classes.tolist(),
    )


def first(records: list[Record], number: int, **options: Any) -> list[list[Any]]:
    settings: dict[str, Any] = {
        "mapper": train_mapper(),
        "batch_size": 2,
        "seed": 3,
        "num_workers": 0,
    } | options
    loader = build_train_loader(records, **settings)
    return [[flat(sample) for sample in batch] for batch in islice(loader, number)]


def test_samples_are_those_of_the_plan(records: list[Record]) -> None:
    found = first(records, 8, rank=1, world_size=2)
    stream = draw_training_indices(len(records), seed=3, rank=1, world_size=2)
    plan = list(islice(form_batches(stream, 2, wide=find_wide(records)), 8))
    mapper = train_mapper()
    assert found == [
        [
            flat(mapper(records[index], make_random_state(3, 0, position * 2 + 1)))
            for index, position in batch
        ]
        for batch in plan
    ]


def test_however_many_processes_there_are(records: list[Record]) -> None:
    """They share the same batches, augmented alike, where images are not grouped."""
    options = {"aspect_ratio_grouping": False}
    whole = first(records, 3, batch_size=4, **options)
    for size in (2, 4):
        shares = [
            first(records, 3, batch_size=4 // size, rank=rank, world_size=size, **options)
            for rank in range(size)
        ]
        for batch, parts in zip(whole, zip(*shares)):
            assert batch == [part[i] for i in range(4 // size) for part in parts]


def test_workers_and_restarts_change_nothing(records: list[Record]) -> None:
    before = copy.deepcopy(records)
    whole = first(records, 12)
    assert first(records, 12, num_workers=2) == whole
    assert first(records, 7, num_workers=2, start_batch=5) == whole[5:]
    assert first(records, 7, start_batch=5) == whole[5:]
    assert first(records, 12, seed=4) != whole
    assert records == before


def test_a_loader_can_be_iterated_again(records: list[Record]) -> None:
    loader = build_train_loader(records, mapper=train_mapper(), batch_size=2, seed=3, num_workers=1)
    runs = [[flat(s) for batch in islice(loader, 3) for s in batch] for _ in range(2)]
    assert runs[0] == runs[1]


def test_repeat_factor_sampler_prefers_the_rare(records: list[Record]) -> None:
    rare = copy.deepcopy(records)
    rare[4]["annotations"][0]["category_id"] = 9
    options = {
        "sampler": "RepeatFactorTrainingSampler",
        "repeat_threshold": 0.9,
        "aspect_ratio_grouping": False,
    }
    seen = [sample[0] for batch in first(rare, 60, **options) for sample in batch]
    assert seen.count(4) > 1.4 * len(seen) / len(rare)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_test_loader_gives_each_image_once(records: list[Record], num_workers: int) -> None:
    mapper = DetectionMapper(False, min_sizes=24, max_size=48)
    found = []
    for rank in range(3):
        loader = build_test_loader(
            records, mapper=mapper, num_workers=num_workers, rank=rank, world_size=3
        )
        assert len(list(loader)) == len(loader) in (3, 4)
        for sample in (sample for batch in loader for sample in batch):
            assert torch.equal(sample["image"], mapper(records[sample["image_id"]])["image"])
            found.append(sample["image_id"])
    assert found == list(range(len(records)))


def test_images_of_one_size_share_a_batch() -> None:
    sizes = [(9, 8), (8, 9), (9, 8), (9, 8), (8, 9), (9, 8), (9, 8)]
    records = [{"height": h, "width": w, "image_id": k} for k, (h, w) in enumerate(sizes)]
    batches = [
        [sample["image_id"] for sample in batch]
        for batch in build_test_loader(
            records, mapper=lambda record, _: record, num_workers=0, batch_size=3
        )
    ]
    assert batches == [[0, 2, 3], [1, 4], [5, 6]]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_errors_arrive_as_themselves(
    records: list[Record], tmp_path: Path, num_workers: int
) -> None:
    mapper = DetectionMapper(False, min_sizes=24, max_size=48)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    wrong = {
        str(tmp_path / "broken.jpg"): (
            ValueError,
            r"^image .*broken\.jpg cannot be read: .*; replace the file",
        ),
        str(tmp_path / "none.jpg"): (FileNotFoundError, r"^image .*none\.jpg does not exist; "),
    }
    for file_name, (kind, message) in wrong.items():
        loader = build_test_loader(
            [records[0], records[1] | {"file_name": file_name}],
            mapper=mapper,
            num_workers=num_workers,
        )
        before = set(multiprocessing.active_children())
        with pytest.raises(kind, match=message) as error:
            list(loader)
        assert "Traceback" not in str(error.value)
        assert set(multiprocessing.active_children()) <= before  # the workers have ended


def failing_mapper(record: Record, random_state: np.random.RandomState | None) -> Record:
    raise {0: ValueError("too small"), 1: TypeError("a bug")}[record["image_id"]]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_file_is_added_and_bugs_keep_their_traceback(
    records: list[Record], num_workers: int
) -> None:
    with pytest.raises(ValueError, match=r"^image .*0\.png: too small$"):
        list(build_test_loader(records[:1], mapper=failing_mapper, num_workers=num_workers))
    with pytest.raises(TypeError, match="a bug"):
        list(build_test_loader(records[1:2], mapper=failing_mapper, num_workers=num_workers))


def process_mapper(record: Record, random_state: np.random.RandomState | None) -> Record:
    assert get_worker_info() is not None
    os.kill(os.getpid(), signal.SIGINT)
    return {"threads": torch.get_num_threads(), "interrupt": signal.getsignal(signal.SIGINT)}


def test_workers_use_one_thread_and_survive_ctrl_c(records: list[Record]) -> None:
    for (sample,) in build_test_loader(records[:3], mapper=process_mapper, num_workers=1):
        assert sample == {"threads": 1, "interrupt": signal.SIG_IGN}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"records": []}, "holds no images with usable annotations; .*FILTER_EMPTY_ANNOTATIONS"),
        ({"batch_size": 0}, "batch_size is 0; give at least 1"),
        ({"num_workers": -1}, "num_workers is -1"),
        (
            {"sampler": "Mine"},
            "SAMPLER_TRAIN is 'Mine'; it is one of TrainingSampler, RepeatFactorTrainingSampler",
        ),
        ({"rank": 1}, "rank 1 of 1 processes"),
        ({"start_batch": -1}, "start_batch -1"),
    ],
)
def test_wrong_arguments_are_refused(
    records: list[Record], options: dict[str, Any], message: str
) -> None:
    settings: dict[str, Any] = {
        "records": records,
        "mapper": train_mapper(),
        "batch_size": 2,
        "seed": 3,
        "num_workers": 0,
    } | options
    with pytest.raises(ValueError, match=message):
        build_train_loader(settings.pop("records"), **settings)


def test_a_training_loader_has_no_length(records: list[Record]) -> None:
    with pytest.raises(TypeError):
        len(build_train_loader(records, mapper=train_mapper(), batch_size=2, seed=3, num_workers=0))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loading_draws_nothing_from_the_global_generators(
    records: list[Record], num_workers: int
) -> None:
    before = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].tolist()
    assert len(first(records, 2, num_workers=num_workers)) == 2
    list(
        build_test_loader(
            records,
            mapper=DetectionMapper(False, min_sizes=24, max_size=48),
            num_workers=num_workers,
        )
    )
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state(legacy=False)["state"]["key"].tolist() == before[1]


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_masks_come_from_another_process_as_from_this_one(
    records: list[Record], mask_format: str
) -> None:
    with_masks = copy.deepcopy(records)
    for number, entry in enumerate(a for record in with_masks for a in record["annotations"]):
        entry["segmentation"] = [[1.5, 2, 9 + number % 9, 3, 4.25, 12.5]]
    mapper = DetectionMapper(True, min_sizes=24, max_size=48, mask_format=mask_format)
    options: dict[str, Any] = {"mapper": mapper, "batch_size": 2, "seed": 3}
    found = []
    for workers in (0, 1):
        loader = build_train_loader(pack_records(with_masks), num_workers=workers, **options)
        samples = [sample for batch in islice(loader, 3) for sample in batch]
        masks = [sample["instances"].gt_masks for sample in samples]
        if mask_format == "polygon":
            found.append([[part[0].tolist() for part in each.polygons] for each in masks])
        else:
            found.append([each.tensor.tolist() for each in masks])
    assert found[0] == found[1]
    assert np.sum([len(each) for each in found[0]]) == 12
