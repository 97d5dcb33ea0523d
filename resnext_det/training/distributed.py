"""Let processes train together: their ranks, their messages, their devices.

Every function works without a process group too, as in one process of rank 0. ``processes.py``
starts the processes.
"""

from __future__ import annotations

import functools
import os
import pickle
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from resnext_det.training.meeting import Meeting, explain_loss

_TIMEOUT = timedelta(minutes=30)
_SECONDS_TO_DROP = 0.5  # a message; https://github.com/pytorch/pytorch/pull/154976


def get_world_size() -> int:
    """Get the number of processes that train together."""
    return dist.get_world_size() if _is_initialized() else 1


def get_rank() -> int:
    """Get the number of this process among all, from 0."""
    return dist.get_rank() if _is_initialized() else 0


def get_local_rank() -> int:
    """Get the number of this process on its machine, from 0, which is the index of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0)) if _is_initialized() else 0


def is_main_process() -> bool:
    """Tell whether this is the process that writes files and speaks to the user."""
    return get_rank() == 0


def barrier() -> None:
    """Wait until every process has come here."""
    if get_world_size() > 1:
        dist.barrier(group=_find_cpu_group())


@contextmanager
def run_main_process_first(patience: timedelta) -> Iterator[None]:
    """Let the main process do what is within before the others do.

    Args:
        patience: how long the others wait before they fail; elsewhere that is half an hour.
    """
    if get_world_size() == 1:
        yield
        return
    group: Any = dist.new_group(backend="gloo", timeout=patience)
    if not is_main_process():
        dist.barrier(group=group)
    try:
        yield
    finally:  # after an error too, or the others would wait for nothing
        if is_main_process():
            dist.barrier(group=group)
        dist.destroy_process_group(group)


def gather_objects(value: Any) -> list[Any]:
    """Gather the ``value`` of every process, by rank, in rank 0; elsewhere the list is empty."""
    if get_world_size() == 1:
        return [value]
    gathered: list[Any] | None = [None] * get_world_size() if is_main_process() else None
    dist.gather_object(value, gathered, dst=0, group=_find_cpu_group())
    return gathered or []


def broadcast_object(value: Any) -> Any:
    """Return rank 0's ``value`` in every process."""
    if get_world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_find_cpu_group())
    return box[0]


def all_reduce_mean(values: Mapping[str, float]) -> dict[str, float]:
    """Average each scalar over the processes; all give the same names and get the means."""
    if get_world_size() == 1:
        return dict(values)
    names = sorted(values)
    sums = torch.tensor([values[name] for name in names], dtype=torch.float64)
    dist.all_reduce(sums, group=_find_cpu_group())
    return dict(zip(names, (sums / get_world_size()).tolist()))


def is_any_true(value: bool) -> bool:
    """Tell every process whether ``value`` is true in any of them."""
    if get_world_size() == 1:
        return value
    flag = torch.tensor([int(value)])
    dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=_find_cpu_group())
    return bool(flag.item())


@contextmanager
def fail_together() -> Iterator[None]:
    """Raise in every process what is raised within in one of them.

    Every process enters it and leaves it. Without it the others would wait for the one that failed
    in their next message.

    Raises:
        RuntimeError: another process raised an error that cannot be sent; of others, itself.
    """
    if get_world_size() == 1:
        yield
        return
    own: Exception | None = None
    try:
        yield
    except Exception as error:
        own = error
    if not is_any_true(own is not None):
        return
    errors: list[Any] = [None] * get_world_size()
    dist.all_gather_object(errors, _make_sendable(own), group=_find_cpu_group())
    raise own or next(error for error in errors if error is not None)


def _make_sendable(error: Exception | None) -> Exception | None:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"process {get_rank()} failed: {type(error).__name__}: {error}")
    return error


def divide_batch(total: int, world_size: int) -> int:
    """Divide a batch of ``total`` images among the processes; return the images of each.

    Raises:
        ValueError: the processes cannot have equal shares.
    """
    if total <= 0 or total % world_size != 0:
        near = max(world_size, round(total / world_size) * world_size)
        raise ValueError(
            f"a batch of {total} images does not divide among {world_size} processes; "
            f"set SOLVER.IMS_PER_BATCH to a multiple of {world_size}, as {near}"
        )
    return total // world_size


AUTO = "auto"
"""The name of whatever device is there: cuda where there is a GPU, else cpu."""


def choose_device(name: str = AUTO) -> str:
    """Replace the name "auto" by "cuda" where there is a GPU, else "cpu"; others stay."""
    if name != AUTO:
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_device(name: str, *, setting: str = "MODEL.DEVICE") -> torch.device:
    """Find the torch device of a name: "auto", "cuda", "cuda:1" or "cpu".

    Args:
        name: "cuda" is this process's own GPU; for "auto" see ``choose_device``.
        setting: the key or flag that gave the name, for the errors.

    Raises:
        ValueError: torch does not know the name, the package was not tried on such a device, or the
            machine has no such GPU.
    """
    try:
        kind = torch.device(choose_device(name)).type
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"{setting} is {name!r}, which is no torch device; write auto, cuda or cpu"
        ) from error
    number = str(name).partition(":")[2]  # torch's own index has eight bits: cuda:256 is its cuda:0
    if kind == "cpu":
        if int(number or 0) > 0:
            raise ValueError(f"{setting} is {name!r}, but torch has one CPU device; write cpu")
        return torch.device("cpu")
    if kind != "cuda":
        also = ", which is torch's name of AMD's GPUs too" if kind == "hip" else ""
        raise ValueError(
            f"{setting} is {name!r}, on which this package was never tried; write auto, cpu or "
            f"cuda{also}"
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise ValueError(
            f"{setting} is {name!r}, but torch finds no GPU here; write {setting} cpu, or auto, or "
            "install a driver and a torch that suit your GPU"
        )
    index = int(number) if number else get_local_rank()
    if index >= count:
        raise ValueError(
            f"{setting} is {name!r}, but the last of the {count} GPUs here is cuda:{count - 1}; "
            "write that or a lower number"
        )
    return torch.device("cuda", index)


def distribute(model: nn.Module, device: torch.device) -> nn.Module:
    """Wrap a model so that the processes average their gradients; a single process gets it back.

    Buffers are not broadcast, as in detectron2.
    """
    if get_world_size() == 1:
        return model
    device_ids = [device.index] if device.type == "cuda" else None
    with warnings.catch_warnings():
        # Newer versions of torch call the argument otherwise; older ones know only this name.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
        return DistributedDataParallel(model, device_ids=device_ids, broadcast_buffers=False)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside ``distribute``'s wrapping, which puts ``module.`` before names."""
    return model.module if isinstance(model, DistributedDataParallel) else model


@torch.no_grad()
def average_gradients(model: nn.Module) -> None:
    """Average the gradients of the processes, each of which has added up its own.

    For gradients of the bare model, which ``distribute``'s wrapping has not averaged.
    """
    size = get_world_size()
    if size == 1:
        return
    for parameter in model.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad.div_(size))


def share_buffers(model: nn.Module) -> None:
    """Give every process the first one's buffers.

    Batch norms that are trained (other than SyncBN) have other statistics in each process.
    """
    if get_world_size() == 1:
        return
    shared = broadcast_object([buffer.cpu() for buffer in model.buffers()])
    for buffer, value in zip(model.buffers(), shared):
        buffer.copy_(value)


def join_group(device: str, meeting: Meeting) -> dist.Store:
    """Enter the process group and take this process's GPU; ``leave_group`` undoes it.

    LOCAL_RANK has to be in the environment.

    Args:
        device: "cuda" talks over NCCL, "cpu" over gloo; for "auto" see ``choose_device``.
        meeting: where the processes find one another.

    Returns:
        A store that the processes share.

    Raises:
        ValueError: device "cuda", and there is no GPU for this process; see ``Meeting.gather``.
        ProcessLost: another process ended meanwhile.
    """
    on_gpu = torch.device(choose_device(device)).type == "cuda"
    if on_gpu:
        index = int(os.environ["LOCAL_RANK"])
        if not torch.cuda.is_available() or index >= torch.cuda.device_count():
            raise ValueError(
                f"process {index} of this machine has no GPU: torch finds "
                f"{torch.cuda.device_count()}; start as many processes as there are GPUs, or add "
                "MODEL.DEVICE cpu"
            )
        torch.cuda.set_device(index)
    store = meeting.gather()
    with explain_loss(store, meeting.rank, meeting.world_size):
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            timeout=_TIMEOUT,
            store=dist.PrefixStore("group", store),
            rank=meeting.rank,
            world_size=meeting.world_size,
        )
        barrier()
    return store


def leave_group() -> None:
    """Leave the process group; this process is alone again."""
    _find_cpu_group.cache_clear()
    if torch.__version__ < "2.8":
        # Torch then holds Python's lock while it ends a group and waits for the group's threads.
        # One of them may need that lock to drop the last message: let it do so before.
        time.sleep(_SECONDS_TO_DROP)
    dist.destroy_process_group()


def _is_initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


@functools.cache
def _find_cpu_group() -> Any:
    """Find a group over the CPU: small messages take no GPU memory and wait for no GPU's work."""
    return dist.new_group(backend="gloo") if dist.get_backend() == "nccl" else dist.group.WORLD
