"""From a configuration to what moves the weights: the one place of this engine that reads the keys of ``SOLVER``."""

from __future__ import annotations

import torch
from fvcore.common.config import CfgNode
from torch import nn

from resnext_det.training.optimizer import build_optimizer
from resnext_det.training.schedule import LearningRateSchedule, build_schedule


def optimizer_of(cfg: CfgNode, model: nn.Module) -> torch.optim.SGD:
    """SGD over the parameters of ``model`` that are trained."""
    solver = cfg.SOLVER
    return build_optimizer(
        model,
        base_lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
    )


def schedule_of(cfg: CfgNode) -> LearningRateSchedule:
    """Iteration -> factor of the learning rate."""
    solver = cfg.SOLVER
    return build_schedule(
        solver.LR_SCHEDULER_NAME,
        max_iter=solver.MAX_ITER,
        steps=solver.STEPS,
        gamma=solver.GAMMA,
        base_lr=solver.BASE_LR,
        base_lr_end=solver.BASE_LR_END,
        num_decays=solver.NUM_DECAYS,
        warmup_iters=solver.WARMUP_ITERS,
        warmup_factor=solver.WARMUP_FACTOR,
        warmup_method=solver.WARMUP_METHOD,
        rescale_interval=solver.RESCALE_INTERVAL,
    )
