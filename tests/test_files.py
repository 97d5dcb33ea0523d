"""Files written whole or not at all, locks between processes, and the folders of the package."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from resnext_det.files import (
    cache_folder,
    escape_unknown_letters,
    format_json,
    list_first,
    lock_file,
    shipped_folder,
    write_file,
    write_text,
)

ROOT = Path(__file__).parents[1]


def test_a_file_is_written_into_a_new_folder_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    for text in ("première\n", "second"):
        write_text(path, text)
        assert path.read_bytes() == text.encode()
        assert list(path.parent.iterdir()) == [path]


def test_bytes_of_a_name_that_is_not_utf_8_become_escapes_that_json_reads(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9 \xc3\xa9.png")
    assert name == "caf\udce9 é.png"
    write_text(tmp_path / "names.json", format_json([name]))
    assert json.loads((tmp_path / "names.json").read_text(encoding="utf-8")) == [name]


SHOW = """
import os, sys
from resnext_det.files import escape_unknown_letters
escape_unknown_letters()
sys.stdout.write("caf\\xe9 \\u7ea2 \\udcff\\n")
sys.stderr.write("caf\\xe9 \\u7ea2 \\udcff\\n")
"""


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", rb"caf\xe9 \u7ea2 \udcff"),
        ("cp1252", rb"caf" + b"\xe9" + rb" \u7ea2 \udcff"),
        ("ascii:strict", rb"caf\xe9 \u7ea2 \udcff"),
        ("utf-8", "café 红 ".encode() + rb"\udcff"),
    ],
)
def test_letters_that_a_console_does_not_know_are_escaped(encoding: str, shown: bytes) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", SHOW], capture_output=True, env=environment, check=True
    )
    assert (done.stdout.strip(), done.stderr.strip()) == (shown, shown)


def test_streams_that_are_closed_take_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has None for them: as after ``>&-``, or in a program without a console."""
    monkeypatch.setattr(sys, "stdout", None)
    escape_unknown_letters()
    sys.stdout.write("lost")
    sys.stdout.close()


def fail_after_some_bytes(file: IO[bytes]) -> None:
    file.write(b"half")
    raise KeyboardInterrupt


def fill_the_disk(file: IO[bytes]) -> None:
    """Write to the device that is always full, in place of the file."""
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, file.fileno())
    os.close(full)
    file.write(b"never stored")


def fill_the_disk_by_torch(file: IO[bytes]) -> None:
    fill_the_disk(file)
    torch.save(torch.zeros(100_000), file)


@pytest.mark.parametrize("before", [None, b"the older file"])
@pytest.mark.parametrize(
    ("write", "error"),
    [
        (fail_after_some_bytes, KeyboardInterrupt),
        (fill_the_disk, OSError),
        (fill_the_disk_by_torch, OSError),
    ],
)
def test_a_failed_writer_changes_nothing(
    tmp_path: Path, before: bytes | None, write: Any, error: type[BaseException]
) -> None:
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(error) as raised:
        write_file(path, write)
    if write is fill_the_disk:
        assert raised.value.errno == errno.ENOSPC  # type: ignore[attr-defined]
        assert str(raised.value).startswith(f"{path} could not be written (No space left on dev")
    assert [other.read_bytes() for other in tmp_path.iterdir()] == ([before] if before else [])


def test_a_pipe_or_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is no file; write the name of one"):
        write_file(tmp_path / "pipe", lambda file: None)
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_target_is_written(tmp_path: Path, there: bool) -> None:
    target, link = tmp_path / "elsewhere" / "file", tmp_path / "link"
    if there:
        target.parent.mkdir()
        target.write_text("the older text")
    link.symlink_to(Path("elsewhere", "file"))
    write_text(link, "text")
    assert link.is_symlink() and not target.is_symlink()
    assert target.read_text() == "text" and os.listdir(target.parent) == ["file"]


def test_a_path_that_can_be_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"is a folder; write the name of a file"):
        write_text(tmp_path, "")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/a/b\.txt cannot be written: a part of it is a file"):
        write_text(tmp_path / "file" / "a" / "b.txt", "")
    assert os.listdir(tmp_path) == ["file"]


def test_the_error_of_torch_is_an_os_error_that_names_the_file(tmp_path: Path) -> None:
    def fail_as_torch_does(file: IO[bytes]) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc] . unexpected pos 64 vs 0")

    with pytest.raises(OSError, match=r"model\.pth could not be written: \[enforce fail"):
        write_file(tmp_path / "model.pth", fail_as_torch_does)
    assert list(tmp_path.iterdir()) == []


def test_bytes_reach_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, n=name, f=real: (calls.append(n), f(*a)))
    write_text(tmp_path / "file", "text")
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder


@pytest.mark.parametrize(
    ("name", "error"), [("open", PermissionError()), ("fsync", OSError(errno.EINVAL, "no folders"))]
)
def test_a_file_is_written_where_folders_cannot_be_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: OSError
) -> None:
    real = getattr(os, name)

    def refuse_folders(what: Any, *others: Any) -> Any:
        if stat.S_ISDIR(os.stat(what).st_mode):
            raise error
        return real(what, *others)

    monkeypatch.setattr(os, name, refuse_folders)
    write_text(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"


MAKE_ONCE = """
import logging, sys
from pathlib import Path
from resnext_det.files import lock_file, write_text
logging.basicConfig(level=logging.INFO)
path = Path(sys.argv[1])
with lock_file(path):
    if path.exists():
        print("found", path.read_text())
    else:
        write_text(path, "made by the other process")
        print("made")
"""


def start_other_process(path: Path) -> subprocess.Popen[str]:
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", MAKE_ONCE, str(path)]
    pipe = subprocess.PIPE
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def test_another_process_waits_and_finds_the_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    with lock_file(path):
        other = start_other_process(path)
        assert other.stderr is not None
        told = other.stderr.readline()  # as it begins to wait
        assert other.poll() is None and not path.exists()
        write_text(path, "made here")
    out, _ = other.communicate(timeout=300)
    assert out == "found made here\n"
    assert f"Waiting for another process that is making {path}." in told
    assert list(path.parent.iterdir()) == [path]  # the lock is gone


def test_a_lock_is_free_after_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(ValueError, match="no such set"), lock_file(path):
        raise ValueError("no such set")
    out, log = start_other_process(path).communicate(timeout=300)
    assert out == "made\n" and "Waiting" not in log


def test_the_cache_is_in_the_home_folder_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_DET_CACHE", "~/elsewhere")
    assert cache_folder() == Path.home() / "elsewhere"
    monkeypatch.setenv("RESNEXT_DET_CACHE", "")
    assert cache_folder() == Path.home() / ".cache" / "resnext_det"


def test_json_has_null_for_what_it_does_not_know() -> None:
    content = {"name": "Käse", "numbers": (1.5, math.nan, [-math.inf]), "none": None, "count": 3}
    text = format_json(content)
    assert "Käse" in text
    assert json.loads(text) == {**content, "numbers": [1.5, None, [None]]}


def test_shipped_folders_are_found() -> None:
    assert list(shipped_folder("configs").glob("faster_rcnn_*.yaml"))
    assert (shipped_folder("tools") / "train_net.py").is_file()


def test_the_first_names_are_listed() -> None:
    assert list_first([]) == ""
    assert list_first("abcde") == "a, b, c, d, e"
    assert list_first(iter("abcdef")) == "a, b, c, d, e and 1 more"
    assert list_first("abc", 1) == "a and 2 more"
