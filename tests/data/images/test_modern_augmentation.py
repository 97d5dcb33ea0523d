"""Today's augmentation and mixing against torchvision's transforms, and the seeding of torch."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from resnext_det.data.images.modern_augmentation import Mixing, ModernAugmentation, seed_torch
from tests.data.images.helpers import MEAN, STD, picture

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


def test_erased_pixels_are_the_mean_color() -> None:
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


def test_mixing_depends_on_the_given_state_alone() -> None:
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
def test_wrong_arguments_of_mixing_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_draws_depend_on_the_state_and_leave_the_generator_alone() -> None:
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    draws = []
    for seed in (0, 0, 1):
        with seed_torch(np.random.RandomState(seed)):
            draws.append(torch.rand(3))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.rand(3), expected)


def test_an_error_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    with pytest.raises(KeyError), seed_torch(np.random.RandomState(0)):
        torch.rand(3)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)


def test_generators_of_gpus_are_not_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    def seeded(*arguments: object) -> None:
        raise AssertionError("a generator of a GPU was seeded")

    for module in (torch.cuda, torch.mps, torch.xpu):
        for name in ("manual_seed", "manual_seed_all"):
            monkeypatch.setattr(module, name, seeded, raising=False)
    with pytest.raises(AssertionError):
        torch.manual_seed(0)  # which does
    with seed_torch(np.random.RandomState(0)):
        torch.rand(1)
