"""How a run begins: its device, log, seed and recorded configuration."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from fvcore.common.config import CfgNode

from resnext_det.training import distributed
from resnext_det.training.checkpoint import LAST_CHECKPOINT
from resnext_det.training.logs import setup_logging

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
"""The file of the output folder that holds the configuration, with the seed that was drawn."""


def set_up(cfg: CfgNode, *, log_too: Sequence[str] = ()) -> torch.device:
    """The device; the output folder is made, and the log goes there, with that of the packages ``log_too``."""
    device = distributed.resolve_device(cfg.MODEL.DEVICE)
    try:
        setup_logging(cfg.OUTPUT_DIR, others=log_too)
    except OSError as error:
        raise ValueError(
            f"OUTPUT_DIR = {cfg.OUTPUT_DIR!r} cannot be written to ({error.strerror}: {error.filename}); write another folder"
        ) from error
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    if cfg.FLOAT32_PRECISION and device.type == "cuda":  # as in detectron2, of no effect on the CPU
        torch.set_float32_matmul_precision(cfg.FLOAT32_PRECISION)
        torch.backends.cudnn.allow_tf32 = cfg.FLOAT32_PRECISION != "highest"
    return device


def seeded(cfg: CfgNode, *, resume: bool) -> CfgNode:
    """Seed torch; a negative ``SEED`` becomes a drawn one, or on resuming the one that the run had, the same in every process."""
    seed = cfg.SEED
    if seed < 0 and distributed.is_main_process():
        file = Path(cfg.OUTPUT_DIR, CONFIG_FILE)
        if resume and file.is_file():
            seed = yaml.safe_load(file.read_text(encoding="utf-8")).get("SEED", -1)
        if seed < 0:
            seed = int.from_bytes(os.urandom(4), "big") % 2**31
            logger.info("SEED is %d; for this run %d was drawn.", cfg.SEED, seed)
    seed = distributed.broadcast_object(seed)
    torch.manual_seed(seed + distributed.rank())
    seeded = cfg.clone()
    seeded.defrost()
    seeded.SEED = seed
    seeded.freeze()
    return seeded


def record(cfg: CfgNode) -> None:
    """Write config.yaml, whole or not at all."""
    if distributed.is_main_process():
        partial = Path(cfg.OUTPUT_DIR, f"{CONFIG_FILE}.partial")
        partial.write_text(cfg.dump(), encoding="utf-8")
        partial.replace(partial.with_name(CONFIG_FILE))


def warn_of_earlier_run(cfg: CfgNode) -> None:
    """Say what a training that begins anew will overwrite."""
    if Path(cfg.OUTPUT_DIR, LAST_CHECKPOINT).is_file():
        logger.warning(
            "%s holds checkpoints of an earlier run, and this one, which begins anew, overwrites them; to go on with that run, stop "
            "now and add --resume, or choose another OUTPUT_DIR.",
            cfg.OUTPUT_DIR,
        )
