"""Mixup and CutMix, computed again from the shares that the soft targets tell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from resnext_det.data.images.modern_augmentation import Mixing

LABELS = torch.tensor([3, 0, 4, 1])


def batch() -> Tensor:
    return torch.randn(4, 3, 12, 17, generator=torch.Generator().manual_seed(0))


def share_of(targets: Tensor) -> float:
    """Lambda, the share of the own label; the rest must be the label of the image before."""
    shares = targets[torch.arange(4), LABELS]
    rests = targets[torch.arange(4), LABELS.roll(1)]
    assert targets.dtype == torch.float32 and targets.shape == (4, 5)
    torch.testing.assert_close(shares + rests, torch.ones(4))
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(4))
    assert (shares == shares[0]).all()
    return float(shares[0])


def is_cutmix(mixed: Tensor, images: Tensor) -> bool:
    return bool(((mixed == images) | (mixed == images.roll(1, 0))).all())


def test_mixup_blends_each_image_with_the_one_before() -> None:
    images = batch()
    shares = []
    for seed in range(10):
        mixed, targets = Mixing(5, mixup=0.8)(images, LABELS, np.random.RandomState(seed))
        share = share_of(targets)
        for own in range(4):
            expected = share * images[own].double() + (1 - share) * images[own - 1].double()
            torch.testing.assert_close(mixed[own], expected.float(), rtol=0, atol=1e-6)
        shares.append(share)
    assert len(set(shares)) == 10
    assert torch.equal(images, batch())  # and so is the given batch


def test_shares_of_mixup_are_of_the_beta_distribution() -> None:
    mixing, state, images = Mixing(5, mixup=0.2), np.random.RandomState(0), torch.zeros(4, 3, 1, 1)
    shares = np.array([share_of(mixing(images, LABELS, state)[1]) for _ in range(600)])
    assert abs(shares.mean() - 0.5) < 4 * shares.std() / 600**0.5
    assert abs(shares.var() - 1 / (4 * (2 * 0.2 + 1))) < 0.02


def test_cutmix_puts_a_box_of_the_image_before_into_each() -> None:
    images = batch()
    seen = 0
    for seed in range(10):
        mixed, targets = Mixing(5, cutmix=1.0)(images, LABELS, np.random.RandomState(seed))
        share = share_of(targets)
        foreign = (mixed == images.roll(1, 0)).all(dim=1)
        assert (foreign == foreign[0]).all()
        box = foreign[0]
        assert torch.equal(box, box.any(dim=1)[:, None] & box.any(dim=0)[None])
        assert torch.equal(mixed[:, :, ~box], images[:, :, ~box])
        assert share == pytest.approx(1 - float(box.double().mean()), abs=1e-6)
        seen += int(box.any())
    assert seen >= 5


def test_both_take_turns_by_chance() -> None:
    images, state, mixing = batch(), np.random.RandomState(1), Mixing(5, mixup=0.8, cutmix=1.0)
    cut = sum(is_cutmix(mixing(images, LABELS, state)[0], images) for _ in range(200))
    assert 65 < cut < 135


def test_neither_gives_one_hot_targets() -> None:
    images = batch()
    same, targets = Mixing(5)(images, LABELS, np.random.RandomState(0))
    assert same is images
    assert torch.equal(targets, torch.eye(5)[LABELS])


def test_a_result_depends_on_the_given_state_alone() -> None:
    images, mixing = batch(), Mixing(5, mixup=0.8, cutmix=1.0)

    def run(seed: int) -> list[tuple[Tensor, Tensor]]:
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        state = np.random.RandomState(5)
        results = [mixing(images, LABELS, state) for _ in range(8)]
        assert torch.equal(torch.get_rng_state(), before)
        return results

    for (images_0, targets_0), (images_1, targets_1) in zip(run(0), run(1)):
        assert torch.equal(images_0, images_1) and torch.equal(targets_0, targets_1)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Mixing(0), "num_classes is 0"),
        (lambda: Mixing(5, mixup=-0.1), "mixup is -0.1, cutmix 0.0; give alphas above 0"),
        (
            lambda: Mixing(3, mixup=0.2)(batch(), LABELS, np.random.RandomState(0)),
            "from 0 to 4, .* 0 to 2",
        ),
        (
            lambda: Mixing(5)(batch(), LABELS - 1, np.random.RandomState(0)),
            "labels are from -1 to 3",
        ),
        (lambda: Mixing(5)(batch(), LABELS[:3], np.random.RandomState(0)), r"\(3,\) for 4 images"),
        (
            lambda: Mixing(5)(batch(), LABELS.float(), np.random.RandomState(0)),
            "labels are torch.float32",
        ),
        (lambda: Mixing(5)(batch()[0], LABELS, np.random.RandomState(0)), "give a float batch"),
        (
            lambda: Mixing(5)(batch().byte(), LABELS, np.random.RandomState(0)),
            "images are torch.uint8",
        ),
    ],
)
def test_wrong_arguments_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
