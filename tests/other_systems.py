"""Let Linux look to the project as Windows or macOS do: the names, the errors, the new processes.

Which names of ``os``, ``signal`` and others a system lacks is read from typeshed, which mypy
brings. Python's own modules and the libraries keep them all: what is tried is what the project asks
of a system, not what a library does there.
"""

from __future__ import annotations

import ast
import builtins
import errno
import functools
import importlib.util
import multiprocessing
import os
import signal
import stat
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

_START_UP = """\
import os, traceback
try:
    from tests import other_systems
    other_systems.install({!r})
except BaseException:  # which Python would pass over
    traceback.print_exc()
    os._exit(99)
"""
_OURS = ("resnext_det", "tools", "__main__")
_WATCHED = ("os", "signal", "sys", "time", "socket", "select", "errno", "resource", "fcntl", "pwd")
_WINDOWS_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGABRT, signal.SIGFPE, signal.SIGSEGV)


def list_names(module: str, system: str) -> set[str]:
    """List the names that a module of Python has on a system ("linux", "win32", "darwin")."""
    spec = importlib.util.find_spec("mypy")
    assert spec is not None and spec.submodule_search_locations is not None
    stubs = Path(spec.submodule_search_locations[0], "typeshed", "stdlib", *module.split("."))
    file = stubs / "__init__.pyi" if stubs.is_dir() else stubs.with_suffix(".pyi")
    return set(_walk(ast.parse(file.read_text(encoding="utf-8")).body, system))


def _walk(body: list[ast.stmt], system: str) -> list[str]:
    """Collect what statements define, following only conditions on system and version."""
    names: list[str] = []
    for node in body:
        if isinstance(node, ast.If):
            test = compile(ast.Expression(node.test), "typeshed", "eval")
            seen = ModuleType("sys")
            seen.platform, seen.version_info = system, sys.version_info  # type: ignore[attr-defined]
            try:
                holds = eval(test, {"sys": seen})
            except NameError:  # TYPE_CHECKING and others
                holds = True
            names += _walk(node.body if holds else node.orelse, system)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
            if node.name == "Signals":  # the module has the enumeration's names too
                names += _walk(node.body, system)  # type: ignore[union-attr]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names += [alias.asname or alias.name for alias in node.names]
    return names


class _View:
    """Show a module without some names, and with others in place of its own."""

    def __init__(self, real: ModuleType, hidden: set[str], changed: dict[str, Any]) -> None:
        self.__dict__["_parts"] = real, hidden, changed

    def __getattr__(self, name: str) -> Any:
        real, hidden, changed = self.__dict__["_parts"]
        if name in changed:
            return changed[name]
        if name in hidden:
            raise AttributeError(f"module {real.__name__!r} has no attribute {name!r}")
        return getattr(real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dict__["_parts"][0], name, value)


def install(system: str) -> None:
    """Show this process's project a system, from its first import on."""
    changed: dict[str, dict[str, Any]] = {"sys": {"platform": system}}
    if system == "darwin":
        changed["fcntl"] = {"F_FULLFSYNC": 51}  # which Linux refuses, as network file systems do
    if system == "win32":
        changed |= {
            "os": {"name": "nt", "open": _open_no_folder, "kill": _kill_at_once},
            "signal": {"signal": _take_a_known_signal},
        }
        for name in ("replace", "rename", "unlink", "remove"):
            setattr(os, name, functools.partial(_change_no_open_file, getattr(os, name)))
    views: dict[str, _View | None] = {}
    for name in _WATCHED:
        names = {other: list_names(name, other) for other in ("linux", system)}
        hidden = names["linux"] - names[system]
        gone = not names[system] - {"sys"} or hidden >= {"fcntl", "flock"}
        views[name] = None if gone else _View(__import__(name), hidden, changed.get(name, {}))
    real_import = builtins.__import__

    def import_for(name: str, globals: Any = None, *others: Any, **more: Any) -> Any:
        ours = str((globals or {}).get("__name__")).partition(".")[0] in _OURS
        if not ours or name.partition(".")[0] not in views:
            return real_import(name, globals, *others, **more)
        found = views[name.partition(".")[0]]
        if found is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return found

    builtins.__import__ = import_for
    multiprocessing.set_start_method("spawn")


def _open_no_folder(path: Any, *args: Any, **options: Any) -> int:
    if os.path.isdir(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    return os.open(path, *args, **options)


def _kill_at_once(pid: int, number: int) -> None:
    """Send a signal; Windows ends the process by every one."""
    os.kill(pid, signal.SIGKILL if number else 0)


def _take_a_known_signal(number: int, handler: Any) -> Any:
    if number not in _WINDOWS_SIGNALS:
        raise ValueError("invalid signal value")
    return signal.signal(number, handler)


def _change_no_open_file(change: Any, *paths: Any, **options: Any) -> None:
    """Rename or remove a file that this process has neither open nor mapped."""
    for path in paths:
        if not options and _is_in_use(os.path.realpath(os.fspath(path))):
            raise PermissionError(errno.EACCES, "used by another process", os.fspath(path))
    change(*paths, **options)


def _is_in_use(path: str) -> bool:
    if not os.path.exists(path) or not stat.S_ISREG(os.stat(path).st_mode):
        return False
    for number in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{number}") == path:
                return True
        except OSError:  # that of the listing itself
            continue
    return path in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")


def make_start_up(folder: Path, system: str) -> dict[str, str]:
    """Write what makes every Python process begin with ``install``; returns its environment."""
    (folder / "sitecustomize.py").write_text(_START_UP.format(system), encoding="utf-8")
    root = Path(__file__).parents[1]
    return {"PYTHONPATH": os.pathsep.join((str(folder), str(root)))}
