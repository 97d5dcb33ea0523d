"""What precedes the first iteration of a detector's training, in either engine."""

from __future__ import annotations

from fvcore.common.config import CfgNode
from torch import nn

from resnext_det.engines.common.weights import load_pretrained
from resnext_det.resnext import check_frozen_layers_are_loaded
from resnext_det.training.setup import warn_of_earlier_run


def begin(cfg: CfgNode, model: nn.Module) -> None:
    """What precedes the first iteration of a training: its weights, and a word on what it will overwrite."""
    if cfg.MODEL.WEIGHTS:
        load_pretrained(cfg, model)
    check_frozen_layers_are_loaded(model)
    warn_of_earlier_run(cfg)
