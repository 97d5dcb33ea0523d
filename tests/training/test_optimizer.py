"""Parameter groups, steps and clipping, against detectron2's optimizer and arithmetic by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from resnext_det.layers import FrozenBatchNorm2d, FrozenStatisticsBatchNorm2d
from resnext_det.training.optimizer import (
    ClippingSettings,
    OptimizerSettings,
    build_clipper,
    build_optimizer,
    get_learning_rate,
    set_learning_rate,
)
from tests.training.helpers import assert_same

SETTINGS: list[dict[str, Any]] = [
    {},
    {"weight_decay_norm": 1e-4},
    {"weight_decay_norm": 0.02, "weight_decay_bias": 0.003, "bias_lr_factor": 2.0},
    {"weight_decay_bias": 0.0},
    {"weight_decay_bias": 1e-4, "weight_decay_norm": 1e-4},
    {"bias_lr_factor": 2.0, "nesterov": True, "momentum": 0.8},
]
CLIPS = [
    ("value", 0.01, 2.0),
    ("norm", 0.1, 2.0),
    ("norm", 0.05, 1.0),
    ("norm", 0.02, float("inf")),
]


def make_toy_model() -> nn.Module:
    """Several norms, biases, a frozen and a shared layer; random weights of a fixed seed."""
    torch.manual_seed(5)
    shared = nn.Linear(8, 8)
    norms = [nn.BatchNorm2d(8), FrozenBatchNorm2d(8), nn.GroupNorm(2, 8)]
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        *norms,
        FrozenStatisticsBatchNorm2d(8),
        nn.Conv2d(8, 8, 1, bias=False),
        nn.Flatten(),
        nn.LayerNorm(8),
        shared,
        nn.Linear(8, 8),
        shared,
        nn.Linear(8, 4),
    )
    for parameter in model[9].parameters():
        parameter.requires_grad_(False)
    return model


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, clip: Any = None) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 3, 3, generator=generator)).square().mean().backward()
        if clip is not None:
            clip(optimizer)
        optimizer.step()


def name_groups(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[list[str]]:
    by_identity = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[by_identity[id(p)] for p in group["params"]] for group in optimizer.param_groups]


def build_detectron2_optimizer(
    model: nn.Module, settings: dict[str, Any], clip: tuple[str, float, float] | None = None
) -> torch.optim.Optimizer:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.config import get_cfg
    from detectron2.solver import build_optimizer as detectron2_build_optimizer

    cfg = get_cfg()
    for name, value in settings.items():
        cfg.SOLVER[name.upper()] = value
    if clip is not None:
        cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
        cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = clip[:2]
        cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE = clip[2]
    return detectron2_build_optimizer(cfg, model)


@pytest.mark.detectron2
@pytest.mark.parametrize("clip", [None, *CLIPS], ids=str)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_steps_and_state_are_detectron2s(
    settings: dict[str, Any], clip: tuple[str, float, float] | None
) -> None:
    settings = {"base_lr": 0.05, "weight_decay": 1e-4, **settings}
    our_model, their_model = make_toy_model(), make_toy_model()
    theirs = build_detectron2_optimizer(their_model, settings, clip)
    ours = build_optimizer(our_model, OptimizerSettings(**settings))
    clipper = build_clipper(ClippingSettings(clip is not None, *(clip or ())))
    assert name_groups(our_model, ours) == name_groups(their_model, theirs)
    train(our_model, ours, 3, clipper)
    train(their_model, theirs, 3)
    assert_same(dict(our_model.state_dict()), dict(their_model.state_dict()))
    assert_same(ours.state_dict(), theirs.state_dict())

    # Each goes on from the other's state.
    our_state, their_state = copy.deepcopy(ours.state_dict()), copy.deepcopy(theirs.state_dict())
    ours.load_state_dict(their_state)
    theirs.load_state_dict(our_state)
    train(our_model, ours, 3, clipper)
    train(their_model, theirs, 3)
    assert_same(dict(our_model.state_dict()), dict(their_model.state_dict()))


def test_groups_by_hand() -> None:
    model = make_toy_model()
    settings = OptimizerSettings(
        0.1, weight_decay=0.01, weight_decay_norm=0.0, weight_decay_bias=0.5, bias_lr_factor=2
    )
    optimizer = build_optimizer(model, settings)
    values = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    found = [(*value, group) for value, group in zip(values, name_groups(model, optimizer))]
    assert found == [
        (0.1, 0.01, ["0.weight", "5.weight", "8.weight", "11.weight"]),
        (0.2, 0.5, ["0.bias", "1.bias", "3.bias", "4.bias", "7.bias", "8.bias", "11.bias"]),
        (0.1, 0.0, ["1.weight", "3.weight", "4.weight", "7.weight"]),
    ]


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(ValueError, match="FREEZE_AT"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False), OptimizerSettings(base_lr=0.1))


def clip(settings: ClippingSettings, optimizer: torch.optim.Optimizer) -> None:
    clipper = build_clipper(settings)
    assert clipper is not None
    clipper(optimizer)


def test_clipping_is_for_each_parameter_by_itself() -> None:
    model = nn.ParameterList([nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model[0].grad, model[1].grad = torch.tensor([3.0, 4.0]), torch.tensor([0.3, 0.4])
    clip(ClippingSettings(clip_type="norm", clip_value=1.0), optimizer)
    assert model[0].grad.tolist() == pytest.approx([0.6, 0.8], rel=1e-5)
    assert torch.equal(model[1].grad, torch.tensor([0.3, 0.4]))
    clip(ClippingSettings(clip_type="value", clip_value=0.35), optimizer)
    assert model[0].grad.tolist() == pytest.approx([0.35, 0.35])
    assert model[1].grad.tolist() == pytest.approx([0.3, 0.35])


@pytest.mark.parametrize(("clip_type", "clip_value"), [("full_model", 1.0), ("norm", 0.0)])
def test_wrong_clipping_is_named(clip_type: str, clip_value: float) -> None:
    with pytest.raises(ValueError, match=r"CLIP_GRADIENTS.*(value, norm|positive)"):
        build_clipper(ClippingSettings(clip_type=clip_type, clip_value=clip_value))


def test_learning_rates_keep_their_proportions() -> None:
    optimizer = build_optimizer(
        make_toy_model(), OptimizerSettings(base_lr=0.1, bias_lr_factor=2.0)
    )
    for factor in (0.5, 0.25):
        set_learning_rate(optimizer, factor)
        rates = {group["lr"] for group in optimizer.param_groups}
        assert rates == {0.1 * factor, 0.2 * factor}
    largest = max(optimizer.param_groups, key=lambda group: len(group["params"]))
    assert get_learning_rate(optimizer) == largest["lr"]


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_adam_moves_each_parameter_by_its_formula(name: str) -> None:
    """As in Kingma and Ba (1412.6980), and Loshchilov and Hutter (1711.05101), in float64."""
    model = make_toy_model().double()
    settings = OptimizerSettings(0.01, weight_decay=0.1, weight_decay_norm=0.0, bias_lr_factor=2.0)
    optimizer = build_optimizer(model, settings, name)
    rates = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    generator = torch.Generator().manual_seed(1)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    expected = {
        id(p): (p.detach().clone(), torch.zeros_like(p), torch.zeros_like(p)) for p in trained
    }
    for step in range(1, 5):
        for parameter in trained:
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            (weight, mean, square), (rate, decay) = expected[id(parameter)], rates[id(parameter)]
            gradient = parameter.grad.clone()
            if name == "Adam":
                gradient += decay * weight
            else:
                weight = weight - rate * decay * weight
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient**2
            scale = (square / (1 - 0.999**step)).sqrt() + 1e-8
            weight = weight - rate * mean / (1 - 0.9**step) / scale
            expected[id(parameter)] = (weight, mean, square)
        optimizer.step()
    assert {rate for rate, _ in rates.values()} == {0.01, 0.02}
    assert {decay for _, decay in rates.values()} == {0.0, 0.1}
    for parameter in trained:
        torch.testing.assert_close(
            parameter.detach(), expected[id(parameter)][0], rtol=1e-12, atol=1e-12
        )


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"OPTIMIZER is 'Lion'; the known ones are SGD, Adam, AdamW"
    ):
        build_optimizer(make_toy_model(), OptimizerSettings(0.1), "Lion")
