"""Run a tool, note in a file what it is doing, and die by SIGKILL where that is asked for.

    MARKS=FILE DIE=POINT:COUNT[:BYTES] victim.py TOOL ARGUMENT ...

POINT is "write" (within the COUNT-th file that torch.save writes, after BYTES), "before" or "after"
(the COUNT-th renaming of a file). Without DIE the tool runs to its end, or until someone kills it.
"""

from __future__ import annotations

import faulthandler
import os
import runpy
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook


def die() -> None:
    """End this process as the kernel ends one that takes too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)


class Mortal:
    """A file within whose writing the process dies.

    Args:
        file: open for writing bytes.
        size: how many bytes still reach it.
    """

    def __init__(self, file: Any, size: int) -> None:
        self._file, self._left = file, size

    def write(self, data: Any) -> int:
        """Write, or write a part and die."""
        part = memoryview(data).cast("B")
        if len(part) > self._left:
            self._file.write(part[: self._left])
            self._file.flush()
            die()
        self._left -= len(part)
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def watch(marks: Path, request: str) -> None:
    """Note what this process does from now on, and die where ``request`` says (see DIE)."""
    descriptor = os.open(marks, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    asked, _, rest = request.partition(":")
    count, _, size = rest.partition(":")
    seen: Counter[str] = Counter()
    phase = "loading"

    def note(name: str, detail: str = "") -> None:
        nonlocal phase
        phase = name
        os.write(descriptor, f"{time.monotonic():.6f} {name} {detail}\n".encode())

    def is_reached(point: str) -> bool:
        seen[point] += 1
        return point == asked and seen[point] == int(count)

    save, replace, set_mode = torch.save, os.replace, nn.Module.train

    def save_noted(contents: Any, file: Any, *others: Any, **options: Any) -> None:
        before = phase
        note("write", Path(getattr(file, "name", "")).name)
        save(contents, Mortal(file, int(size)) if is_reached("write") else file, *others, **options)
        note(before)

    def replace_noted(source: Any, target: Any, **options: Any) -> None:
        before = phase
        note("rename", Path(target).name)
        if is_reached("before"):
            die()
        replace(source, target, **options)
        if is_reached("after"):
            die()
        note(before)

    def set_mode_noted(module: nn.Module, mode: bool = True) -> nn.Module:
        name = "step" if mode else "evaluation"
        if phase != name:
            note(name)
        return set_mode(module, mode)

    note("loading")
    torch.save, os.replace = save_noted, replace_noted
    nn.Module.train = set_mode_noted  # type: ignore[method-assign]
    register_optimizer_step_post_hook(lambda *_: note("step"))


if __name__ == "__main__":
    faulthandler.enable()  # SIGABRT tells where it stands
    watch(Path(os.environ["MARKS"]), os.environ.get("DIE", ""))
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
