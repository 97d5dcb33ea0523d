"""Start the processes of a training: one here, several spawned, or those that torchrun has started."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, start_processes

from resnext_det.files import write_file
from resnext_det.training.distributed import join_group, leave_group

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_GRACE_SECONDS = 5.0  # for the others to end by themselves after one has failed


def launch(
    main: Callable[..., Any],
    *,
    num_gpus_per_machine: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    device: str = "cuda",
    args: tuple[Any, ...] = (),
) -> Any:
    """Call ``main(*args)`` in every process of a training.

    One process runs here. Several are spawned, so ``main`` and ``args`` have to be picklable; the first
    error of any is raised here, as itself. Under torchrun, which has started the processes, ``main`` runs
    here in its group.

    Args:
        num_gpus_per_machine: processes on this machine, one for each GPU (with device "cpu": processes).
        dist_url: where rank 0 listens, as ``tcp://host:port``; "auto" finds a free port, on one machine.
        device: "cuda" talks over NCCL and needs the GPUs; "cpu" talks over gloo.

    Returns:
        What ``main`` returns in this machine's first process.

    Raises:
        ValueError: fewer GPUs than asked for, machines that cannot find each other, or a contradiction with
            torchrun.
    """
    if all(name in os.environ for name in _TORCHRUN):
        return _run_under_torchrun(main, num_gpus_per_machine, device, args)
    _check_request(num_gpus_per_machine, num_machines, machine_rank, dist_url, device)
    if num_gpus_per_machine * num_machines == 1:
        return main(*args)
    if dist_url == "auto":
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    with tempfile.TemporaryDirectory() as folder:
        job = (
            main,
            args,
            num_gpus_per_machine,
            num_machines,
            machine_rank,
            dist_url,
            device,
            folder,
        )
        context = start_processes(
            _worker, args=job, nprocs=num_gpus_per_machine, join=False, start_method="spawn"
        )
        assert context is not None
        with _forwarding_signals(context.pids()):
            try:
                while not context.join(grace_period=_GRACE_SECONDS):
                    pass
            except (ProcessRaisedException, ProcessExitedException) as failure:
                error = _first_error(folder)
                if error is None:
                    raise
                raise error from failure  # whose text has the traceback in the other process
        error = _first_error(folder)
        if error is not None:
            raise error
        return _outcome(Path(folder, "0"))


def _check_request(
    processes: int, machines: int, machine_rank: int, dist_url: str, device: str
) -> None:
    if processes < 1 or machines < 1 or not 0 <= machine_rank < machines:
        raise ValueError(
            f"--num-gpus {processes} --num-machines {machines} --machine-rank {machine_rank} "
            "do not go together; write 1 GPU or more, 1 machine or more, and a rank from 0 to the number of "
            "machines less 1"
        )
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if torch.device(device).type == "cuda" and processes > max(present, 1):
        remedy = f"--num-gpus {present}" if present else "--num-gpus 1 MODEL.DEVICE cpu"
        raise ValueError(
            f"--num-gpus {processes}, but torch finds {present} on this machine; write {remedy}"
        )
    if machines > 1 and not dist_url.startswith("tcp://"):
        raise ValueError(
            f"--dist-url {dist_url} cannot join {machines} machines; "
            "write tcp://HOST:PORT of the machine of rank 0, the same on every machine"
        )


def _run_under_torchrun(
    main: Callable[..., Any], processes: int, device: str, args: tuple[Any, ...]
) -> Any:
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    if processes not in (1, local_size):
        raise ValueError(
            f"--num-gpus {processes}, but torchrun started {local_size} processes on this machine; "
            "leave --num-gpus out"
        )
    if torch.distributed.is_initialized():
        return main(*args)
    join_group(device, init_method="env://")
    try:
        return main(*args)
    finally:
        leave_group()


def _worker(
    index: int,
    main: Callable[..., Any],
    args: tuple[Any, ...],
    processes: int,
    machines: int,
    machine_rank: int,
    dist_url: str,
    device: str,
    folder: str,
) -> None:
    """One spawned process. What it returns or raises is left in ``folder``, under its number."""
    os.environ.update(LOCAL_RANK=str(index), LOCAL_WORLD_SIZE=str(processes))
    try:
        join_group(
            device,
            init_method=dist_url,
            world_size=processes * machines,
            rank=machine_rank * processes + index,
        )
        outcome = main(*args)
        if index == 0:
            Path(folder, "0").write_bytes(pickle.dumps(outcome))
        leave_group()
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


def _first_error(folder: str) -> BaseException | None:
    paths = list(Path(folder).glob("error*"))
    return _outcome(min(paths, key=lambda path: path.stat().st_mtime_ns)) if paths else None


def _outcome(path: Path) -> Any:
    return pickle.loads(path.read_bytes()) if path.is_file() else None


@contextmanager
def _forwarding_signals(pids: list[int]) -> Iterator[None]:
    """SIGINT and SIGTERM to this process become SIGTERM to its children, which then end in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def forward(number: int, frame: Any) -> None:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                continue

    previous = {
        number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
