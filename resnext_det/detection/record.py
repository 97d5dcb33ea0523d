"""Record in its output folder what a run of a detector was started with."""

from __future__ import annotations

import contextlib
from pathlib import Path

from fvcore.common.config import CfgNode

from resnext_det.data.coco import find_dataset
from resnext_det.training import distributed
from resnext_det.training.environment import ENVIRONMENT_FILE, record_environment
from resnext_det.training.setup import CONFIG_FILE, record_config


def record_run(cfg: CfgNode, *, anew: bool) -> None:
    """Write config.yaml, and environment.json: command, machine, versions, and where the sets are.

    Args:
        anew: replace the files that the folder has, as a training does; else what is there stays,
            as it is a training's.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder = Path(cfg.OUTPUT_DIR)
    if anew or not (folder / CONFIG_FILE).exists():
        record_config(cfg)
    if distributed.is_main_process() and (anew or not (folder / ENVIRONMENT_FILE).exists()):
        sets = {}
        for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
            with contextlib.suppress(ValueError):  # detectron2 alone knows it
                sets[name] = find_dataset(name)
        record_environment(
            folder,
            sets,
            device=distributed.resolve_device(cfg.MODEL.DEVICE),
            processes=distributed.get_world_size(),
        )
