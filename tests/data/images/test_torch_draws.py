"""Seeding torch's global generator for a while."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resnext_det.data.images.modern_augmentation import torch_draws_from


def test_draws_depend_on_the_state_and_leave_the_generator_alone() -> None:
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    draws = []
    for seed in (0, 0, 1):
        with torch_draws_from(np.random.RandomState(seed)):
            draws.append(torch.rand(3))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.rand(3), expected)


def test_an_error_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    with pytest.raises(KeyError), torch_draws_from(np.random.RandomState(0)):
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
    with torch_draws_from(np.random.RandomState(0)):
        torch.rand(1)
