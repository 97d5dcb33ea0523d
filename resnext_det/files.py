"""Write files whole, format JSON, lock files, and find the folders of the package."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import logging
import math
import os
import re
import reprlib
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

logger = logging.getLogger(__name__)

_PACKAGE = Path(__file__).parent
# All control characters but the ends of lines, tabs, and the codes of colors.
_CONTROLS = re.compile(r"(?!\x1b\[\d*m)[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80

# Folders of systems and tools that are hidden without a dot, in lower case: of macOS's archives,
# Synology, QNAP, Windows, Linux and Python.
_SYSTEM_FOLDERS = {
    *("__macosx", "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),
    *("$recycle.bin", "system volume information", "lost+found", "__pycache__"),
}


def write_file(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file whole or not at all, even through a power cut, replacing an older one.

    A missing folder is made. A half-written file is never seen under ``path``. A symbolic link
    stays, and the file that it leads to is replaced.

    Args:
        path: of the file.
        write: called with a file that is open for writing bytes.

    Raises:
        OSError: the folder cannot be written to or the disk is full; nothing is left behind.
    """
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:  # whose texts name a part of the path
        raise NotADirectoryError(
            f"{path} cannot be written: a part of it is a file; choose another folder"
        ) from error
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; write the name of a file")
    if path.exists() and not path.is_file():  # a device or a pipe, which a file would replace
        raise OSError(f"{path} is no file; write the name of one")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            _sync(file.fileno())
        os.replace(partial, target)
    except OSError as error:
        raise explain_full_disk(error, path) from error
    except RuntimeError as error:  # torch.save raises it where the disk is full
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(target.parent)


def explain_full_disk(error: OSError, path: Path) -> OSError:
    """Name the file and what to do, where the disk is full; return other errors as they are."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    full = OSError(
        f"{path} could not be written ({error.strerror}); make room there, for bytes and for "
        "files, or choose another folder (OUTPUT_DIR)"
    )
    full.errno = error.errno
    return full


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8 as ``write_file`` writes.

    A byte of a file name that is no UTF-8, which Python reads as half a letter, becomes its escape,
    such as \\udcff, which JSON reads as Python does.
    """
    write_file(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def format_json(content: Any) -> str:
    """Format as JSON text; null stands for nan and infinite numbers, which JSON does not know."""
    return json.dumps(_replace_nan(content), indent=2, ensure_ascii=False)


def _replace_nan(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _replace_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_replace_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _sync(descriptor: int) -> None:
    """Flush a file to the disk itself; ``fsync`` of macOS leaves it in the disk's own memory."""
    if sys.platform == "darwin":
        import fcntl

        with contextlib.suppress(OSError):  # network file systems do not know it
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    """Make a new name in a folder survive a power cut, where folders can be opened and flushed.

    They cannot on Windows, on some network file systems, and where the user may not list them.
    """
    if sys.platform == "win32":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Let one process at a time make a file; others wait, and their logs say so.

    A missing folder is made. The lock is a file beside ``path``, with ".lock" after its name.

    Raises:
        OSError: the folder cannot be written to.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("Waiting for another process that is making %s.", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
    with contextlib.suppress(OSError):
        Path(lock.lock_file).unlink()  # those who still wait for it find the file made


def cache_folder() -> Path:
    """Name the folder of downloads: ``$RESNEXT_DET_CACHE``, or ``~/.cache/resnext_det``."""
    return Path(os.environ.get("RESNEXT_DET_CACHE") or "~/.cache/resnext_det").expanduser()


def shipped_folder(name: str) -> Path:
    """Find ``configs`` or ``tools``: inside the installed package, or beside it in a clone."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def is_hidden(name: str) -> bool:
    """Tell a name that systems and tools keep for themselves: .git, ._a.jpg, __MACOSX, @eaDir."""
    return name.startswith(".") or name.casefold() in _SYSTEM_FOLDERS


def find_hidden(path: str) -> str | None:
    """Find the first hidden part of a relative path, with what is above it; None without one.

    "cat/.ipynb_checkpoints/a.jpg" gives "cat/.ipynb_checkpoints".
    """
    parts = path.split("/")
    for number, part in enumerate(parts, 1):
        if part not in (".", "..") and is_hidden(part):
            return "/".join(parts[:number])
    return None


def walk_visible(top: Path, suffixes: Collection[str], *, follow: bool = False) -> list[Path]:
    """List the files of a folder and of those below it, sorted, without what is hidden in it.

    A warning tells of hidden folders, and of hidden files that end in one of ``suffixes``, in lower
    case. With ``follow``, links to folders are followed.
    """
    visible: list[Path] = []
    hidden: list[str] = []
    for folder, below, files in os.walk(top, followlinks=follow):
        visible += (Path(folder, name) for name in files if not is_hidden(name))
        passed_over = [name for name in below if is_hidden(name)]
        below[:] = [name for name in below if not is_hidden(name)]
        passed_over += (
            name
            for name in files
            if is_hidden(name) and os.path.splitext(name)[1].lower() in suffixes
        )
        hidden += (os.path.relpath(os.path.join(folder, name), top) for name in passed_over)
    warn_of_hidden(str(top), hidden)
    return sorted(visible)


def warn_of_hidden(where: str, hidden: Sequence[str]) -> None:
    """Warn that hidden files and folders are passed over, if there are any."""
    if hidden:
        logger.warning(
            "%s: passed over %d hidden files and folders: %s",
            *(where, len(hidden), list_first(sorted(hidden))),
        )


def shorten_path(path: str) -> str:
    """Shorten a path to its last two parts, which are the same on every machine.

    "/home/me/pets/val" gives "pets/val", a name without folders itself, and "A:B:C" each of three.
    """
    no_names = {"", ".", "..", "~"}
    every = ([p for p in each.split("/") if p not in no_names] for each in path.split(":"))
    return ":".join("/".join(parts[-2:]) for parts in every)


def list_first(names: Iterable[str], count: int = 5, *, of: int | None = None) -> str:
    """Join the first names for a message: "a, b, c and 7 more".

    Args:
        of: how many there are, where only the first are given.
    """
    every = list(names)
    left = (len(every) if of is None else of) - count
    return escape_controls(", ".join(every[:count])) + (f" and {left} more" if left > 0 else "")


def show(value: Any) -> str:
    """Show a value of a file in a message: as Python writes it, cut where it is long."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"a {type(value).__name__} that is too long to show"


def hash_file(path: str | Path, algorithm: str = "sha256") -> str:
    """Compute the digest of a file's bytes, in hexadecimal, in little memory.

    Args:
        algorithm: as ``hashlib.new`` names it; for MD5 against damage alone, not against malice.
    """
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def tell_reason(error: Exception) -> str:
    """Tell an error of Python in its words, without its advice to programmers on long integers."""
    return str(error).partition("; use sys.set_int_max_str_digits")[0]


def escape_controls(text: str) -> str:
    """Write control characters as backslash sequences, so that no file steers a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def escape_lines(text: str) -> str:
    """Do what ``escape_controls`` does, and keep the ends of lines."""
    if text.isprintable():
        return text
    return "\n".join(escape_controls(line) for line in text.split("\n"))


class EscapingFormatter(logging.Formatter):
    """Format log messages with control characters escaped: names in files stand in them."""

    def format(self, record: logging.LogRecord) -> str:
        return escape_lines(super().format(record))


def show_log(format: str = "%(levelname)s: %(message)s") -> None:
    """Let the log's warnings appear on stderr, unless the log is set up already."""
    handler = logging.StreamHandler()
    handler.setFormatter(EscapingFormatter(format))
    logging.basicConfig(handlers=[handler])


def escape_beside_colors(text: str) -> str:
    """Write control characters as backslash sequences, and keep ends of lines, tabs and colors."""
    return _CONTROLS.sub(lambda found: escape_controls(found[0]), text)


def escape_unknown_letters() -> None:
    """Let stdout and stderr escape the letters that their encoding lacks, as \\u7ea2, and go on.

    Python raises an error there, also at the end of a long training. A closed stream, which Python
    has as None, becomes one that leads nowhere. Call it in each process before its first output.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
            stream.reconfigure(errors="backslashreplace")
