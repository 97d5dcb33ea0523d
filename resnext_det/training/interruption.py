"""Stop a training in order, on request or after an error: it leaves a checkpoint."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from resnext_det.training import distributed

logger = logging.getLogger(__name__)

T = TypeVar("T")
SaveState = Callable[[], Path]
"""Save the state after the last finished step; returns the path of the checkpoint."""

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


class StopAsked(Exception):
    """An evaluation was left because the training was asked to stop; see ``leave_if_asked``."""


class StopRequest:
    """Catch SIGINT (Ctrl-C) and SIGTERM while entered: they leave a note, which ``is_made`` reads.

    A second SIGINT raises KeyboardInterrupt at once. Outside the main thread signals cannot be
    caught, and nothing changes.
    """

    _entered: StopRequest | None = None

    def __init__(self) -> None:
        self._asked = False
        self._interrupts = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        StopRequest._entered = self
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
        self._previous.clear()
        StopRequest._entered = None

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

    @classmethod
    def is_noted(cls) -> bool:
        """Tell whether this process was asked to stop the training that it is in, if any."""
        return cls._entered is not None and cls._entered._asked


def leave_if_asked(batches: Iterable[T]) -> Iterator[T]:
    """Pass on the batches of an evaluation, until the training around it is asked to stop.

    Iterate within ``fail_together``.

    Raises:
        StopAsked: it was. The training then saves its state, and evaluates when it is resumed.
    """
    for batch in batches:
        if StopRequest.is_noted():
            raise StopAsked
        yield batch


@contextmanager
def keep_state(iteration: int, save: SaveState | None) -> Iterator[None]:
    """Save a training's state where what is done between its steps fails; every process enters.

    Such as loading a batch whose file is gone, or an evaluation on a full disk. The error says then
    which checkpoint is left. Weights that are not finite (FloatingPointError) are not kept.

    Args:
        iteration: of the last finished step.
        save: None where no step was finished, or nothing is saved.

    Raises:
        TrainingInterrupted: an evaluation was left by ``leave_if_asked``.
        FileNotFoundError, OSError, ValueError: in place of one of that kind, with its text.
    """
    try:
        with distributed.fail_together():
            yield
    except StopAsked:
        raise TrainingInterrupted(save() if save else None, iteration) from None
    except FloatingPointError:
        raise
    except Exception as error:
        if save is None:
            raise
        end = _describe_end(iteration, save)
        kinds = (FileNotFoundError, OSError, ValueError)
        kind = next((kind for kind in kinds if isinstance(error, kind)), None)
        if kind is None:  # a bug keeps its type and traceback
            logger.error("%s: %s; %s", type(error).__name__, error, end)
            raise
        raise kind(f"{error}; {end}") from error


def _describe_end(iteration: int, save: SaveState) -> str:
    """Save the state after an error, and say where it is, or why it could not be saved."""
    stopped = f"the training was stopped after iteration {iteration}"
    try:
        path = save()
    except (OSError, FloatingPointError) as error:
        return f"{stopped}, and its state could not be saved: {error}"
    return f"{stopped} and left {path}: mend this and run the same command with --resume"
