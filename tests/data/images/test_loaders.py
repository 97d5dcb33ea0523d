"""Batches of images are the same for any number of processes; broken images are named."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from resnext_det.data.images.augmentation import PaperAugmentation
from resnext_det.data.images.catalog import open_image_set
from resnext_det.data.images.cropping import CenterCrop, DenseScales
from resnext_det.data.images.image_set import ImageSet
from resnext_det.data.images.loaders import build_image_test_loader, build_image_train_loader
from resnext_det.data.images.modern_augmentation import Mixing
from resnext_det.data.sampling import draw_training_indices, make_random_state

NORMALIZATION: dict[str, Any] = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
AUGMENTATION = PaperAugmentation(16, **NORMALIZATION)
NUMBER = 10


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    root = tmp_path_factory.mktemp("images")
    random = np.random.RandomState(0)
    for i in range(NUMBER):
        folder = root / f"class{i % 3}"
        folder.mkdir(exist_ok=True)
        cv2.imwrite(
            str(folder / f"{i}.png"), random.randint(0, 256, (20 + i, 24, 3), dtype=np.uint8)
        )
    return open_image_set(str(root))


def training_batches(images: ImageSet, number: int, **options: Any) -> list[dict[str, Any]]:
    arguments = {
        "augmentation": AUGMENTATION,
        "batch_size": 4,
        "seed": 9,
        "num_workers": 0,
        **options,
    }
    return list(islice(build_image_train_loader(images, **arguments), number))


def joined(batches: list[dict[str, Any]]) -> list[tuple[str, int, torch.Tensor]]:
    return [
        sample
        for batch in batches
        for sample in zip(batch["file_names"], batch["labels"].tolist(), batch["images"])
    ]


def assert_equal(ours: list[Any], theirs: list[Any]) -> None:
    assert len(ours) == len(theirs) > 0
    for (name, label, image), (other_name, other_label, other_image) in zip(ours, theirs):
        assert (name, label) == (other_name, other_label)
        assert torch.equal(image, other_image)


def test_batches_are_a_plain_loop(images: ImageSet) -> None:
    """Permutation after permutation, image k augmented from (seed, k) alone."""
    expected = []
    for position, index in zip(range(24), draw_training_indices(NUMBER, seed=9)):
        view = AUGMENTATION(images.read(index), make_random_state(9, 0, position))
        expected.append((images.locate(index), int(images.labels[index]), view))
    assert_equal(joined(training_batches(images, 6)), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_and_restarts_change_nothing(images: ImageSet, workers: int) -> None:
    whole = training_batches(images, 6)
    state = torch.get_rng_state()
    assert_equal(
        joined(training_batches(images, 3, start_batch=3, num_workers=workers)), joined(whole[3:])
    )
    assert torch.equal(torch.get_rng_state(), state)


def test_processes_share_what_one_would_see(images: ImageSet) -> None:
    alone = training_batches(images, 5)
    for number, batch in enumerate(alone):
        parts = [
            training_batches(images, number + 1, batch_size=2, rank=rank, world_size=2)[-1]
            for rank in (0, 1)
        ]
        together = sorted(joined(parts), key=lambda sample: sample[0])
        assert_equal(together, sorted(joined([batch]), key=lambda sample: sample[0]))


def test_mixing_depends_on_the_batch_alone(images: ImageSet) -> None:
    mixing = Mixing(3, mixup=0.4, cutmix=1.0)
    plain, mixed = training_batches(images, 4), training_batches(images, 4, mixing=mixing)
    again = training_batches(images, 1, mixing=mixing, start_batch=3, num_workers=1)[0]
    assert torch.equal(again["images"], mixed[3]["images"]) and torch.equal(
        again["labels"], mixed[3]["labels"]
    )
    for batch, original in zip(mixed, plain):
        assert batch["labels"].shape == (4, 3) and torch.allclose(
            batch["labels"].sum(1), torch.ones(4)
        )
        assert not torch.equal(batch["images"], original["images"])
        assert batch["file_names"] == original["file_names"]


def test_testing_sees_every_image_once(images: ImageSet) -> None:
    crop = CenterCrop(16, 20, **NORMALIZATION)
    shares = [
        list(
            build_image_test_loader(
                images, views=crop, batch_size=3, num_workers=1, rank=rank, world_size=2
            )
        )
        for rank in (0, 1)
    ]
    batches = [batch for share in shares for batch in share]
    names = [name for batch in batches for name in batch["file_names"]]
    assert names == [images.locate(index) for index in range(NUMBER)]
    views = torch.cat([batch["views"] for batch in batches])
    assert views.shape == (NUMBER, 1, 3, 16, 16)
    assert torch.equal(views[7], crop(images.read(7)))


def test_views_of_several_sizes_stay_lists(images: ImageSet) -> None:
    loader = build_image_test_loader(
        images, views=DenseScales((16, 24), **NORMALIZATION), batch_size=4, num_workers=0
    )
    batch = next(iter(loader))
    assert [[tuple(scale.shape[:2]) for scale in image] for image in batch["views"]] == [
        [(2, 3), (2, 3)]
    ] * 4


@pytest.fixture
def with_broken(images: ImageSet, tmp_path: Path) -> ImageSet:
    for index in range(NUMBER):
        folder = tmp_path / images.class_names[images.labels[index]]
        folder.mkdir(exist_ok=True)
        data = Path(images.locate(index)).read_bytes()
        (folder / f"{index}.png").write_bytes(data[:200] if index in (2, 5) else data)
    return open_image_set(str(tmp_path))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_an_error_that_names_it(with_broken: ImageSet, workers: int) -> None:
    with pytest.raises(ValueError, match=r"class\d.[25]\.png"):
        training_batches(with_broken, 6, num_workers=workers)
    crop = CenterCrop(16, 20, **NORMALIZATION)
    with pytest.raises(ValueError, match=r"class\d.[25]\.png"):
        list(build_image_test_loader(with_broken, views=crop, batch_size=3, num_workers=workers))


def test_broken_images_are_replaced_on_request(with_broken: ImageSet) -> None:
    batches = training_batches(with_broken, 5, skip_broken=True)
    skipped = [name for batch in batches for name, _ in batch["broken"]]
    assert {Path(name).name for name in skipped} == {"2.png", "5.png"}
    assert all(name in reason for batch in batches for name, reason in batch["broken"])
    assert not set(skipped) & {name for batch in batches for name in batch["file_names"]}
    assert all(len(batch["images"]) == 4 for batch in batches)
    assert_equal(
        joined(training_batches(with_broken, 5, skip_broken=True, num_workers=2)), joined(batches)
    )


def test_broken_images_are_left_out_of_a_test_on_request(with_broken: ImageSet) -> None:
    crop = CenterCrop(16, 20, **NORMALIZATION)
    loader = build_image_test_loader(
        with_broken, views=crop, batch_size=1, num_workers=0, skip_broken=True
    )
    batches = list(loader)
    assert [len(batch["labels"]) for batch in batches].count(0) == 2
    assert sum(len(batch["labels"]) for batch in batches) == NUMBER - 2


def test_wrong_arguments(images: ImageSet) -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        training_batches(images, 1, batch_size=0)
    with pytest.raises(ValueError, match="rank 2 of 2 processes"):
        training_batches(images, 1, rank=2, world_size=2)
    with pytest.raises(ValueError, match="num_workers is -1"):
        training_batches(images, 1, num_workers=-1)
