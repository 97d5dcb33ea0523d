"""Begin a run: its device, log, seed and recorded configuration."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode

from resnext_det.config.rules import get_value, list_keys
from resnext_det.config.yaml_files import parse_yaml
from resnext_det.files import EscapingFormatter, escape_unknown_letters, write_text
from resnext_det.training import distributed
from resnext_det.training.checkpoint import Checkpointer
from resnext_det.training.threads import count_processors
from resnext_det.weights.containers import read_container
from resnext_det.weights.trained_detector import KEY

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
"""The file of the output folder that holds the configuration, with the seed that was drawn."""

IN_BAR = "in_progress_bar"
"""Marks a message whose content the progress bar shows."""

_PACKAGE = __name__.split(".")[0]
_HANDLER = _PACKAGE  # the name of the log handlers that are ours


def setup_logging(output_dir: str | Path | None, *, console: bool = True) -> logging.Logger:
    """Send the package's messages (INFO and above) to the console and ``<output_dir>/log.txt``.

    The console shows the main process alone; the others write ``log.txt.rank1`` and so on. A second
    call replaces what the first has set up. Call it in each process, within the process group.

    Returns:
        The package's logger.
    """
    escape_unknown_letters()  # in the processes that a command has started, too
    handlers: list[logging.Handler] = []
    if console and distributed.is_main_process():
        handlers.append(_ConsoleHandler())
    if output_dir is not None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        suffix = "" if distributed.is_main_process() else f".rank{distributed.get_rank()}"
        file = Path(output_dir, f"log.txt{suffix}")
        handlers.append(_FileHandler(file, encoding="utf-8", errors="backslashreplace"))
    package = logging.getLogger(_PACKAGE)
    package.setLevel(logging.INFO)
    for handler in [handler for handler in package.handlers if handler.name == _HANDLER]:
        package.removeHandler(handler)
        handler.close()
    for handler in handlers:
        handler.name = _HANDLER
        handler.setFormatter(
            EscapingFormatter(
                "[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt="%m/%d %H:%M:%S"
            )
        )
        package.addHandler(handler)
    return package


@contextmanager
def log_too(*names: str) -> Iterator[None]:
    """Send further packages' messages where this package's go, for a while; also a decorator.

    The log gets what is INFO or above; handlers of their own keep what they get. Their loggers are
    then as they were.
    """
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.level, logger.propagate) for logger in loggers]
    forwarding = [_ForwardingHandler(logger) for logger in loggers]
    for logger, handler in zip(loggers, forwarding, strict=True):
        logger.setLevel(min(logger.level or logging.INFO, logging.INFO))
        logger.propagate = False
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, handler, (level, propagate) in zip(loggers, forwarding, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


class _ForwardingHandler(logging.Handler):
    """Give a logger's messages to this package's handlers; to the console if it shows none."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__(logging.INFO)
        self._shown = any(type(handler) is logging.StreamHandler for handler in logger.handlers)

    def emit(self, record: logging.LogRecord) -> None:
        for handler in logging.getLogger(_PACKAGE).handlers:
            shown = self._shown and isinstance(handler, _ConsoleHandler)
            if handler.name == _HANDLER and not shown:
                handler.handle(record)


class _FileHandler(logging.FileHandler):
    """Write to log.txt; say once where that fails, as on a full disk, and let the run go on."""

    _told = False

    def close(self) -> None:
        with suppress(OSError):  # of what could not be written
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._told:
            self._told = True
            with suppress(OSError, AttributeError):  # of a console that is gone
                sys.stderr.write(
                    f"{self.baseFilename} cannot be written ({error.strerror}); the run goes on, "
                    "and its messages are on the console alone; make room there\n"
                )


class _ConsoleHandler(logging.Handler):
    """Write to the current stdout, above a progress bar, without what the bar shows."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, IN_BAR, False):
            return
        tqdm = sys.modules.get("tqdm")
        try:
            if tqdm is not None:
                tqdm.tqdm.write(self.format(record), file=sys.stdout)
            else:
                sys.stdout.write(self.format(record) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:  # nobody reads on, as after "| head"; log.txt has everything
            pass
        except Exception:
            self.handleError(record)


def check_folder_name(path: str) -> None:
    """Refuse an output folder whose name is empty, or which TensorBoard cannot write to.

    Raises:
        ValueError: it is empty, or is not UTF-8, or holds a null character.
    """
    if not path.strip():
        raise ValueError(f"OUTPUT_DIR = {path!r} is no folder; write one, or . for this one")
    if "\0" in path:
        raise ValueError(f"OUTPUT_DIR = {path!r} holds a null character; write another folder")
    if path.encode(errors="replace").decode() != path:
        raise ValueError(
            f"OUTPUT_DIR = {path!r} holds bytes that are no UTF-8; write another folder"
        )


def set_up(cfg: CfgNode) -> torch.device:
    """Choose the device, make the output folder, and write the log there.

    Raises:
        ValueError: there is no such device; the output folder cannot be written to, or has no
            proper name.
    """
    check_folder_name(cfg.OUTPUT_DIR)
    device = distributed.resolve_device(cfg.MODEL.DEVICE)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # whose random numbers checkpoints hold
    try:
        setup_logging(cfg.OUTPUT_DIR)
    except OSError as error:
        raise ValueError(
            f"OUTPUT_DIR = {cfg.OUTPUT_DIR!r} cannot be written to ({error.strerror}: "
            f"{error.filename}); write another folder"
        ) from error
    if cfg.MODEL.DEVICE == distributed.AUTO:
        logger.info("MODEL.DEVICE is auto: %s is used.", device)
    if device.type == "cpu":
        logger.info(
            "Computing threads: %d. Processors that this process may use: %.3g.",
            *(torch.get_num_threads(), count_processors()),
        )
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK and not deterministic
    if deterministic:
        logger.info(
            "Deterministic algorithms compute: with the same versions, kind of processor, threads "
            "and processes this command gives the same weights again, to the last bit."
        )
    if cfg.FLOAT32_PRECISION and device.type == "cuda":  # as in detectron2, of no effect on the CPU
        torch.set_float32_matmul_precision(cfg.FLOAT32_PRECISION)
        torch.backends.cudnn.allow_tf32 = cfg.FLOAT32_PRECISION != "highest"
    return device


def list_common_settings(cfg: CfgNode) -> dict[str, Any]:
    """List the settings, by key, that have to be the same in every process of a run.

    Others are a machine's own: the folder of its log and the number of its loading processes.
    """
    own = ("OUTPUT_DIR", "DATALOADER.NUM_WORKERS")
    return {key: get_value(cfg, key) for key in list_keys(cfg) if key not in own}


def read_recorded(file: Path) -> CfgNode:
    """Read the ``config.yaml`` of an output folder.

    Raises:
        ValueError: it is damaged.
    """
    try:
        recorded = CfgNode(parse_yaml(file.read_text(encoding="utf-8")))
        if type(recorded.get("SEED", -1)) is not int:
            raise ValueError("SEED is no integer")
        return recorded
    except (ValueError, TypeError, AttributeError, AssertionError, OSError) as error:
        raise ValueError(
            f"{file} is damaged ({' '.join(str(error).split())}); remove it, and resume with its "
            "settings"
        ) from error


def set_seed(cfg: CfgNode, *, resume: bool) -> CfgNode:
    """Seed torch, and return the configuration with the seed.

    A negative ``SEED`` becomes a drawn one, or on resuming the one that the run had; it is the same
    in every process.
    """
    seed = cfg.SEED
    if seed < 0 and distributed.is_main_process():
        recorded = find_recorded(cfg.OUTPUT_DIR)[1] if resume else None
        if recorded is not None:
            seed = recorded.get("SEED", -1)
        if seed < 0:
            seed = int.from_bytes(os.urandom(4), "big") % 2**31
            logger.info("SEED is %d; for this run %d was drawn.", cfg.SEED, seed)
    seed = distributed.broadcast_object(seed)
    torch.manual_seed(seed + distributed.get_rank())
    seeded = cfg.clone()
    seeded.defrost()
    seeded.SEED = seed
    seeded.freeze()
    return seeded


def find_recorded(output_dir: str | Path) -> tuple[Path, CfgNode | None]:
    """Read the settings of the run in a folder: those of config.yaml, or else of its checkpoint.

    A detector's checkpoint holds its settings but for ``OUTPUT_DIR``.

    Returns:
        the file, and its settings; None where neither file has them.

    Raises:
        ValueError: config.yaml is damaged, or no checkpoint is whole.
    """
    file = Path(output_dir, CONFIG_FILE)
    recorded = read_recorded(file) if file.is_file() else None
    newest = None if recorded else Checkpointer(output_dir).latest()
    if newest is None:
        return file, recorded
    contents = read_container(newest, mapped=True)[1]
    detector = contents.get(KEY) if isinstance(contents, dict) else None
    config = detector.get("config") if isinstance(detector, dict) else None
    return (newest, CfgNode(config)) if isinstance(config, dict) else (file, None)


def record_config(cfg: CfgNode) -> None:
    """Write config.yaml, whole or not at all.

    ``MODEL.DEVICE`` is the one that "auto" stands for here: the file tells what was done, and
    detectron2, which reads it too, knows no "auto".
    """
    if distributed.is_main_process():
        recorded = cfg.clone()
        recorded.defrost()
        recorded.MODEL.DEVICE = distributed.choose_device(cfg.MODEL.DEVICE)
        write_text(Path(cfg.OUTPUT_DIR, CONFIG_FILE), recorded.dump())
