"""Keep the run in an output folder: another training goes on with it or is told to remove it."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from fvcore.common.config import CfgNode

from resnext_det.config.rules import collect_values
from resnext_det.config.values import unify_names
from resnext_det.files import escape_controls, list_first, write_text
from resnext_det.training import distributed
from resnext_det.training.checkpoint import LAST_CHECKPOINT, Checkpointer
from resnext_det.training.environment import ENVIRONMENT_FILE
from resnext_det.training.setup import CONFIG_FILE, check_folder_name, find_recorded
from resnext_det.weights.containers import read_container

logger = logging.getLogger(__name__)

_CHECKPOINTS = ("model_final.pth", "model_best.pth", f"model_{'[0-9]' * 7}.pth")
_METRICS = ("metrics.json", "metrics.previous.json", "events.out.tfevents.*", "report.html")
_TESTS = (
    *("inference/metrics.json", "inference/*/metrics.json", "inference/proposals_*.pkl"),
    *("inference/coco_instances_results.json", "inference/*/coco_instances_results.json"),
    *("inference/instances_predictions.pth", "inference/*/instances_predictions.pth"),
    "test/*_way.json",
)
_LOCK, _HOLDER = ".run.lock", ".run.holder"
_PARTIAL = (".*.partial", "inference/**/.*.partial", "test/.*.partial")  # see ``write_file``
_SHOWN = 4
_MOST = 12
# Settings that a resumed run may change: where and how fast it computes, how long it trains, what
# is kept and tested, and the weights from which it once began.
_FREE = re.compile(
    r"OUTPUT_DIR|VERSION|VIS_PERIOD|CUDNN_BENCHMARK|MODEL\.(DEVICE|WEIGHTS)|DATASETS\.TEST|.*_TEST"
    r"|DATALOADER\.(NUM_WORKERS|SKIP_BROKEN_IMAGES)|TEST\.(?!PRECISE_BN).*"
    r"|SOLVER\.(MAX_ITER|EPOCHS|CHECKPOINT\w*)"
)


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
            to go on with; ``MODEL.WEIGHTS`` or proposals would be removed; the folder has
            no proper name, or another one where a file of a run belongs.
    """
    folder = cfg.OUTPUT_DIR
    check_folder_name(folder)
    _check_files(Path(folder))
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


def _check_files(folder: Path) -> None:
    """Refuse a folder in the place of a file that a training would write only later."""
    others = ("metrics.json", CONFIG_FILE, ENVIRONMENT_FILE, "log.txt")
    for name in (LAST_CHECKPOINT, *_CHECKPOINTS[:2], *others):
        if (folder / name).is_dir():
            raise ValueError(
                f"{folder / name} is a folder, and a training writes a file of that name; move it "
                "away, or choose another OUTPUT_DIR"
            )


def check_settings(cfg: CfgNode, *, anyway: bool = False) -> list[str]:
    """Refuse to resume a run under settings that would change its numbers.

    They are compared with ``config.yaml`` in ``OUTPUT_DIR``, where the folder has a checkpoint; if
    that file is not there or empty, with the configuration that a detector's checkpoint holds.

    Args:
        anyway: return a warning in place of the error.

    Returns:
        sentences to warn with.

    Raises:
        ValueError: settings differ; it lists them. Or config.yaml is damaged.
    """
    newest = Checkpointer(cfg.OUTPUT_DIR).latest()
    if newest is None:
        return []
    contents = read_container(newest, mapped=True)[1]
    file, recorded = find_recorded(cfg.OUTPUT_DIR)
    if recorded is None:
        return [f"{file} is not there, so nothing tells whether the run began under other settings"]
    try:
        was = collect_values(recorded)
    except (ValueError, TypeError, AttributeError, AssertionError) as error:
        raise ValueError(f"{file} is damaged; remove it, and resume with its settings") from error
    iteration = contents.get("iteration") if isinstance(contents, dict) else None
    iteration = iteration if isinstance(iteration, int) else -1  # resuming refuses others
    found = []
    for key, now in collect_values(cfg).items():
        if key not in was or _FREE.fullmatch(key) or (key == "SEED" and now < 0):
            continue
        if key == "SOLVER.STEPS" and "MAX_ITER" in cfg.SOLVER:  # those to come are free
            before, after = ([x for x in steps if x <= iteration] for steps in (was[key], now))
            differ = before != after
        else:
            differ = _make_plain(was[key]) != _make_plain(now)
        if differ:
            found.append(f"{key} was {was[key]!r} and is {now!r}")
    if not found:
        return []
    told = f"the run in {cfg.OUTPUT_DIR} began under other settings: {list_first(found, _MOST)}"
    if anyway:
        return [f"{told}. It goes on under the new ones, as --resume-anyway says."]
    raise ValueError(
        f"{told}; resume with those of {file}, choose another OUTPUT_DIR, or go on all the same "
        "with --resume-anyway"
    )


def _make_plain(value: Any) -> Any:
    """Make one of lists and tuples, and of the names that a part has."""
    if isinstance(value, list | tuple):
        return [_make_plain(each) for each in value]
    return unify_names(value)


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


@contextmanager
def hold_output_dir(output_dir: str | Path) -> Iterator[None]:
    """Keep other trainings out of a folder, and clear what a killed one left half-written.

    Every process of a training enters. The main one holds a lock, which the system releases however
    that process ends.

    Raises:
        ValueError: another training holds the folder; or it cannot be written to.
    """
    with ExitStack() as stack:
        with distributed.fail_together():
            if distributed.is_main_process():
                stack.enter_context(_lock_folder(Path(output_dir)))
                for path in chain.from_iterable(Path(output_dir).glob(each) for each in _PARTIAL):
                    path.unlink(missing_ok=True)
        yield


@contextmanager
def _lock_folder(folder: Path) -> Iterator[None]:
    lock, holder = FileLock(folder / _LOCK), folder / _HOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        started = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        write_text(holder, f"process {os.getpid()} on {socket.gethostname()}, since {started}")
    except Timeout:
        try:
            told = holder.read_text(encoding="utf-8")
        except OSError:  # it has just begun
            told = "which has just begun"
        raise ValueError(
            f"another training writes to OUTPUT_DIR = {str(folder)!r} ({escape_controls(told)}); "
            "wait for its end or stop it, or choose another OUTPUT_DIR"
        ) from None
    except NotImplementedError:
        logger.warning(
            "%s is on a file system without locks: a second training there would not be noticed.",
            folder,
        )
    except OSError as error:
        lock.release()
        raise ValueError(
            f"OUTPUT_DIR = {str(folder)!r} cannot be written to ({error.strerror or error}); write "
            "another folder"
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)
            Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: nobody waits for it
        lock.release()


def _list_patterns() -> tuple[str, ...]:
    return (LAST_CHECKPOINT, *_CHECKPOINTS, *_METRICS, *_TESTS)


def _find_files(output_dir: str | Path, patterns: tuple[str, ...]) -> list[Path]:
    """Find the files of a folder that the patterns match, in their order."""
    every = chain.from_iterable(sorted(Path(output_dir).glob(each)) for each in patterns)
    return [path for path in every if path.is_file() or path.is_symlink()]
