"""The processes of a job, and what a user can do where they were killed or the machine is too small."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.multiprocessing import ProcessExitedException

from resnext_det.training.launch import launch


@dataclass(frozen=True)
class Advice:
    """What a user can do where the machine is too small.

    Attributes:
        gpu: where the GPU's memory is full.
        workers: where the machine's memory is, or the loading processes have too many files open.
    """

    gpu: str
    workers: str


TRAINING = Advice(
    gpu="lower SOLVER.IMS_PER_BATCH, or the size of the images under INPUT, or set SOLVER.AMP.ENABLED True",
    workers="lower DATALOADER.NUM_WORKERS or SOLVER.IMS_PER_BATCH, and go on from the newest checkpoint with --resume",
)
TESTING = Advice(
    gpu="lower --batch-size, or add --amp",
    workers="lower --num-workers or --batch-size",
)


class Processes(Protocol):
    """How many processes do a job, and where: see ``launch``."""

    @property
    def num_gpus(self) -> int: ...
    @property
    def num_machines(self) -> int: ...
    @property
    def machine_rank(self) -> int: ...
    @property
    def dist_url(self) -> str: ...


def launch_job(
    main: Callable[..., Any],
    job: Processes,
    *,
    device: str,
    args: tuple[Any, ...],
    advice: Advice = TRAINING,
) -> Any:
    """``launch`` for a job.

    Raises:
        ChildProcessError: a process was killed.
        KeyboardInterrupt: the processes were stopped while they were in no step.
    """
    try:
        return launch(
            main,
            num_gpus_per_machine=job.num_gpus,
            num_machines=job.num_machines,
            machine_rank=job.machine_rank,
            dist_url=job.dist_url,
            device=device,
            args=args,
        )
    except (ProcessExitedException, RuntimeError) as error:
        # The others then raise that they have lost their connection.
        killed = error if isinstance(error, ProcessExitedException) else error.__cause__
        if not isinstance(killed, ProcessExitedException):
            raise
        if (
            killed.signal_name == "SIGTERM"
        ):  # so Ctrl-C is passed on to processes that are in no step
            raise KeyboardInterrupt from error
        raise ChildProcessError(
            f"{killed}; where that is SIGKILL the machine's memory was full: {advice.workers}"
        ) from error


@contextmanager
def explain_small_machines(advice: Advice = TRAINING) -> Iterator[None]:
    """torch's errors where memory is full become errors that say what to do.

    Raises:
        ValueError: the GPU's memory is full.
        ChildProcessError: the machine's memory is full, or too many files are open.
    """
    try:
        yield
    except RuntimeError as error:
        explained = _explained(error, advice)
        if explained is None:
            raise
        raise explained from error


def _explained(error: RuntimeError, advice: Advice) -> Exception | None:
    reason = str(error).partition("\n")[0]
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return ValueError(
            f"the GPU's memory is full ({reason}); {advice.gpu}; nvidia-smi shows whether another program holds some"
        )
    if reason.startswith("DataLoader worker"):
        return ChildProcessError(
            f"{reason}; the machine's memory, or its shared memory (/dev/shm, docker's --shm-size), was full, or the worker had more files "
            f"open than ulimit -n allows: {advice.workers}"
        )
    return None
