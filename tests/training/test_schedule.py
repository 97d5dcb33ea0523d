"""The learning rate at every iteration, against detectron2's scheduler and hand-computed values."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from resnext_det.training.schedule import build_schedule

SETTINGS: list[dict[str, Any]] = [
    {"name": "WarmupMultiStepLR", "max_iter": 90, "steps": (60, 80), "warmup_iters": 10},
    {
        "name": "WarmupMultiStepLR",
        "max_iter": 97,
        "steps": (31, 32, 96),
        "gamma": 0.3,
        "warmup_iters": 0,
    },
    {"name": "WarmupMultiStepLR", "max_iter": 300, "steps": (5, 270), "warmup_iters": 70},
    {"name": "WarmupMultiStepLR", "max_iter": 50, "steps": (), "warmup_iters": 1000},
    {"name": "WarmupMultiStepLR", "max_iter": 90, "steps": (60, 100), "warmup_iters": 7},
    {"name": "WarmupMultiStepLR", "max_iter": 1203, "steps": (401, 802), "warmup_iters": 33},
    {"name": "WarmupCosineLR", "max_iter": 113, "warmup_iters": 13},
    {
        "name": "WarmupCosineLR",
        "max_iter": 113,
        "base_lr": 0.03,
        "base_lr_end": 0.0007,
        "warmup_iters": 0,
    },
    {
        "name": "WarmupCosineLR",
        "max_iter": 70,
        "base_lr": 0.02,
        "warmup_iters": 35,
        "warmup_factor": 0.25,
    },
    {"name": "WarmupStepWithFixedGammaLR", "max_iter": 131, "num_decays": 3, "warmup_iters": 17},
    {
        "name": "WarmupStepWithFixedGammaLR",
        "max_iter": 77,
        "num_decays": 7,
        "gamma": 0.8,
        "warmup_iters": 0,
    },
]


def schedule_of(**settings: Any) -> list[float]:
    """The factors of a training's iterations."""
    schedule = build_schedule(**settings)
    return [schedule(iteration) for iteration in range(settings["max_iter"])]


@pytest.mark.detectron2
@pytest.mark.parametrize("rescale_interval", [False, True])
@pytest.mark.parametrize("warmup_method", ["linear", "constant"])
@pytest.mark.parametrize(
    "settings", SETTINGS, ids=lambda settings: f"{settings['name']}-{settings['max_iter']}"
)
def test_learning_rates_are_detectron2s(
    settings: dict[str, Any], warmup_method: str, rescale_interval: bool
) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.config import get_cfg
    from detectron2.solver import build_lr_scheduler

    settings = {
        "warmup_factor": 0.001,
        **settings,
        "warmup_method": warmup_method,
        "rescale_interval": rescale_interval,
    }
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR = settings.get("base_lr", 1.0)
    for name, value in settings.items():
        cfg.SOLVER[{"name": "LR_SCHEDULER_NAME"}.get(name, name.upper())] = value
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    schedule = build_schedule(**settings)
    ours = []
    for iteration in range(settings["max_iter"]):
        ours.append(cfg.SOLVER.BASE_LR * schedule(iteration))
        assert optimizer.param_groups[0]["lr"] == ours[-1], iteration
        if (
            iteration < settings["max_iter"] - 1
        ):  # detectron2's fixed gamma fails after the last step
            optimizer.step()
            scheduler.step()
    assert len(set(ours)) > 1 or not settings["warmup_iters"] or warmup_method == "constant"


def test_multi_step_by_hand() -> None:
    factors = schedule_of(
        name="WarmupMultiStepLR",
        max_iter=10,
        steps=(4, 8),
        gamma=0.1,
        warmup_iters=2,
        warmup_factor=0.5,
    )
    assert factors == pytest.approx([0.5, 0.75, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize(
    "name", ["WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"]
)
@pytest.mark.parametrize("rescale_interval", [False, True])
@pytest.mark.parametrize("warmup_iters", [0, 6, 10, 40])
def test_defined_after_the_last_iteration(
    name: str, rescale_interval: bool, warmup_iters: int
) -> None:
    # A checkpoint after the last step holds the learning rate of the next one.
    schedule = build_schedule(
        name, max_iter=10, steps=(5,), warmup_iters=warmup_iters, rescale_interval=rescale_interval
    )
    assert 0 <= schedule(10) <= 1


def test_steps_beyond_the_end_are_dropped_aloud(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        dropped = schedule_of(
            name="WarmupMultiStepLR", max_iter=10, steps=(4, 10, 90), warmup_iters=0
        )
    assert "(10, 90)" in caplog.text and "MAX_ITER 10" in caplog.text
    assert dropped == schedule_of(name="WarmupMultiStepLR", max_iter=10, steps=(4,), warmup_iters=0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "CosineLR"}, ["'CosineLR'", "WarmupMultiStepLR", "WarmupCosineLR"]),
        ({"warmup_method": "exp"}, ["'exp'", "linear", "constant"]),
        ({"steps": (8, 4)}, ["(8, 4)", "increasing"]),
        ({"steps": (4, 4)}, ["(4, 4)", "increasing"]),
        ({"steps": (0, 4)}, ["(0, 4)", "positive"]),
        ({"max_iter": 0}, ["MAX_ITER is 0"]),
        ({"warmup_iters": -1}, ["WARMUP_ITERS is -1"]),
        (
            {"name": "WarmupCosineLR", "base_lr": 0.1, "base_lr_end": 0.2},
            ["0.2", "0.1", "BASE_LR_END"],
        ),
        ({"name": "WarmupStepWithFixedGammaLR", "num_decays": 0}, ["NUM_DECAYS 0"]),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        build_schedule(**{"name": "WarmupMultiStepLR", "max_iter": 10, "steps": (5,), **settings})
    for word in words:
        assert word in str(error.value)
