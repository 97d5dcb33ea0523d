"""Start the processes of a job: one here, several spawned, or those that torchrun has started."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, start_processes

from resnext_det.files import write_file
from resnext_det.signals import STOP_SIGNALS, end_with_parent, handle_stop
from resnext_det.training.distributed import choose_device, join_group, leave_group
from resnext_det.training.meeting import (
    Meeting,
    ProcessLost,
    check_port,
    explain_loss,
    parse_address,
    tell_failure,
)
from resnext_det.training.threads import fit_threads

ORPHAN_SECONDS = 60.0
"""How long a process may take to finish a step and write a checkpoint after its parent died."""

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_GRACE_SECONDS = 5.0  # for the others to end by themselves after one has failed


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Say how many processes do a job, and where; the base of every job.

    Attributes:
        num_gpus: processes on this machine, one for each GPU; on the CPU, processes too.
        num_machines: how many machines take part.
        machine_rank: the number of this machine, from 0.
        dist_url: where the first process listens, as ``tcp://HOST:PORT``; "auto" finds a free port,
            on one machine.
    """

    num_gpus: int = 1
    num_machines: int = 1
    machine_rank: int = 0
    dist_url: str = "auto"

    @property
    def world_size(self) -> int:
        """Count the processes on all machines."""
        return self.num_gpus * self.num_machines


_ONE = Processes()


def count_processes(processes: Processes) -> int:
    """Count the processes that ``launch`` calls in: those of torchrun, or those asked for."""
    return int(os.environ["WORLD_SIZE"]) if _is_under_torchrun() else processes.world_size


def check_restarts(*, resume: bool) -> None:
    """Refuse a training that torchrun would restart, if it did not go on from its checkpoints.

    Raises:
        ValueError: torchrun has --max-restarts, and the training does not resume.
    """
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) if _is_under_torchrun() else 0
    if restarts > 0 and not resume:
        raise ValueError(
            f"torchrun --max-restarts {restarts} starts a training again that has lost a process, "
            "and that must go on from its newest checkpoint; add --resume, which begins anew in an "
            "empty OUTPUT_DIR"
        )


def _is_under_torchrun() -> bool:
    return all(name in os.environ for name in _TORCHRUN)


@dataclass(frozen=True)
class Advice:
    """Say what a user can do where the machine is too small.

    Attributes:
        gpu: where the GPU's memory is full.
        workers: where the machine's memory is, or the loading processes have too many files open.
    """

    gpu: str
    workers: str


TRAINING = Advice(
    gpu="lower SOLVER.IMS_PER_BATCH, or the size of the images under INPUT, or set "
    "SOLVER.AMP.ENABLED True",
    workers="lower DATALOADER.NUM_WORKERS or SOLVER.IMS_PER_BATCH, and go on from the newest "
    "checkpoint with --resume",
)
TESTING = Advice(
    gpu="lower --batch-size, or add --amp",
    workers="lower --num-workers or --batch-size",
)


def launch(
    main: Callable[..., Any],
    processes: Processes = _ONE,
    *,
    device: str = "cuda",
    args: tuple[Any, ...] = (),
    advice: Advice = TRAINING,
    settings: Mapping[str, Any] | None = None,
    deterministic: bool = False,
) -> Any:
    """Call ``main(*args)`` in every process of a job.

    One process runs here. Several are spawned, so ``main`` and ``args`` have to be picklable; the
    first error of any is raised here, as itself. Under torchrun, which has started the processes,
    ``main`` runs here in its group.

    Each process gets its share of the machine's processors, see ``fit_threads``; one that goes on
    then has its own threads again.

    Args:
        device: "cuda" talks over NCCL and needs the GPUs; "cpu" talks over gloo; for "auto" see
            ``choose_device``.
        advice: ends the errors of ``explain_small_machines``, which covers every process.
        settings: that have to be the same in every process, on all machines, by name.
        deterministic: let torch use deterministic algorithms alone.

    Returns:
        What ``main`` returns in this machine's first process.

    Raises:
        ValueError: fewer GPUs than asked for, machines that cannot find each other or that differ
            in their settings, a port in use, a contradiction with torchrun, or an operation without
            a deterministic algorithm where one is asked for.
        ChildProcessError: a process was killed, or is lost.
        KeyboardInterrupt: the processes were stopped while they were in no step.
    """
    device = choose_device(device)
    call = partial(_call, main, args, advice, deterministic)
    if deterministic:  # cuBLAS reads it when a process first uses a GPU
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if _is_under_torchrun():
        return _run_under_torchrun(call, processes.num_gpus, device, settings)
    _check_request(processes, device)
    if processes.world_size == 1:
        return call()
    try:
        return _spawn(call, processes, device, settings)
    except ProcessExitedException as killed:
        if killed.signal_name in {each.name for each in STOP_SIGNALS}:
            raise KeyboardInterrupt from killed  # Ctrl-C, as it is passed on to the others
        raise ChildProcessError(
            f"{killed}; where that is SIGKILL the machine's memory was full: {advice.workers}"
        ) from killed


def _call(
    main: Callable[..., Any], args: tuple[Any, ...], advice: Advice, deterministic: bool
) -> Any:
    with _restore_settings(), explain_small_machines(advice):
        fit_threads(int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        if deterministic:
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.deterministic = True
        return main(*args)


@contextmanager
def _restore_settings() -> Iterator[None]:
    """Restore torch's threads and choice of algorithms at the end, for the program around a job."""
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    benchmark, cudnn_deterministic = cudnn.benchmark, cudnn.deterministic
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cudnn.benchmark, cudnn.deterministic = benchmark, cudnn_deterministic
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


@contextmanager
def explain_small_machines(advice: Advice = TRAINING) -> Iterator[None]:
    """Turn torch's errors where memory is full into errors that say what to do.

    Raises:
        ValueError: the GPU's memory is full; an operation has no deterministic algorithm.
        ChildProcessError: the machine's memory is full, or too many files are open.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise ValueError(
                f"the GPU's memory is full ({reason}); {advice.gpu}; nvidia-smi shows whether "
                "another program holds some"
            ) from error
        if "does not have a deterministic implementation" in reason:
            raise ValueError(
                f"--deterministic cannot be kept here ({reason.partition(', but you')[0]}); leave "
                "it out, or choose another layer or MODEL.DEVICE cpu"
            ) from error
        if reason.startswith("DataLoader worker"):
            raise ChildProcessError(
                f"{reason}; the machine's memory, or its shared memory (/dev/shm, docker's "
                "--shm-size), was full, or the worker had more files open than ulimit -n allows: "
                f"{advice.workers}"
            ) from error
        raise


def _check_request(processes: Processes, device: str) -> None:
    number, machines, rank = processes.num_gpus, processes.num_machines, processes.machine_rank
    if number < 1 or machines < 1 or not 0 <= rank < machines:
        raise ValueError(
            f"--num-gpus {number} --num-machines {machines} --machine-rank {rank} do not go "
            "together; write 1 GPU or more, 1 machine or more, and a rank from 0 to the number of "
            "machines less 1"
        )
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if torch.device(device).type == "cuda" and number > max(present, 1):
        remedy = f"--num-gpus {present}" if present else "--num-gpus 1 MODEL.DEVICE cpu"
        raise ValueError(
            f"--num-gpus {number}, but torch finds {present} on this machine; write {remedy}"
        )
    if processes.world_size > 1 and device.startswith("cuda:"):
        raise ValueError(
            f"MODEL.DEVICE is {device!r}, but {processes.world_size} processes need a GPU each; "
            "write cuda, which is another one in each"
        )
    if machines > 1 and processes.dist_url == "auto":
        raise ValueError(
            f"--dist-url auto cannot join {machines} machines; write tcp://HOST:PORT of the "
            "machine of rank 0, the same on every machine"
        )
    if processes.world_size > 1 and processes.dist_url != "auto":
        _, port = parse_address(processes.dist_url)
        if rank == 0:
            check_port(port)


def _run_under_torchrun(
    call: Callable[[], Any], num_gpus: int, device: str, settings: Mapping[str, Any] | None
) -> Any:
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    if num_gpus not in (1, local_size):
        raise ValueError(
            f"--num-gpus {num_gpus}, but torchrun started {local_size} processes on this machine; "
            "leave --num-gpus out"
        )
    if torch.distributed.is_initialized():
        return call()
    if "TORCHELASTIC_RUN_ID" in os.environ:  # else a shell may have started it, and may go
        end_with_parent(grace=ORPHAN_SECONDS)
    rank, is_up = int(os.environ["RANK"]), os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    meeting = Meeting(
        host=os.environ["MASTER_ADDR"],
        port=int(os.environ["MASTER_PORT"]),
        rank=rank,
        world_size=int(os.environ["WORLD_SIZE"]),
        local_size=local_size,
        hosted=rank == 0 and not is_up,
        is_up=is_up,
        settings=settings,
    )
    return _call_in_group(call, device, meeting)


def _call_in_group(call: Callable[[], Any], device: str, meeting: Meeting) -> Any:
    """Call within the process group; tell the other processes of an error."""
    store = join_group(device, meeting)
    try:
        with explain_loss(store, meeting.rank, meeting.world_size):
            return call()
    except Exception as error:
        if not isinstance(error, ProcessLost):
            tell_failure(store, meeting.rank, error)
        raise
    finally:
        leave_group()


def _spawn(
    call: Callable[[], Any],
    processes: Processes,
    device: str,
    settings: Mapping[str, Any] | None,
) -> Any:
    """Call in new processes; raise the first error of any, else return the first one's outcome."""
    if processes.dist_url == "auto":
        processes = replace(processes, dist_url=f"tcp://127.0.0.1:{_find_free_port()}")
    with tempfile.TemporaryDirectory() as folder:
        context = start_processes(
            _work,
            args=(call, processes, device, settings, folder),
            nprocs=processes.num_gpus,
            join=False,
            start_method="spawn",
        )
        assert context is not None
        failure = None
        with _forward_signals(context.processes):
            try:
                while not context.join(grace_period=_GRACE_SECONDS):
                    pass
            except (ProcessRaisedException, ProcessExitedException) as raised:
                failure = raised
        paths = sorted(Path(folder).glob("error*"), key=lambda path: path.stat().st_mtime_ns)
        errors = [_unpickle(path) for path in paths]
        # Where one has failed, the others then raise that they have lost their connection.
        causes = [error for error in errors if not isinstance(error, ProcessLost)]
        if causes:
            raise causes[0] from failure  # whose text has the traceback in the other process
        if errors and not isinstance(failure, ProcessExitedException):
            raise errors[0] from failure
        if failure is not None:
            raise failure
        return _unpickle(Path(folder, "outcome"))


def _work(
    index: int,
    call: Callable[[], Any],
    processes: Processes,
    device: str,
    settings: Mapping[str, Any] | None,
    folder: str,
) -> None:
    """Do a spawned process's part; its outcome, or its error, is left in ``folder``."""
    end_with_parent(grace=ORPHAN_SECONDS)
    os.environ.update(LOCAL_RANK=str(index), LOCAL_WORLD_SIZE=str(processes.num_gpus))
    try:
        host, port = parse_address(processes.dist_url)
        rank = processes.machine_rank * processes.num_gpus + index
        meeting = Meeting(
            host=host,
            port=port,
            rank=rank,
            world_size=processes.world_size,
            local_size=processes.num_gpus,
            hosted=rank == 0,
            settings=settings,
        )
        outcome = _call_in_group(call, device, meeting)
        if index == 0:
            Path(folder, "outcome").write_bytes(pickle.dumps(outcome))
    except BaseException as error:
        _leave_error(error, Path(folder, f"error{index}"))
        if not isinstance(error, KeyboardInterrupt):  # an interrupted process has ended in order
            raise


def _leave_error(error: BaseException, path: Path) -> None:
    """Pickle an error, if it survives that, under a name that appears with the whole of it."""
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        return
    write_file(path, lambda file: file.write(data))


def _unpickle(path: Path) -> Any:
    return pickle.loads(path.read_bytes()) if path.is_file() else None


@contextmanager
def _forward_signals(processes: Sequence[BaseProcess]) -> Iterator[None]:
    """Pass what asks to stop on as SIGTERM, after which the processes end in order.

    A second SIGINT kills them at once, those that are stopped or wait for one another too.

    Raises:
        KeyboardInterrupt: after that.
    """
    interrupts = 0

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        if interrupts > 1:
            for process in processes:
                process.kill()
            raise KeyboardInterrupt
        if os.name == "posix":  # elsewhere SIGTERM kills, and Ctrl-C reaches every process
            for process in processes:
                process.terminate()

    with handle_stop(forward):
        yield


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
