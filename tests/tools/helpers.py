"""Run the tools: within this process, or in a process of their own."""

from __future__ import annotations

import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fork_server import Program

ROOT = Path(__file__).parents[2]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def load_tool(tool: str) -> dict[str, Any]:
    """Return the names that a file of tools/ defines."""
    return runpy.run_path(str(ROOT / "tools" / f"{tool}.py"))


def run_tool(tool: str, *arguments: object) -> int:
    """Run a tool within this process; returns its exit status."""
    return load_tool(tool)["main"]([str(argument) for argument in arguments])


def start_tool(
    tool: str,
    *arguments: object,
    program: tuple[str, ...] = (sys.executable,),
    cwd: Path | None = None,
) -> subprocess.Popen[str]:
    """Start a tool in a process, and a group of processes, of its own."""
    return subprocess.Popen(
        [*program, str(ROOT / "tools" / f"{tool}.py"), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=make_environment(),
        cwd=cwd,
        start_new_session=True,
    )


def fork_tool(
    tool: str, *arguments: object, cwd: Path | None = None, **variables: object
) -> Program:
    """Start a tool like ``start_tool``, some seconds sooner, as torch is loaded already.

    Args:
        variables: what is added to the environment.
    """
    file = ROOT / "tools" / f"{tool}.py"
    environment = make_environment() | {name: str(value) for name, value in variables.items()}
    return Program(file, [str(argument) for argument in arguments], environment, cwd or Path.cwd())


def fork_like_torchrun(tool: str, *arguments: object) -> tuple[str, str]:
    """Run a tool in two processes that know what torchrun tells them; returns what they printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
    started = [
        fork_tool(tool, *arguments, RANK=rank, LOCAL_RANK=rank, MASTER_PORT=port, **group)
        for rank in (0, 1)
    ]
    ends = [finish(process) for process in started]
    return "".join(output for output, _ in ends), "".join(errors for _, errors in ends)


def make_environment() -> dict[str, str]:
    """Make the environment of a tool that no launcher has started."""
    hidden = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment.update(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", PYTHONIOENCODING="utf-8")
    environment["PYTHONFAULTHANDLER"] = "1"  # SIGABRT tells where a process stands
    return environment


def finish(process: subprocess.Popen[str] | Program, status: int = 0) -> tuple[str, str]:
    """Wait for a tool that has to end with this status; returns what it printed, and its errors."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == status, output + errors
    return output, errors


def read_error(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line of an error, without "error: "; nothing else was printed."""
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: "), captured
    assert captured.err.count("\n") == 1, captured.err
    return captured.err.removeprefix("error: ")
