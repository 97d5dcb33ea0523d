"""Stop a training in order, on request or after an error: it leaves a checkpoint."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from resnext_det.signals import handle_stop
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
        stopped = "the training was stopped before its first iteration"
        if self.iteration >= 0:
            stopped = f"the training was stopped after iteration {self.iteration}"
        if self.checkpoint is None:
            return f"{stopped} and left no checkpoint"
        return (
            f"{stopped} and left {self.checkpoint}; run the same command with --resume to go on "
            "from there"
        )


class StopAsked(Exception):
    """A wait or an evaluation was left because the training was asked to stop."""


class StopRequest:
    """Catch what asks to stop while entered: it leaves a note, which ``is_made`` reads.

    That is SIGINT (Ctrl-C), SIGTERM, and SIGHUP of a closed terminal. A second SIGINT raises
    KeyboardInterrupt at once. Outside the main thread signals cannot be caught, and nothing
    changes.
    """

    _entered: StopRequest | None = None

    def __init__(self) -> None:
        self._asked = False
        self._waits = False
        self._interrupts = 0
        self._caught = handle_stop(self._note)

    def __enter__(self) -> StopRequest:
        self._caught.__enter__()
        StopRequest._entered = self
        return self

    def __exit__(self, *error: Any) -> None:
        self._caught.__exit__(*error)
        StopRequest._entered = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt
        if not self._asked and distributed.is_main_process():
            with suppress(OSError):  # of a closed terminal
                os.write(2, _ASKED)  # logging is not safe within a signal handler
        self._asked = True
        if self._waits:
            self._waits = False
            raise StopAsked

    def is_made(self) -> bool:
        """Tell whether any process of the group was asked to stop; all learn it at one step."""
        return distributed.is_any_true(self._asked)

    @classmethod
    def is_noted(cls) -> bool:
        """Tell whether this process was asked to stop the training that it is in, if any."""
        return cls._entered is not None and cls._entered._asked

    @classmethod
    @contextmanager
    def leave_waits(cls) -> Iterator[None]:
        """Leave what is within as soon as the training around it is asked to stop, if any is.

        It is for a wait that may never end, as that for a batch. Enter it in ``fail_together``.

        Raises:
            StopAsked: it was.
        """
        request = cls._entered
        if request is None:
            yield
            return
        request._waits = True
        try:
            if request._asked:
                raise StopAsked
            yield
        finally:
            request._waits = False


_END: Any = object()


def leave_if_asked(batches: Iterable[T]) -> Iterator[T]:
    """Pass on the batches of an evaluation, until the training around it is asked to stop.

    Iterate within ``fail_together``.

    Raises:
        StopAsked: it was. The training then saves its state, and evaluates when it is resumed.
    """
    source = iter(batches)
    while True:
        with StopRequest.leave_waits():
            batch = next(source, _END)
        if batch is _END:
            return
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
        TrainingInterrupted: it was left by ``leave_if_asked`` or ``leave_waits``.
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
