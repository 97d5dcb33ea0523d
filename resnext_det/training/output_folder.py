"""Keep the run in an output folder: another training goes on with it or is told to remove it."""

from __future__ import annotations

import logging
from itertools import chain
from pathlib import Path

from fvcore.common.config import CfgNode

from resnext_det.files import list_first
from resnext_det.training import distributed
from resnext_det.training.checkpoint import LAST_CHECKPOINT, Checkpointer

logger = logging.getLogger(__name__)

_CHECKPOINTS = ("model_final.pth", "model_best.pth", f"model_{'[0-9]' * 7}.pth")
_METRICS = ("metrics.json", "metrics.previous.json", "events.out.tfevents.*")
_TESTS = (
    *("inference/metrics.json", "inference/*/metrics.json", "inference/proposals_*.pkl"),
    *("inference/coco_instances_results.json", "inference/*/coco_instances_results.json"),
    *("inference/instances_predictions.pth", "inference/*/instances_predictions.pth"),
    "test/*_way.json",
)
_SHOWN = 4


def find_run(output_dir: str | Path) -> list[str]:
    """Name the files of a folder that a new training would destroy: checkpoints and metrics.

    A run that ended before its first checkpoint and metrics has left none.
    """
    found = [path.name for path in _find_files(output_dir, (LAST_CHECKPOINT, *_CHECKPOINTS))]
    metrics = Path(output_dir, "metrics.json")
    return found + [metrics.name] * (metrics.is_file() and metrics.stat().st_size > 0)


def check_output_dir(cfg: CfgNode, *, resume: bool, overwrite: bool) -> None:
    """Refuse a training that would destroy the run in ``OUTPUT_DIR``; call it before all else.

    Args:
        resume: the training goes on with that run.
        overwrite: the training removes that run, see ``remove_run``.

    Raises:
        ValueError: the folder holds a run and neither is asked for, or both are; there is nothing
            to go on with; ``MODEL.WEIGHTS`` or proposals would be removed.
    """
    folder = cfg.OUTPUT_DIR
    if resume and overwrite:
        raise ValueError(
            "--resume goes on with the run in OUTPUT_DIR and --overwrite removes it; write one"
        )
    found = find_run(folder)
    held = f"OUTPUT_DIR = {folder!r} holds a run ({list_first(found, _SHOWN)})"
    if overwrite:
        removed = {path.resolve() for path in _find_files(folder, _list_patterns())}
        keys = ("PROPOSAL_FILES_TRAIN", "PROPOSAL_FILES_TEST")
        proposals = chain.from_iterable(cfg.DATASETS.get(key, ()) for key in keys)
        for name in filter(None, (cfg.MODEL.WEIGHTS, *proposals)):
            if Path(name).resolve() in removed:
                raise ValueError(
                    f"{held}, which --overwrite removes, and this training begins with {name}; "
                    "move that file to another folder, or choose another OUTPUT_DIR"
                )
    elif found and not resume:
        raise ValueError(
            f"{held}, which this training would destroy; add --resume to go on with it, choose "
            "another OUTPUT_DIR, or add --overwrite to remove it and begin anew"
        )
    elif (
        resume
        and LAST_CHECKPOINT not in found
        and any(name.endswith(".pth") for name in found)
        and Checkpointer(folder).latest() is None
    ):
        raise ValueError(
            f"{held}, but no checkpoint to go on from: they are damaged or weights alone; to "
            "start from weights set MODEL.WEIGHTS, leave --resume out, and choose another "
            "OUTPUT_DIR"
        )


def remove_run(output_dir: str | Path) -> None:
    """Remove the run in a folder, and say so; every process calls it.

    Removed are the files that trainings and their evaluations write: checkpoints, metrics, events,
    results and proposals. log.txt goes on, and config.yaml is written anew.
    """
    with distributed.fail_together():
        if not distributed.is_main_process():
            return
        files = _find_files(output_dir, _list_patterns())
        for path in files:
            path.unlink(missing_ok=True)
        if files:
            logger.warning(
                "--overwrite: the earlier run in %s is removed, %d files (%s).",
                *(output_dir, len(files), list_first((path.name for path in files), _SHOWN)),
            )


def _list_patterns() -> tuple[str, ...]:
    return (LAST_CHECKPOINT, *_CHECKPOINTS, *_METRICS, *_TESTS)


def _find_files(output_dir: str | Path, patterns: tuple[str, ...]) -> list[Path]:
    """Find the files of a folder that the patterns match, in their order."""
    every = chain.from_iterable(sorted(Path(output_dir).glob(each)) for each in patterns)
    return [path for path in every if path.is_file() or path.is_symlink()]
