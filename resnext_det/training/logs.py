"""Where the messages of a run go: the console, above a progress bar where there is one, and log.txt."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from resnext_det.training import distributed

IN_BAR = "in_progress_bar"
"""Marks a message whose content the progress bar shows."""

_HANDLER = "resnext_det"  # the name of the log handlers that are ours


def setup_logging(
    output_dir: str | Path | None, *, console: bool = True, others: Sequence[str] = ()
) -> logging.Logger:
    """Let the package's messages (INFO and above) go to the console and to ``<output_dir>/log.txt``.

    The console shows the main process alone; the others write ``log.txt.rank1`` and so on. A second call
    replaces what the first has set up. Call it in each process, within the process group.

    Args:
        others: further packages whose messages go there too, and nowhere else.

    Returns:
        The package's logger.
    """
    handlers: list[logging.Handler] = []
    if console and distributed.is_main_process():
        handlers.append(_ConsoleHandler())
    if output_dir is not None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        suffix = "" if distributed.is_main_process() else f".rank{distributed.rank()}"
        handlers.append(logging.FileHandler(Path(output_dir, f"log.txt{suffix}"), encoding="utf-8"))
    for handler in handlers:
        handler.name = _HANDLER
        handler.setFormatter(
            logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt="%m/%d %H:%M:%S")
        )
    package = logging.getLogger(__name__.split(".")[0])
    _replace_handlers(package, handlers)
    for name in others:
        other = logging.getLogger(name)
        _replace_handlers(other, handlers)
        other.propagate = False
    return package


def _replace_handlers(package: logging.Logger, handlers: Sequence[logging.Handler]) -> None:
    package.setLevel(logging.INFO)
    for handler in [handler for handler in package.handlers if handler.name == _HANDLER]:
        package.removeHandler(handler)
        handler.close()
    for handler in handlers:
        package.addHandler(handler)


class _ConsoleHandler(logging.Handler):
    """Writes to today's stdout, above a progress bar where there is one; leaves out what the bar shows."""

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
        except Exception:
            self.handleError(record)
