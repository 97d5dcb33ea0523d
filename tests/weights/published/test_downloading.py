"""Downloads from a server that misbehaves: broken off, changed, wrong, refused, many at once."""

from __future__ import annotations

import contextlib
import io
import logging
import multiprocessing
import os
import random
import shutil
import socket
import sys
import threading
from collections import namedtuple
from http.client import HTTPMessage
from pathlib import Path
from typing import Any
from urllib.request import Request

import pytest

from resnext_det.weights.published import downloading
from resnext_det.weights.published.downloading import download
from tests.weights.file_server import Server

MEBIBYTE = 1 << 20
CONTENT = random.Random(0).randbytes(3 * MEBIBYTE + 17)
OTHER = random.Random(1).randbytes(3 * MEBIBYTE + 17)
TAG = '"one"'
DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def catch_error(url: str, path: Path, **options: Any) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        download(url, path, **options)
    assert not os.path.exists(path)
    return str(caught.value)


def begin_download(server: Server, path: Path, size: int = MEBIBYTE + 5, **options: Any) -> None:
    """The first bytes are here: the connection broke for good."""
    file = server.add("/file", CONTENT, cuts=[size, 0, 0, 0, 0, 0, 0], **options)
    catch_error(server.url("/file"), path)
    file.cuts.clear()
    server.requests.clear()


@pytest.mark.parametrize("form", ["length", "chunked", "close"])
@pytest.mark.parametrize("size", [0, 1, MEBIBYTE, len(CONTENT)])
def test_a_file_comes_whole_and_nothing_else_stays(
    server: Server, tmp_path: Path, form: str, size: int
) -> None:
    file = server.add("/folder/file.pth", CONTENT[:size], form=form)
    path = tmp_path / "a" / "b" / "file.pth"
    assert download(server.url("/folder/file.pth"), path, sha256=file.sha256) == path
    assert contents(path.parent) == {"file.pth": CONTENT[:size]}
    assert server.requests[0]["User-Agent"] == "resnext_det"


def test_a_file_that_is_here_is_not_asked_for(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"here")
    download(server.url("/file"), tmp_path / "file", sha256="0")
    assert server.requests == []
    assert (tmp_path / "file").read_bytes() == b"here"


@pytest.mark.parametrize("form", ["length", "chunked"])
def test_broken_connections_are_gone_on_from(server: Server, tmp_path: Path, form: str) -> None:
    server.add("/file", CONTENT, cuts=[MEBIBYTE, 0, MEBIBYTE + 100, 50], form=form)
    download(server.url("/file"), tmp_path / "file")
    assert contents(tmp_path) == {"file": CONTENT}
    assert server.ranges == [
        None,
        *[f"bytes={MEBIBYTE}-"] * 2,
        f"bytes={2 * MEBIBYTE + 100}-",
        f"bytes={2 * MEBIBYTE + 150}-",
    ]


def test_random_breaks(server: Server, tmp_path: Path) -> None:
    """However often the connection breaks, while something comes the file comes."""
    drawn = random.Random(2)
    for index in range(20):
        cuts = [drawn.choice([0, 1, 1000, MEBIBYTE, MEBIBYTE + 1]) for _ in range(4)]
        file = server.add(f"/{index}", CONTENT, cuts=cuts)
        download(server.url(f"/{index}"), tmp_path / str(index), sha256=file.sha256)
        assert (tmp_path / str(index)).read_bytes() == CONTENT
    assert len(server.requests) > 60


def test_a_large_file_may_break_more_often(server: Server, tmp_path: Path) -> None:
    """Only attempts that bring next to nothing are counted."""
    content = random.Random(3).randbytes(8 * MEBIBYTE)
    server.add("/file", content, cuts=[MEBIBYTE] * 7)
    download(server.url("/file"), tmp_path / "file")
    assert contents(tmp_path) == {"file": content}
    assert len(server.requests) == 8


def test_the_next_call_goes_on(server: Server, tmp_path: Path) -> None:
    begin_download(server, tmp_path / "file")
    assert len((tmp_path / "file.partial").read_bytes()) == MEBIBYTE + 5
    download(server.url("/file"), tmp_path / "file")
    assert server.ranges == [f"bytes={MEBIBYTE + 5}-"]
    assert server.requests[0]["If-Range"] == server.files["/file"].etag
    assert contents(tmp_path) == {"file": CONTENT}


def test_an_interrupt_keeps_what_came(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = server.add("/file", CONTENT)
    with monkeypatch.context() as patch:
        patch.setattr(
            downloading.tqdm, "update", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            download(server.url("/file"), tmp_path / "file")
    assert not (tmp_path / "file").exists()
    came = len((tmp_path / "file.partial").read_bytes())
    assert came > 0
    download(server.url("/file"), tmp_path / "file", sha256=file.sha256)
    assert server.ranges == [None, f"bytes={came}-"]


@pytest.mark.parametrize(
    "options",
    [
        {"tag": TAG},
        {"tag": "", "modified": DATE},
        {"tag": 'W/"weak"', "modified": DATE},
    ],
    ids=["tag", "date", "weak tag"],
)
def test_a_changed_file_begins_anew(
    server: Server, tmp_path: Path, options: dict[str, str]
) -> None:
    begin_download(server, tmp_path / "file", **options)
    changed = (
        {"tag": '"two"'}
        if options["tag"] == TAG
        else {**options, "modified": DATE.replace("2015", "2016")}
    )
    server.add("/file", OTHER, **changed)
    download(server.url("/file"), tmp_path / "file")
    assert contents(tmp_path) == {"file": OTHER}
    assert server.requests[0]["If-Range"] == (TAG if options["tag"] == TAG else DATE)
    assert len(server.requests) == 1


def test_a_server_that_does_not_look_whether_the_file_changed(
    server: Server, tmp_path: Path
) -> None:
    begin_download(server, tmp_path / "file", tag=TAG)
    server.add("/file", OTHER, tag='"two"', if_range=False)
    download(server.url("/file"), tmp_path / "file")
    assert contents(tmp_path) == {"file": OTHER}
    assert server.ranges == [f"bytes={MEBIBYTE + 5}-", None]


@pytest.mark.parametrize(
    "options",
    [{"ranges": False}, {"tag": ""}, {"tag": 'W/"weak"'}],
    ids=["no parts", "no tag", "weak tag"],
)
def test_a_server_that_cannot_go_on_begins_anew(
    server: Server, tmp_path: Path, options: dict[str, Any]
) -> None:
    server.add("/file", CONTENT, cuts=[MEBIBYTE, 2 * MEBIBYTE], **options)
    download(server.url("/file"), tmp_path / "file")
    assert contents(tmp_path) == {"file": CONTENT}
    assert len(server.requests) == 3


def test_a_file_that_became_longer_under_its_tag(server: Server, tmp_path: Path) -> None:
    begin_download(server, tmp_path / "file", tag=TAG)
    server.add("/file", OTHER + b"more", tag=TAG)
    download(server.url("/file"), tmp_path / "file")
    assert contents(tmp_path) == {"file": OTHER + b"more"}
    assert server.ranges == [f"bytes={MEBIBYTE + 5}-", None]


def test_a_file_that_became_shorter(server: Server, tmp_path: Path) -> None:
    """The server refuses the part beyond its end."""
    begin_download(server, tmp_path / "file", tag=TAG)
    server.add("/file", OTHER[:1000], tag=TAG)
    download(server.url("/file"), tmp_path / "file")
    assert contents(tmp_path) == {"file": OTHER[:1000]}
    assert server.ranges == [f"bytes={MEBIBYTE + 5}-", None]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"validator": 1}', b"\xff"])
def test_damaged_notes_begin_anew(server: Server, tmp_path: Path, damage: bytes) -> None:
    begin_download(server, tmp_path / "file")
    (tmp_path / "file.partial.json").write_bytes(damage)
    download(server.url("/file"), tmp_path / "file")
    assert contents(tmp_path) == {"file": CONTENT}
    assert server.ranges == [None]


def test_a_wrong_file_does_not_stay(server: Server, tmp_path: Path) -> None:
    file = server.add("/file", OTHER)
    error = catch_error(server.url("/file"), tmp_path / "file", sha256="0123abcd")
    assert f"its SHA-256 begins {file.sha256[:8]}, not 0123abcd" in error
    assert f"put it at {tmp_path / 'file'}" in error and server.url("/file") in error
    assert set(contents(tmp_path)) <= {"file.lock"}


def test_what_was_damaged_on_disk_does_not_stay(server: Server, tmp_path: Path) -> None:
    begin_download(server, tmp_path / "file")
    (tmp_path / "file.partial").write_bytes(OTHER[: MEBIBYTE + 5])
    sha256 = server.files["/file"].sha256
    assert "its SHA-256 begins" in catch_error(
        server.url("/file"), tmp_path / "file", sha256=sha256
    )
    download(server.url("/file"), tmp_path / "file", sha256=sha256)
    assert contents(tmp_path) == {"file": CONTENT}


def test_an_answer_whose_end_nobody_can_tell(server: Server, tmp_path: Path) -> None:
    """Without a length, a break looks like the end of the file: the checksum or the size tells."""
    file = server.add("/file", CONTENT, form="close", cuts=[1000, 1000])
    assert "not the file" in catch_error(server.url("/file"), tmp_path / "file", sha256=file.sha256)
    error = catch_error(server.url("/file"), tmp_path / "file", smallest_size=len(CONTENT))
    assert f"its size is 1000 bytes, and it must have {len(CONTENT)} at least" in error
    download(server.url("/file"), tmp_path / "file", smallest_size=len(CONTENT))


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_file_that_the_server_does_not_have(server: Server, tmp_path: Path, status: int) -> None:
    server.add("/file", CONTENT, statuses=[status])
    error = catch_error(server.url("/file"), tmp_path / "file")
    assert f"{server.url('/file')} cannot be had: the server answers {status}" in error
    assert f"put it at {tmp_path / 'file'}" in error
    assert len(server.requests) == 1


def test_a_server_that_is_busy_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.add("/file", CONTENT, statuses=[503, 429, 500, 502])
    download(server.url("/file"), tmp_path / "file")
    assert contents(tmp_path) == {"file": CONTENT}
    server.add("/other", CONTENT, statuses=[503] * 9)
    assert "the server answers 503" in catch_error(server.url("/other"), tmp_path / "other")
    assert len(server.requests) == 5 + 5


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/file", "https://weights.invalid/file"])
def test_offline_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(downloading.time, "sleep", lambda _: pytest.fail("it was tried again"))
    path = tmp_path / "file"
    error = catch_error(url, path)
    assert error.startswith(f"{url} cannot be reached (")
    assert error.endswith(
        f"connect this machine to the internet, or download it elsewhere and put it at {path}"
    )


def test_a_server_that_falls_silent(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "_TIMEOUT", 0.2)
    file = server.add("/file", CONTENT, pause=1.0)
    threading.Timer(0.5, lambda: setattr(file, "pause", 0)).start()
    download(server.url("/file"), tmp_path / "file", sha256=file.sha256)
    assert len(server.requests) > 1


def test_a_server_that_drips(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "_PATIENCE", 0.1)
    monkeypatch.setattr(downloading, "_SLOWEST", 1 << 20)
    server.add("/file", CONTENT[:400], pause=0.15)
    error = catch_error(server.url("/file"), tmp_path / "file")
    assert "cannot be reached (it gave " in error and "bytes in 0 seconds" in error
    came = (tmp_path / "file.partial").read_bytes()
    assert 200 < len(came) < 400 and CONTENT.startswith(came)
    assert len(server.requests) == 5  # each went on from the one before


def test_headers_that_drip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "_ANSWERING", 0.1)
    monkeypatch.setattr(downloading, "_ATTEMPTS", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not done.wait(0.02):
                    connection.sendall(b"x")

        done = threading.Event()
        threading.Thread(target=drip, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/file"
        error = catch_error(url, tmp_path / "file")
        done.set()
    assert "cannot be reached (it gave no whole answer in 0 seconds)" in error


@pytest.mark.parametrize("form", ["length", "chunked", "close"])
def test_a_file_without_end_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(downloading, "_LARGEST", MEBIBYTE)
    server.add("/file", CONTENT, form=form)
    error = catch_error(server.url("/file"), tmp_path / "file")
    assert "GiB, as no weights have" in error
    assert contents(tmp_path) == {"file.lock": b""}
    assert len(server.requests) == 1


def _download_in_process(url: str, path: Path, sha256: str, results: Any) -> None:
    results.put(download(url, path, sha256=sha256).read_bytes() == CONTENT)


def test_processes_that_want_one_file_download_it_once(server: Server, tmp_path: Path) -> None:
    file = server.add("/file", CONTENT, pause=0.2)
    context = multiprocessing.get_context("fork")
    results: Any = context.Queue()
    arguments = (server.url("/file"), tmp_path / "file", file.sha256, results)
    processes = [context.Process(target=_download_in_process, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    assert all(results.get(timeout=300) for _ in processes)
    for process in processes:
        process.join()
    assert len(server.requests) == 1
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_threads_that_want_one_file_download_it_once(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.add("/file", CONTENT, pause=0.1)
    caplog.set_level(logging.INFO)
    threads = [
        threading.Thread(target=download, args=(server.url("/file"), tmp_path / "file"))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert f"Waiting for another process that is making {tmp_path / 'file'}." in caplog.text


def test_a_folder_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    error = catch_error(server.url("/x"), tmp_path / "file" / "cache" / "x")
    assert "cannot be written (Not a directory); free space there, or name another folder" in error
    assert "RESNEXT_DET_CACHE" in error
    assert server.requests == []


def _error_of_nobody(url: str, path: Path, results: Any) -> None:
    if os.geteuid() == 0:  # who may write everywhere
        os.setuid(65534)
    results.put(catch_error(url, path))


def test_a_folder_without_permission(server: Server, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results: Any = context.Queue()
    tmp_path.chmod(0o555)
    try:
        process = context.Process(
            target=_error_of_nobody, args=(server.url("/x"), tmp_path / "a" / "x", results)
        )
        process.start()
        assert "cannot be written (Permission denied)" in results.get(timeout=300)
        process.join()
    finally:
        tmp_path.chmod(0o755)
    assert server.requests == []


def test_a_file_that_may_not_be_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    server.add("/file", CONTENT)
    monkeypatch.setattr(Path, "open", refused)
    assert "cannot be written (Permission denied)" in catch_error(
        server.url("/file"), tmp_path / "file"
    )


def test_a_disk_without_room_is_found_before(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    begin_download(server, tmp_path / "file", 2 * MEBIBYTE)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 100))
        error = catch_error(server.url("/file"), tmp_path / "file")
    assert "cannot be written (1 MiB are needed and 0 MiB are free)" in error
    download(server.url("/file"), tmp_path / "file")
    assert server.ranges == [f"bytes={2 * MEBIBYTE}-"] * 2
    assert contents(tmp_path) == {"file": CONTENT}


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="this system has no disk that is always full"
)
def test_a_disk_that_fills_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("/file", CONTENT)
    opened = Path.open

    def full(path: Path, mode: str = "r", **options: Any) -> Any:
        return opened(Path("/dev/full") if mode == "ab" else path, mode, **options)

    monkeypatch.setattr(Path, "open", full)
    error = catch_error(server.url("/file"), tmp_path / "file")
    assert "cannot be written (No space left on device); free space there" in error
    assert len(server.requests) == 1


def test_redirects_keep_the_part_asked_for(server: Server, tmp_path: Path) -> None:
    file = server.add("/file", CONTENT, cuts=[MEBIBYTE])
    server.add("/link", b"", redirect="/file")
    download(server.url("/link"), tmp_path / "file", sha256=file.sha256)
    assert server.ranges == [None, None, f"bytes={MEBIBYTE}-", f"bytes={MEBIBYTE}-"]


@pytest.mark.parametrize(
    "address",
    ["http://example.org/file", "file:///etc/hostname", "ftp://127.0.0.1/file", "data:,text"],
)
def test_only_https_is_followed(server: Server, tmp_path: Path, address: str) -> None:
    expected = "not an https address"
    assert f"{address} is {expected}" in catch_error(address, tmp_path / "file")
    server.add("/link", b"", redirect=address)
    error = catch_error(server.url("/link"), tmp_path / "file")
    assert expected in error or "302" in error  # urllib itself refuses other than http and ftp
    assert len(server.requests) == 1


def test_https_is_not_left() -> None:
    """Not even for this machine."""
    redirects = downloading._SafeRedirects()
    request = Request("https://example.org/file", headers={"Range": "bytes=5-"})
    with pytest.raises(
        ValueError, match=r"redirected to http://127.0.0.1/file, which is not https"
    ):
        redirects.redirect_request(
            request, io.BytesIO(), 302, "Found", HTTPMessage(), "http://127.0.0.1/file"
        )
    followed = redirects.redirect_request(
        request, io.BytesIO(), 302, "Found", HTTPMessage(), "https://other.org/file"
    )
    assert followed is not None and followed.get_header("Range") == "bytes=5-"


def test_the_publishers_md5(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = server.add("/file", CONTENT)
    digest = file.etag.strip('"')
    server.add("/right", f"{digest}  file\n".encode())
    server.add("/wrong", b"0123456789abcdef0123456789abcdef")
    server.add("/page", b"<html>")
    download(server.url("/file"), tmp_path / "right", md5_url=server.url("/right"))
    assert not caplog.records
    error = catch_error(server.url("/file"), tmp_path / "wrong", md5_url=server.url("/wrong"))
    assert f"its MD5 is {digest}, not 0123456789abcdef0123456789abcdef" in error
    for path in ("/page", "/nowhere"):
        download(server.url("/file"), tmp_path / path[1:], md5_url=server.url(path))
        assert (
            f"{server.url(path)} gives no MD5: {path[1:]} is verified by its size alone"
            in caplog.text
        )


def test_progress_is_shown_on_a_terminal_alone(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        terminal = True

        def isatty(self) -> bool:
            return self.terminal

    server.add("/file", CONTENT)
    for terminal in (True, False):
        stream = Terminal()
        stream.terminal = terminal
        monkeypatch.setattr(sys, "stderr", stream)
        download(server.url("/file"), tmp_path / f"file{terminal}")
        assert ("fileTrue: 100%" in stream.getvalue()) == terminal
    assert stream.getvalue() == ""


def test_verify_takes_a_part_of_a_checksum_in_any_case(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")  # whose SHA-256 FIPS 180-2 gives
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    for known in (digest, digest[:8], digest.upper()):
        downloading.verify(path, sha256=known, smallest_size=10**9)
    with pytest.raises(ValueError, match=r"its SHA-256 begins ba7816bf, not ba7816be \(3 bytes\)"):
        downloading.verify(path, sha256="ba7816be")
    with pytest.raises(ValueError, match=r"it cannot be read \(Is a directory\)"):
        downloading.verify(tmp_path, sha256="ba7816be")
