"""Today's augmentation against torchvision's transforms, composed as its references compose them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from resnext_det.data.images.modern_augmentation import ModernAugmentation
from tests.data.images.pictures import MEAN, STD, picture

NORMALIZED: dict[str, Any] = {"mean": MEAN, "std": STD}
POLICIES = {"trivial_augment_wide": v2.TrivialAugmentWide, "rand_augment": v2.RandAugment, "": None}


def in_torchvision(image: np.ndarray, interpolation: str, policy: str, seed: int) -> torch.Tensor:
    mode = InterpolationMode(interpolation)
    chosen = POLICIES[policy]
    steps = [
        v2.RandomResizedCrop(48, interpolation=mode, antialias=True),
        v2.RandomHorizontalFlip(0.5),
        *([chosen(interpolation=mode)] if chosen else []),
        v2.PILToTensor(),
        v2.ToDtype(torch.float, scale=True),
        v2.Normalize(mean=[value / 255 for value in MEAN], std=[value / 255 for value in STD]),
        v2.RandomErasing(p=0.6),
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return v2.Compose(steps)(Image.fromarray(image))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_it_equals_torchvisions_steps(policy: str, interpolation: str) -> None:
    image = picture(80, 100)
    augmentation = ModernAugmentation(
        48, interpolation=interpolation, policy=policy, random_erasing=0.6, **NORMALIZED
    )
    for number in range(12):
        seed = int(np.random.RandomState(number).randint(0, 2**63 - 1, dtype=np.int64))
        ours = augmentation(image, np.random.RandomState(number))
        assert ours.shape == (3, 48, 48) and ours.is_contiguous() and type(ours) is torch.Tensor
        torch.testing.assert_close(
            ours, in_torchvision(image, interpolation, policy, seed), rtol=0, atol=2e-6
        )


@pytest.mark.parametrize("policy", POLICIES)
def test_a_result_depends_on_the_given_state_alone(policy: str) -> None:
    image = picture(80, 100)
    augmentation = ModernAugmentation(48, policy=policy, random_erasing=1.0, **NORMALIZED)

    def run(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
        state = np.random.RandomState(6)
        results = [augmentation(image, state) for _ in range(20)]
        assert torch.equal(torch.get_rng_state(), before[0])
        np.testing.assert_array_equal(np.random.get_state()[1], before[1])
        assert random.getstate() == before[2]
        return results

    first = run(0)
    assert all(torch.equal(one, other) for one, other in zip(first, run(1)))
    assert not any(torch.equal(first[0], other) for other in first[1:])


def test_erased_pixels_are_the_mean_colour() -> None:
    image = np.zeros((60, 60, 3), np.uint8)
    ours = ModernAugmentation(40, policy="", random_erasing=1.0, **NORMALIZED)(
        image, np.random.RandomState(2)
    )
    erased = (ours == 0).all(dim=0)
    rows, columns = erased.any(dim=1), erased.any(dim=0)
    assert torch.equal(erased, rows[:, None] & columns[None])
    assert 0.01 < erased.float().mean() < 0.4
    assert (ours[:, ~erased] < -1.7).all()


def test_flips_are_drawn_by_their_probability() -> None:
    image = picture(50, 50)
    never, always = (
        ModernAugmentation(50, policy="", random_erasing=0.0, flip=flip, **NORMALIZED)
        for flip in (0, 1)
    )
    for seed in range(5):
        one, other = (augment(image, np.random.RandomState(seed)) for augment in (never, always))
        assert torch.equal(one, other.flip(2))


def test_bgr_is_the_same_with_its_channels_turned() -> None:
    image = picture(50, 70)
    rgb = ModernAugmentation(40, random_erasing=1.0, **NORMALIZED)
    bgr = ModernAugmentation(
        40, random_erasing=1.0, mean=MEAN[::-1], std=STD[::-1], channel_order="BGR"
    )
    for seed in range(4):
        one, other = (augment(image, np.random.RandomState(seed)) for augment in (rgb, bgr))
        torch.testing.assert_close(one, other.flip(0), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"size": 0}, "size is 0"),
        (
            {"interpolation": "torch7_bicubic"},
            "'torch7_bicubic'; .* PIL's, one of bilinear, bicubic",
        ),
        (
            {"policy": "auto"},
            "policy is 'auto'; it is one of trivial_augment_wide, rand_augment, or ''",
        ),
        ({"random_erasing": 1.1}, "random_erasing is 1.1; give a probability"),
        ({"flip": -0.1}, "flip is -0.1"),
        ({"channel_order": "L"}, "channel_order is 'L'"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModernAugmentation(**(NORMALIZED | arguments))


def test_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="give RGB as"):
        ModernAugmentation(**NORMALIZED)(np.zeros((50, 50), np.uint8), np.random.RandomState(0))
