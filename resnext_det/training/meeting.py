"""Let the processes of a job find one another: say who is missing, and refuse those that differ."""

from __future__ import annotations

import errno
import functools
import itertools
import json
import logging
import os
import re
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist

from resnext_det.files import list_first

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_TELL_SECONDS = 5.0
_REACH_SECONDS = 10.0
_LINGER_SECONDS = 1.0  # for the others to read why they do not fit
_SHOWN = 4
_meetings: Counter[tuple[str, int, int]] = Counter()  # by host, port and rank


class ProcessLost(ChildProcessError):
    """Tell that another process of the job has ended, or cannot be reached any more."""


@dataclass(frozen=True)
class Meeting:
    """Say where the processes of a job meet, and which one this is.

    Attributes:
        host, port: where a store listens.
        rank, world_size: of this process, and of all.
        local_size: processes of a machine.
        hosted: this process makes the store.
        is_up: torchrun has made the store before it started this process.
        settings: that have to be the same in every process, by name.
        patience: how long to wait for the others.
    """

    host: str
    port: int
    rank: int
    world_size: int
    local_size: int = 1
    hosted: bool = True
    is_up: bool = False
    settings: Mapping[str, Any] | None = None
    patience: timedelta = timedelta(minutes=30)

    def gather(self) -> dist.Store:
        """Wait until every process is here, and return a store that they share.

        The first process of each machine that is there says every few seconds who is missing.

        Raises:
            ValueError: the port is in use; the processes differ in their number or settings; two
                have one rank; not all came in time.
            ProcessLost: the process that makes the store cannot be reached any more.
        """
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        place = (self.host, self.port, self.rank)
        _meetings[place] += 1  # the trainings of several seeds meet one after another
        number = _meetings[place]
        shared = self._open_store()
        try:
            store = dist.PrefixStore(f"resnext_det/{attempt}/{number}", shared)
            self._await_all(store)
        except ValueError:
            if self.hosted:
                time.sleep(_LINGER_SECONDS)
            raise
        except RuntimeError as error:
            raise ProcessLost(
                f"the first process, at {self.host}:{self.port}, cannot be reached any more "
                f"({_shorten(error)}); its own output tells why"
            ) from error
        return store

    def _open_store(self) -> dist.Store:
        if self.hosted:
            return _host_store(self.host, self.port)
        self._await_host()
        try:
            return _make_store(self.host, self.port, hosted=False, timeout=self.patience)
        except RuntimeError as error:
            raise ValueError(
                f"what answers at {self.host}:{self.port} is not the first process of this job "
                f"({_shorten(error)}); write --dist-url tcp://HOST:PORT with a free port of the "
                "machine of rank 0, the same on every machine"
            ) from error

    def _await_host(self) -> None:
        watch = _Watch(self)
        while True:
            try:
                with socket.create_connection((self.host, self.port), timeout=_TELL_SECONDS):
                    return
            except socket.gaierror as error:
                raise ValueError(
                    f"the machine {self.host!r} is not known here ({error.strerror}); write its "
                    "name or address in --dist-url tcp://HOST:PORT"
                ) from error
            except OSError as error:
                if self.is_up and watch.seconds() > _REACH_SECONDS:
                    raise ProcessLost(
                        f"torchrun, which started this process, cannot be reached any more at "
                        f"{self.host}:{self.port} ({error.strerror or error}); start it again, "
                        "with --resume if there is a checkpoint"
                    ) from error
                watch.look([0], f" at {self.host}:{self.port} ({error.strerror or error})")
            time.sleep(_POLL_SECONDS)

    def _await_all(self, store: dist.Store) -> None:
        """Announce this process, and compare it with every other one, as they come."""
        mine = store.add("count", 1)
        settings = {name: repr(value) for name, value in (self.settings or {}).items()}
        me = _Arrival(
            self.rank,
            self.world_size,
            f"{socket.gethostname()}, process id {os.getpid()}",
            {"torch": torch.__version__, **settings},
        )
        store.set(f"arrival/{mine}", json.dumps(vars(me)))
        present: set[int] = set()
        watch = _Watch(self)
        for number in itertools.count(1):
            if len(present) == self.world_size:
                return
            while not store.check([f"arrival/{number}"]):
                watch.look(sorted(set(range(self.world_size)) - present))
                time.sleep(_POLL_SECONDS)
            other = _Arrival(**json.loads(store.get(f"arrival/{number}")))
            if number != mine:
                _compare(*sorted((me, other), key=lambda one: one.rank))
            present.add(other.rank)


@dataclass(frozen=True)
class _Arrival:
    rank: int
    world_size: int
    place: str
    settings: Mapping[str, str]

    def __str__(self) -> str:
        return f"process {self.rank} ({self.place})"


def _compare(one: _Arrival, other: _Arrival) -> None:
    if one.world_size != other.world_size:
        raise ValueError(
            f"{one} belongs to {one.world_size} processes and {other} to {other.world_size}; give "
            "every machine the same --num-machines and --num-gpus"
        )
    if one.rank == other.rank:
        raise ValueError(
            f"two processes have the number {one.rank}: {one.place}, and {other.place}; give each "
            "machine a --machine-rank of its own"
        )
    names = sorted(one.settings.keys() | other.settings.keys())
    values = ((name, one.settings.get(name), other.settings.get(name)) for name in names)
    differing = [f"{name} is {a} and {b}" for name, a, b in values if a != b]
    if differing:
        raise ValueError(
            f"{one} and {other} have different settings: {list_first(differing, _SHOWN)}; start "
            "every machine with the same files, flags and versions"
        )


class _Watch:
    """Tell every few seconds which processes are missing, and give up in the end."""

    def __init__(self, meeting: Meeting) -> None:
        self._meeting = meeting
        self._began = self._told = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def look(self, missing: list[int], more: str = "") -> None:
        meeting, now = self._meeting, time.monotonic()
        machines = sorted({rank // meeting.local_size for rank in missing})
        names = f"process {list_first(map(str, missing), _SHOWN)} of {meeting.world_size}"
        names += f" (machine {list_first(map(str, machines), _SHOWN)}){more}"
        if self.seconds() > meeting.patience.total_seconds():
            raise ValueError(
                f"{names} did not come within {meeting.patience}; start the same command on every "
                "machine, each with its own --machine-rank, and see what the missing ones print"
            )
        first = meeting.rank - meeting.rank % meeting.local_size  # of this machine
        speaks = not set(range(first, meeting.rank)) - set(missing)
        if speaks and now - self._told > _TELL_SECONDS:
            self._told = now
            logger.warning("Waiting for %s, %.0f s so far.", names, self.seconds())


def parse_address(url: str) -> tuple[str, int]:
    """Split ``tcp://HOST:PORT``.

    Raises:
        ValueError: it is none.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # of a port
        host, port = None, None
    if not url.startswith("tcp://") or not host or not port:
        raise ValueError(
            f"--dist-url {url} is no address; write tcp://HOST:PORT, as tcp://node0:29500, with a "
            "port from 1 to 65535"
        )
    return host, port


def check_port(port: int) -> None:
    """Raise ValueError where another program listens on a port of this machine."""
    try:
        with socket.create_server(("", port)):
            pass
    except OSError as error:
        known = {errno.EADDRINUSE: "in use by another program", errno.EACCES: "not permitted"}
        raise ValueError(
            f"port {port} of --dist-url is {known.get(error.errno or 0, error.strerror)} on this "
            "machine; write --dist-url tcp://HOST:PORT with another port, the same on every machine"
        ) from error


@functools.cache
def _host_store(host: str, port: int) -> dist.Store:
    """Make the store, which stays as long as this process: others may leave a group later."""
    check_port(port)
    return _make_store(host, port, hosted=True, timeout=timedelta(minutes=30))


def _make_store(host: str, port: int, *, hosted: bool, timeout: timedelta) -> dist.Store:
    # torch for Windows is built without libuv
    options: dict[str, Any] = {"use_libuv": False} if sys.platform == "win32" else {}
    return dist.TCPStore(
        host, port, is_master=hosted, wait_for_workers=False, timeout=timeout, **options
    )


def tell_failure(store: dist.Store, rank: int, error: BaseException) -> None:
    """Leave the reason why this process ends, for ``explain_loss`` in the others."""
    try:
        store.set(f"failed/{rank}", f"{type(error).__name__}: {error}")
    except RuntimeError:  # the process that made the store is gone
        logger.debug("the others could not be told of %r", error)


@contextmanager
def explain_loss(store: dist.Store, rank: int, world_size: int) -> Iterator[None]:
    """Turn torch's errors where another process has ended into one that says so.

    Raises:
        ProcessLost: in place of an error of a broken connection.
    """
    try:
        yield
    except RuntimeError as error:
        if not _shows_loss(error):
            raise
        reasons = []
        try:
            others = (other for other in range(world_size) if other != rank)
            reasons = [
                f"process {other} failed: {store.get(f'failed/{other}').decode()}"
                for other in others
                if store.check([f"failed/{other}"])
            ]
        except RuntimeError:
            reasons = ["process 0 is gone"]
        reason = list_first(reasons, 1) or "its own output, or log.txt.rankN, may tell why"
        raise ProcessLost(
            f"another process of this job has ended, or cannot be reached ({_shorten(error)}); "
            f"{reason}; a training goes on from its newest checkpoint with --resume"
        ) from error


def _shows_loss(error: RuntimeError) -> bool:
    lost = r"gloo/(transport|rendezvous)|Connection (closed|reset)|Broken pipe|NCCL|Timed? ?out"
    return isinstance(error, dist.DistError) or re.search(lost, str(error)) is not None


def _shorten(error: BaseException) -> str:
    """Take the first sentence of torch's error, without the place in its source."""
    sentence = str(error).partition("\n")[0].partition(". ")[0]
    return re.sub(r"^\[[^\]]*\]\s*", "", sentence).strip()
