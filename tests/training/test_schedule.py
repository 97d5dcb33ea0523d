"""The learning rate at every iteration, against detectron2's scheduler and hand-computed values."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from resnext_det.training.schedule import SCHEDULES, ScheduleSettings, build_schedule

COSINE, FIXED_GAMMA = "WarmupCosineLR", "WarmupStepWithFixedGammaLR"
SETTINGS = [
    ScheduleSettings(90, steps=(60, 80), warmup_iters=10),
    ScheduleSettings(97, steps=(31, 32, 96), gamma=0.3, warmup_iters=0),
    ScheduleSettings(300, steps=(5, 270), warmup_iters=70),
    ScheduleSettings(50, warmup_iters=1000),
    ScheduleSettings(90, steps=(60, 100), warmup_iters=7),
    ScheduleSettings(1203, steps=(401, 802), warmup_iters=33),
    ScheduleSettings(113, COSINE, warmup_iters=13),
    ScheduleSettings(113, COSINE, base_lr=0.03, base_lr_end=0.0007, warmup_iters=0),
    ScheduleSettings(70, COSINE, base_lr=0.02, warmup_iters=35, warmup_factor=0.25),
    ScheduleSettings(131, FIXED_GAMMA, num_decays=3, warmup_iters=17),
    ScheduleSettings(77, FIXED_GAMMA, num_decays=7, gamma=0.8, warmup_iters=0),
]


def list_factors(settings: ScheduleSettings) -> list[float]:
    schedule = build_schedule(settings)
    return [schedule(iteration) for iteration in range(settings.max_iter)]


@pytest.mark.detectron2
@pytest.mark.parametrize("rescale_interval", [False, True])
@pytest.mark.parametrize("warmup_method", ["linear", "constant"])
@pytest.mark.parametrize(
    "settings", SETTINGS, ids=lambda given: f"{given.lr_scheduler_name}-{given.max_iter}"
)
def test_learning_rates_are_detectron2s(
    settings: ScheduleSettings, warmup_method: str, rescale_interval: bool
) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.config import get_cfg
    from detectron2.solver import build_lr_scheduler

    settings = replace(settings, warmup_method=warmup_method, rescale_interval=rescale_interval)
    cfg = get_cfg()
    for name, value in asdict(settings).items():
        cfg.SOLVER[name.upper()] = value
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    ours = [cfg.SOLVER.BASE_LR * factor for factor in list_factors(settings)]
    for iteration, rate in enumerate(ours):
        assert optimizer.param_groups[0]["lr"] == rate, iteration
        if iteration < settings.max_iter - 1:  # detectron2's fixed gamma fails after the last step
            optimizer.step()
            scheduler.step()
    assert len(set(ours)) > 1 or not settings.warmup_iters or warmup_method == "constant"


def test_multi_step_by_hand() -> None:
    settings = ScheduleSettings(10, steps=(4, 8), warmup_iters=2, warmup_factor=0.5)
    expected = [0.5, 0.75, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01]
    assert list_factors(settings) == pytest.approx(expected)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("warmup_iters", [0, 6, 10, 40])
def test_defined_after_the_last_iteration(name: str, rescale: bool, warmup_iters: int) -> None:
    """A checkpoint after the last step holds the learning rate of the next one."""
    settings = ScheduleSettings(10, name, (5,), warmup_iters=warmup_iters, rescale_interval=rescale)
    assert 0 <= build_schedule(settings)(10) <= 1


def test_steps_beyond_the_end_are_dropped_aloud(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        dropped = list_factors(ScheduleSettings(10, steps=(4, 10, 90), warmup_iters=0))
    assert "(10, 90)" in caplog.text and "MAX_ITER 10" in caplog.text
    assert dropped == list_factors(ScheduleSettings(10, steps=(4,), warmup_iters=0))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lr_scheduler_name": "CosineLR"}, ["'CosineLR'", "WarmupMultiStepLR", "WarmupCosineLR"]),
        ({"warmup_method": "exp"}, ["'exp'", "linear", "constant"]),
        ({"steps": (8, 4)}, ["(8, 4)", "increasing"]),
        ({"steps": (4, 4)}, ["(4, 4)", "increasing"]),
        ({"steps": (0, 4)}, ["(0, 4)", "positive"]),
        ({"max_iter": 0}, ["MAX_ITER is 0"]),
        ({"warmup_iters": -1}, ["WARMUP_ITERS is -1"]),
        (
            {"lr_scheduler_name": "WarmupCosineLR", "base_lr": 0.1, "base_lr_end": 0.2},
            ["0.2", "0.1", "BASE_LR_END"],
        ),
        ({"lr_scheduler_name": "WarmupStepWithFixedGammaLR", "num_decays": 0}, ["NUM_DECAYS 0"]),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        build_schedule(ScheduleSettings(**{"max_iter": 10, "steps": (5,), **settings}))
    for word in words:
        assert word in str(error.value)
