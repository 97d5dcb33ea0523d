"""End a process when it is asked to stop, and when the one that started it is gone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""What asks a process to stop: Ctrl-C, a scheduler, and a terminal that is closed."""

_POLL_SECONDS = 0.5


@contextmanager
def handle_stop(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Call ``handler`` with each of ``STOP_SIGNALS`` that comes within.

    SIGHUP stays ignored where nohup has started the process. Signals cannot be caught outside the
    main thread, where nothing changes.
    """
    previous: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in STOP_SIGNALS:
            if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                previous[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before or signal.SIG_DFL)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, as Python does for SIGINT; a handler for the other signals."""
    raise KeyboardInterrupt


def end_with_parent(grace: float = 0.0) -> None:
    """End this process, from now on, when the one that started it is gone, however that ended.

    Call it in a process of ``multiprocessing``, or of a launcher such as torchrun, which on Windows
    is not watched. A thread waits for the parent, so that the process ends within a read that never
    returns too.

    Args:
        grace: seconds between SIGTERM, which may let it end in order, and its end.
    """
    parent, launcher = multiprocessing.parent_process(), os.getppid()
    if parent is None and sys.platform == "win32":  # where the number stays that of one that ended
        return

    def watch() -> None:
        if parent is not None:
            parent.join()
        while parent is None and os.getppid() == launcher:
            time.sleep(_POLL_SECONDS)
        if grace > 0:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(grace)
        os._exit(1)

    threading.Thread(target=watch, name="end_with_parent", daemon=True).start()
