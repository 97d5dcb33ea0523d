"""End runs as terminals, schedulers and launchers do: a closed terminal, SIGTERM, a killed parent.

Each is real: a pseudo terminal that is closed, a signal that the system sends, a disk that is
mounted read-only.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.disks import can_mount, mount
from tests.reliability.kills import KINDS, Killer, is_alive, list_children
from tests.tools.helpers import ROOT, finish, fork_tool, make_environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, closes terminals, mounts"),
]
_SECONDS = 120.0


def wait_for(what: Callable[[], bool], process: Any) -> None:
    """Wait until something is so, while a process runs."""
    deadline = time.monotonic() + _SECONDS
    while not what():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("name", ["portable-spawn", "portable-torchrun"])
def test_processes_end_when_their_launcher_is_killed(tmp_path: Path, name: str) -> None:
    killer = Killer(KINDS[name], tmp_path / "runs", random.Random(0))
    out = tmp_path / "runs" / "out"
    (launcher,) = killer.start(out, [])
    wait_for((out / "model_0000003.pth").exists, launcher)
    family = list_children(launcher.pid)
    assert len(family) >= 2
    killer.end([launcher], [launcher.pid], "launcher")
    assert not killer.result.faults and not any(map(is_alive, family))
    killer.check_left(out)
    killer.finish(killer.start(out, ["--resume"]), out)
    killer.check_end(out)


@pytest.mark.parametrize("name", ["portable", "pretrain"])
def test_a_closed_terminal_leaves_a_checkpoint(tmp_path: Path, name: str) -> None:
    import fcntl
    import termios

    killer = Killer(KINDS[name], tmp_path / "runs", random.Random(0))
    out = tmp_path / "runs" / "out"
    given = [*killer.flags, *killer.changes, "DATALOADER.NUM_WORKERS", "2"]
    given += ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(out)]
    terminal, end = os.openpty()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / f"{killer.kind.tool}.py"), *given],
        stdin=end,
        stdout=end,
        stderr=end,
        env=make_environment(),
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(end)
    closed = threading.Event()

    def read() -> None:
        while not closed.is_set():
            try:
                os.read(terminal, 4096)
            except OSError:  # all that wrote have ended
                return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    first = out / "last_checkpoint"
    wait_for(first.exists, process)
    written = first.read_text()
    closed.set()
    family = list_children(process.pid)
    os.close(terminal)  # the kernel sends SIGHUP
    assert process.wait(_SECONDS) == 130
    assert not any(map(is_alive, family))
    assert first.read_text() >= written
    assert "stopped" not in (out / "log.txt").read_text() or first.read_text() != "model_final.pth"
    killer.finish(killer.start(out, ["--resume"]), out)
    killer.check_end(out)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_predict_in_order(tmp_path: Path, number: signal.Signals) -> None:
    """What it has written is whole; nothing is left over."""
    killer = Killer(KINDS["portable"], tmp_path / "runs", random.Random(0))
    images = tmp_path / "images"
    images.mkdir()
    every = sorted(each for end in ("jpg", "png") for each in killer.folder.rglob(f"*.{end}"))
    for index in range(500):  # more than it detects on before the signal
        path = every[index % len(every)]
        shutil.copy(path, images / f"{index}{path.suffix}")
    output = tmp_path / "predictions"
    given = ("--weights", killer.whole / "model_final.pth", "--score", 0.0, "--output", output)
    process = fork_tool("predict", *given, images, "MODEL.DEVICE", "cpu")
    wait_for(lambda: output.is_dir() and any(path.is_file() for path in output.rglob("*")), process)
    process.send_signal(number)
    _, errors = finish(process, 130)
    assert errors.splitlines()[-1].startswith("stopped") and "Traceback" not in errors
    assert not list(output.rglob("*.partial"))


def test_a_read_only_folder_is_refused_first(tmp_path: Path) -> None:
    if not can_mount():
        pytest.skip("only root can mount a file system")
    killer = Killer(KINDS["portable"], tmp_path / "runs", random.Random(0))
    with mount(tmp_path / "disk", "ro") as disk:
        given = [*killer.flags, "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(disk / "out")]
        _, errors = finish(fork_tool("train_net", *given), 1)
        (last,) = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert str(disk) in last and "write another folder" in last and "Traceback" not in errors
        # An evaluation needs a folder too.
        weights = ("--eval-only", "MODEL.WEIGHTS", killer.whole / "model_final.pth")
        _, errors = finish(fork_tool("train_net", weights[0], *given, *weights[1:]), 1)
        assert "cannot be written to" in errors and "Traceback" not in errors
