"""Start the processes of tests from a server that has loaded torch, which alone takes seconds.

A process is as new as a spawned one: what it runs is pickled, and it has no threads of torch's.
Tests of spawning itself and of cold starts do without.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import torch.multiprocessing

_LOADED = [
    *("torch", "torchvision", "torch.utils.tensorboard", "pytest", "tests.training.helpers"),
    *("resnext_det.detection.jobs", "resnext_det.detection.portable.engine"),
    *("resnext_det.classification.training", "resnext_det.detection.detectron2.engine"),
]
"""What processes of tests import; the server goes on without what is not installed."""


def get_context() -> ForkServerContext:
    """Return the context of the server, which starts with the first process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LOADED)
    return context


def start_processes(function: Callable[..., None], *, args: tuple[Any, ...], **options: Any) -> Any:
    """Do what ``torch.multiprocessing.start_processes`` does, from the server."""
    get_context()
    options["start_method"] = "forkserver"
    environment = dict(os.environ)  # the server has that of its own start
    return torch.multiprocessing.start_processes(
        _call, args=(environment, function, *args), **options
    )


def _call(
    index: int, environment: dict[str, str], function: Callable[..., None], *args: Any
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    function(index, *args)


class Program:
    """Run a Python file as a program, in a process and a group of processes of its own.

    It has those methods of ``subprocess.Popen`` that tests use.

    Args:
        environment: all of it; of Python's own variables PYTHONIOENCODING is heeded.
        cwd: the working folder.
    """

    def __init__(
        self, file: Path, arguments: list[str], environment: dict[str, str], cwd: Path
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._outputs = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        for path in self._outputs:
            path.touch()
        self._process = get_context().Process(
            target=_run_program, args=(file, arguments, environment, self._outputs, cwd)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, less than 0 after a signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit status; None while it runs."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to the process alone."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL to the process alone."""
        self.send_signal(signal.SIGKILL)

    def peek(self) -> str:
        """Return what it has written so far."""
        return "".join(path.read_text(encoding="utf-8") for path in self._outputs)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; returns what it wrote to stdout and to stderr."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0)
        output, errors = (path.read_text(encoding="utf-8") for path in self._outputs)
        return output, errors


def _run_program(
    file: Path, arguments: list[str], environment: dict[str, str], outputs: list[Path], cwd: Path
) -> None:
    """Make a process like one of a shell's, and run the program in it."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, path in enumerate(outputs, 1):
        with path.open("ab") as written:
            os.dup2(written.fileno(), number)
    encoding, _, errors = environment["PYTHONIOENCODING"].partition(":")
    sys.stdout = os.fdopen(1, "w", encoding=encoding, errors=errors or "strict")
    sys.stderr = os.fdopen(2, "w", encoding=encoding, errors="backslashreplace", buffering=1)
    sys.argv = [str(file), *arguments]
    runpy.run_path(str(file), run_name="__main__")
