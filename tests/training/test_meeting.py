"""Test how processes find one another: threads stand for them, each with its own client."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import torch.distributed as dist

from resnext_det.training import meeting
from resnext_det.training.meeting import (
    Meeting,
    ProcessLost,
    check_port,
    explain_loss,
    parse_address,
    tell_failure,
)


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "_TELL_SECONDS", 0.1)
    monkeypatch.setattr(meeting, "_LINGER_SECONDS", 0.2)
    monkeypatch.setattr(meeting, "_POLL_SECONDS", 0.02)


def make(port: int, rank: int, **changed: Any) -> Meeting:
    given = {"world_size": 2, "patience": timedelta(seconds=20), **changed}
    return Meeting(**{"host": "127.0.0.1", "hosted": rank == 0, **given}, port=port, rank=rank)


def gather_all(*meetings: Meeting) -> list[str]:
    """Let them meet at the same time; returns what each raises, or nothing."""

    def gather(one: Meeting) -> str:
        try:
            one.gather()
        except (ValueError, OSError) as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(meetings)) as pool:
        return list(pool.map(gather, meetings))


def test_they_meet_once_and_again(port: int) -> None:
    for _ in range(2):
        assert gather_all(*(make(port, rank, settings={"A": 1}) for rank in (1, 0))) == ["", ""]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"settings": {"SEED": 1, "LR": 2}}, r"different settings: SEED is None and 1; start"),
        ({"world_size": 3}, r"belongs to 2 processes and .* to 3; .*same --num-machines"),
        # By another name of the host, as this process counts the meetings of a rank at an address.
        (
            {"rank": 0, "hosted": False, "host": "localhost"},
            r"two processes have the number 0: .*--machine-rank",
        ),
    ],
)
def test_processes_that_differ(port: int, changed: dict[str, Any], words: str) -> None:
    ours = make(port, 0, settings={"LR": 2})
    other = make(port, **{"rank": 1, "settings": {"LR": 2}, **changed})
    for text in gather_all(ours, other):
        assert re.search(words, text), text


def test_who_is_missing(port: int, caplog: pytest.LogCaptureFixture) -> None:
    alone = make(port, 0, world_size=4, local_size=2, patience=timedelta(seconds=0.3))
    (text,) = gather_all(alone)
    assert "process 1, 2, 3 of 4 (machine 0, 1) did not come within 0:00:00.3" in text
    assert "Waiting for process 1, 2, 3 of 4 (machine 0, 1), 0 s so far." in caplog.text


def test_a_first_process_that_does_not_come(port: int, caplog: pytest.LogCaptureFixture) -> None:
    (text,) = gather_all(make(port, 1, local_size=2, patience=timedelta(seconds=0.5)))
    assert f"process 0 of 2 (machine 0) at 127.0.0.1:{port}" in text and "refused" in text
    assert f"Waiting for process 0 of 2 (machine 0) at 127.0.0.1:{port}" in caplog.text


def test_torchrun_has_ended(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "_REACH_SECONDS", 0.1)
    with pytest.raises(ProcessLost, match=f"torchrun, which .* any more at 127.0.0.1:{port}"):
        make(port, 0, hosted=False, is_up=True).gather()


def test_a_machine_that_is_not_known() -> None:
    with pytest.raises(ValueError, match=r"'no\.such\.machine\.invalid' is not known"):
        Meeting("no.such.machine.invalid", 1, 1, 2, hosted=False).gather()


def test_another_program_at_the_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ValueError, match=rf"port {port} of --dist-url is in use.*another port"):
            check_port(port)
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        (text,) = gather_all(make(port, 1, patience=timedelta(seconds=0.5)))
        assert "is not the first process of this job" in text


def answer(listener: socket.socket) -> None:
    """Close every connection, as a program that expects something else."""
    try:
        while True:
            listener.accept()[0].close()
    except OSError:  # the listener is closed
        pass


@pytest.mark.parametrize("url", ["auto", "tcp://host", "tcp://:1", "tcp://h:0", "tcp://h:99999"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ValueError, match=r"is no address; write tcp://HOST:PORT"):
        parse_address(url)
    assert parse_address("tcp://node0:29500") == ("node0", 29500)


@pytest.fixture
def store() -> Iterator[dist.Store]:
    yield dist.HashStore()


def test_a_process_that_is_lost(store: dist.Store) -> None:
    broken = RuntimeError("[/a/gloo/transport/tcp/pair.cc:5] Connection closed by peer [::1]. Huh")
    with (
        pytest.raises(ProcessLost, match=r"\(Connection closed by peer \[::1\]\); its own output"),
        explain_loss(store, 0, 2),
    ):
        raise broken
    tell_failure(store, 1, ValueError("no images"))
    with (
        pytest.raises(ProcessLost, match=r"process 1 failed: ValueError: no images; a training"),
        explain_loss(store, 0, 2),
    ):
        raise broken
    with pytest.raises(RuntimeError, match=r"^a bug$"), explain_loss(store, 0, 2):
        raise RuntimeError("a bug")
