"""A training that is asked to stop finishes its step first and leaves a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from resnext_det.training import distributed

_ASKED = b"\nStopping after this step, with a checkpoint. Press Ctrl-C again to stop at once, without one.\n"


class TrainingInterrupted(KeyboardInterrupt):
    """The training was asked to stop and did so in an orderly way, after ``iteration``.

    Attributes:
        checkpoint: the file from which it can be resumed; None where nothing was there to save it.
        iteration: the last finished iteration.
    """

    def __init__(self, checkpoint: Path | None, iteration: int) -> None:
        super().__init__(checkpoint, iteration)
        self.checkpoint = checkpoint
        self.iteration = iteration

    def __str__(self) -> str:
        if self.checkpoint is None:
            return f"the training was stopped after iteration {self.iteration}; no checkpoint was asked for"
        return (
            f"the training was stopped after iteration {self.iteration} and left {self.checkpoint}; "
            "run the same command with --resume to go on from there"
        )


class StopRequest:
    """While entered, SIGINT (Ctrl-C) and SIGTERM only leave a note, which ``is_made`` reads.

    A second SIGINT raises KeyboardInterrupt at once. Outside the main thread signals cannot be caught, and
    nothing changes.
    """

    def __init__(self) -> None:
        self._asked = False
        self._interrupts = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
        self._previous.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt
        if not self._asked and distributed.is_main_process():
            os.write(2, _ASKED)  # logging is not safe within a signal handler
        self._asked = True

    def is_made(self) -> bool:
        """Whether any process of the group was asked to stop: all of them learn it at the same step."""
        return distributed.is_any_true(self._asked)
