"""Stop a training in order: it finishes its step and leaves a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from resnext_det.training import distributed

_ASKED = (
    b"\nStopping after this step, with a checkpoint. "
    b"Press Ctrl-C again to stop at once, without one.\n"
)


class TrainingInterrupted(KeyboardInterrupt):
    """A training that was asked to stop has done so, after finishing ``iteration``.

    Attributes:
        checkpoint: the file to resume from; None where no checkpoints are saved.
        iteration: the last finished iteration.
    """

    def __init__(self, checkpoint: Path | None, iteration: int) -> None:
        super().__init__(checkpoint, iteration)
        self.checkpoint = checkpoint
        self.iteration = iteration

    def __str__(self) -> str:
        stopped = f"the training was stopped after iteration {self.iteration}"
        if self.checkpoint is None:
            return f"{stopped}; no checkpoint was asked for"
        return (
            f"{stopped} and left {self.checkpoint}; run the same command with --resume to go on "
            "from there"
        )


class StopRequest:
    """Catch SIGINT (Ctrl-C) and SIGTERM while entered: they leave a note, which ``is_made`` reads.

    A second SIGINT raises KeyboardInterrupt at once. Outside the main thread signals cannot be
    caught, and nothing changes.
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

    def __exit__(self, *error: object) -> None:
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
        """Tell whether any process of the group was asked to stop; all learn it at one step."""
        return distributed.is_any_true(self._asked)
