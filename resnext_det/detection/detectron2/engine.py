"""Training and evaluation by detectron2: the same work, files and numbers as the portable engine's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from resnext_det.detection.detectron2.configuration import load_config
from resnext_det.detection.detectron2.datasets import load_data
from resnext_det.detection.detectron2.evaluation import evaluate_all
from resnext_det.detection.detectron2.trainer import Trainer
from resnext_det.detection.evaluation import check_proposes, write_all_proposals
from resnext_det.detection.weights import load_detector
from resnext_det.training import distributed
from resnext_det.training.checkpoint import Checkpointer, load_model_state
from resnext_det.training.setup import CONFIG_FILE, record_config, set_seed, set_up

__all__ = ["evaluate", "load_config", "propose", "train"]


def train(cfg: CfgNode, *, resume: bool = False) -> dict[str, Any]:
    """Train as ``cfg`` says; every process of a training calls it. As the portable engine's ``train``."""
    _set_up(cfg)
    cfg = set_seed(cfg, resume=resume)
    record_config(cfg)
    trainer = Trainer(cfg, load_data(cfg, training=True))
    trainer.resume_or_load(resume)
    return trainer.train()


def evaluate(cfg: CfgNode, *, resume: bool = False) -> dict[str, Any]:
    """Evaluate ``MODEL.WEIGHTS``, or the newest checkpoint. As the portable engine's ``evaluate``."""
    _set_up(cfg)
    if not Path(cfg.OUTPUT_DIR, CONFIG_FILE).exists():  # that of a training stays as it is
        record_config(cfg)
    data = load_data(cfg, training=False)
    return evaluate_all(cfg, _trained_model(cfg, resume=resume), data)


def propose(cfg: CfgNode, files: Mapping[str, str | Path], *, resume: bool = False) -> None:
    """Write the proposals of a trained ProposalNetwork. As the portable engine's ``propose``."""
    check_proposes(cfg)
    _set_up(cfg)
    write_all_proposals(cfg, _trained_model(cfg, resume=resume), files)


def _trained_model(cfg: CfgNode, *, resume: bool) -> nn.Module:
    model = Trainer.build_model(cfg)
    checkpointer = Checkpointer(cfg.OUTPUT_DIR)
    newest = checkpointer.latest() if resume else None
    if newest is not None:
        load_model_state(model, checkpointer.load(newest)["model"])
    else:
        load_detector(cfg, model)
    return model


def _set_up(cfg: CfgNode) -> None:
    set_up(cfg, log_too=("detectron2", "fvcore"))
    if distributed.get_world_size() > 1 and comm._LOCAL_PROCESS_GROUP is None:
        comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
