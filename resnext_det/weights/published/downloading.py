"""Download files over https: resumed where they broke off, verified, and whole or not there."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import time
from collections.abc import Iterator
from errno import ENOSPC
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import IO, Any, NoReturn
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm import tqdm

from resnext_det.files import hash_file, lock_file

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte
_PATIENCE, _SLOWEST = 60.0, 1024  # seconds of fewer bytes a second than this end an attempt
_ANSWERING = 60.0  # seconds until the headers of an answer are here
_LARGEST = 16 << 30  # bytes; the largest network's weights, with its momentum, take half of it
_ATTEMPTS = 5  # that brought less than a chunk, one after another
_PAUSE = 1.0  # seconds, doubled from attempt to attempt
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers of a server that may answer otherwise soon
_RANGE_REFUSED = 416


class _Broken(Exception):
    """Say that the connection broke or could not be made; another attempt may succeed."""


class _Stale(_Broken):
    """Say that the partial file cannot be continued; another attempt starts anew."""


def download(
    url: str,
    path: str | Path,
    *,
    sha256: str | None = None,
    md5_url: str | None = None,
    smallest_size: int = 0,
) -> Path:
    """Download a file, unless it is here already.

    What came before a connection broke stays beside ``path`` under ``.partial``; the rest is asked
    for up to five times at once, and by the next call, unless the server's file has changed.
    ``path`` appears whole and verified. Processes that want one file wait for each other. A minute
    under 1 KiB a second counts as a broken connection, and over 16 GiB no file is taken.

    Args:
        url: https, and redirected to https only; http on this machine.
        path: of the file to be; its folder is made.
        sha256: the first digits of its SHA-256, or all.
        md5_url: of a text that begins with its MD5; where that cannot be had, a warning is logged.
        smallest_size: bytes that it has at least; counts without sha256.

    Raises:
        FileNotFoundError: the file cannot be had; the text says where to put it by hand.
        ValueError: the address is not https, what came is not the file or does not end, or it
            cannot be written.
    """
    path = Path(path)
    with lock_download(path):
        if path.is_file():  # another process was faster
            return path
        logger.info("Downloading %s to %s.", url, path)
        partial = _Partial(path)
        _fetch(url, partial)
        try:
            verify(partial.path, sha256=sha256, smallest_size=smallest_size)
            if md5_url:
                _verify_md5(partial.path, md5_url)
        except ValueError as error:
            partial.remove()
            raise ValueError(
                f"what came from {url} is not the file: {error}; try again, or "
                f"{_advise_by_hand(path)}"
            ) from None
        with explain_write_errors(path):
            partial.finish()
    return path


@contextlib.contextmanager
def lock_download(path: Path) -> Iterator[None]:
    """Let one process at a time make a file of the cache; see ``lock_file``.

    Raises:
        ValueError: the folder cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        with explain_write_errors(path):
            stack.enter_context(lock_file(path))
        yield


@contextlib.contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn errors of the file system into a ValueError that says what to do."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written ({error.strerror or error}); free space there, or name "
            "another folder in the environment's RESNEXT_DET_CACHE"
        ) from error


def verify(path: Path, *, sha256: str | None = None, smallest_size: int = 0) -> None:
    """Compare a file with what is known of it: its checksum or, without one, its least size.

    Raises:
        ValueError: it is another file, damaged, cut short or cannot be read.
    """
    try:
        size = path.stat().st_size
        digest = hash_file(path) if sha256 else ""
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror or error})") from error
    if sha256 and not digest.startswith(sha256.lower()):
        raise ValueError(
            f"its SHA-256 begins {digest[: max(8, len(sha256))]}, not {sha256} ({size} bytes)"
        )
    if not sha256 and size < smallest_size:
        raise ValueError(f"its size is {size} bytes, and it must have {smallest_size} at least")


def _verify_md5(path: Path, url: str) -> None:
    found = None
    try:
        with _open_url(url, {}) as response:
            found = re.match(rb"\s*([0-9a-fA-F]{32})\b", response.read(200))
    except (_Broken, OSError, HTTPException) as error:
        logger.info("%s: %s", url, error)
    if found is None:
        logger.warning("%s gives no MD5: %s is verified by its size alone.", url, path.stem)
        return
    digest, published = hash_file(path, "md5"), found[1].decode().lower()
    if digest != published:
        raise ValueError(f"its MD5 is {digest}, not {published}")


class _Partial:
    """Hold a partly downloaded file, ``.partial``, and whether the server still has the same file.

    A note beside it says the server's tag or date, and the size.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.partial")
        self._note = target.with_name(f"{target.name}.partial.json")
        self.validator: str | None = None
        self.total: int | None = None
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            note = json.loads(self._note.read_text(encoding="utf-8"))
            self.validator, self.total = note["validator"], note["total"]

    @property
    def size(self) -> int:
        """Count the bytes of the partial file; 0 where it cannot be continued."""
        return self.path.stat().st_size if self.validator and self.path.is_file() else 0

    def begin(self, headers: HTTPMessage) -> None:
        """Start anew: the server sends the whole file."""
        tag, length = headers.get("ETag", ""), headers.get("Content-Length", "")
        self.validator = tag if tag.startswith('"') else headers.get("Last-Modified")
        self.total = int(length) if length.isdecimal() else None
        self.remove()
        note = {"validator": self.validator, "total": self.total}
        self._note.write_text(json.dumps(note), encoding="utf-8")

    def check_part(self, headers: HTTPMessage) -> None:
        """Refuse a part that does not continue this file."""
        tags = [tag for tag in (headers.get("ETag"), self.validator) if tag and tag.startswith('"')]
        start = f"bytes {self.size}-"
        if len(set(tags)) > 1 or not headers.get("Content-Range", "").startswith(start):
            raise _Stale("the server gave another part than it was asked for")

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def finish(self) -> None:
        """Rename the partial file to the whole one."""
        self.path.replace(self.target)
        self._note.unlink(missing_ok=True)


def _fetch(url: str, partial: _Partial) -> None:
    """Fetch the rest of a file, attempt after attempt."""
    failures, came = 0, False
    while True:
        before = partial.size
        try:
            return _fetch_rest(url, partial)
        except _Broken as error:
            if isinstance(error, _Stale):
                partial.remove()
            gained = partial.size - before
            came = came or gained > 0
            failures = 0 if gained >= _CHUNK else failures + 1
            offline = not came and isinstance(error.__cause__, URLError)
            if offline or failures >= _ATTEMPTS:
                raise FileNotFoundError(
                    f"{url} cannot be reached ({error}); connect this machine to the internet, or "
                    f"{_advise_by_hand(partial.target)}"
                ) from error
            logger.info("%s: %s; it is tried again.", url, error)
            time.sleep(_PAUSE * 2**failures)


def _fetch_rest(url: str, partial: _Partial) -> None:
    size = partial.size
    if size and size == partial.total:
        return
    headers = {}
    if size and partial.validator:
        headers = {"Range": f"bytes={size}-", "If-Range": partial.validator}
    with _open_url(url, headers, partial.target) as response, explain_write_errors(partial.target):
        if response.status == 206:
            partial.check_part(response.headers)
        else:
            partial.begin(response.headers)
        _write(response, partial)
        size = partial.path.stat().st_size
    if partial.total is not None and size != partial.total:
        kind = _Stale if size > partial.total else _Broken
        raise kind(f"the connection broke after {size} of {partial.total} bytes")


def _write(response: HTTPResponse, partial: _Partial) -> None:
    size, free = partial.size, shutil.disk_usage(partial.target.parent).free
    if partial.total is not None and partial.total > _LARGEST:
        _refuse_size(response, partial)
    if partial.total is not None and partial.total - size > free:
        needed = (partial.total - size) >> 20
        raise OSError(ENOSPC, f"{needed} MiB are needed and {free >> 20} MiB are free")
    name, total = partial.target.name, partial.total
    units: Any = {"unit": "B", "unit_scale": True, "unit_divisor": 1024}
    bar = tqdm(desc=name, initial=size, total=total, disable=None, **units)  # on a terminal alone
    began, came = time.monotonic(), 0
    with bar, partial.path.open("ab") as file:
        while chunk := _read_chunk(response):
            file.write(chunk)
            bar.update(len(chunk))
            size, came = size + len(chunk), came + len(chunk)
            if size > (_LARGEST if total is None else total):
                break
            passed = time.monotonic() - began
            if passed >= _PATIENCE:
                if came < _SLOWEST * passed:
                    raise _Broken(f"it gave {came} bytes in {passed:.0f} seconds")
                began, came = time.monotonic(), 0
    if total is None and size > _LARGEST:
        _refuse_size(response, partial)


def _refuse_size(response: HTTPResponse, partial: _Partial) -> NoReturn:
    """Give up a file that does not end, and remove what came: it is a part of no weights."""
    partial.remove()
    raise ValueError(
        f"{response.url} gives over {_LARGEST >> 30} GiB, as no weights have; correct the address, "
        f"or {_advise_by_hand(partial.target)}"
    )


def _read_chunk(response: HTTPResponse) -> bytes:
    try:
        return response.read1(_CHUNK)  # what is there: a break loses nothing
    except (OSError, HTTPException) as error:
        raise _Broken(f"the connection broke: {error or type(error).__name__}") from error


def _open_url(url: str, headers: dict[str, str], target: Path | None = None) -> HTTPResponse:
    """Ask a server; the error says where to put the file, ``target``, by hand.

    Raises:
        _Broken: there is no answer, and another attempt may help.
        FileNotFoundError: the server does not have it.
        ValueError: the address is not https, or it is redirected to one that is not.
    """
    _check_address(url)
    request = Request(url, headers={"User-Agent": "resnext_det", **headers})
    try:
        response = _open_within(request, _ANSWERING)
    except HTTPError as error:
        error.close()
        answer = f"the server answers {error.code} {error.reason}"
        if error.code in (*_PASSING, _RANGE_REFUSED):
            raise (_Stale if error.code == _RANGE_REFUSED else _Broken)(answer) from None
        remedy = f"; {_advise_by_hand(target)}" if target else ""
        raise FileNotFoundError(f"{url} cannot be had: {answer}{remedy}") from None
    except URLError as error:
        raise _Broken(str(error.reason)) from error
    except (OSError, HTTPException) as error:
        raise _Broken(f"the connection broke: {error or type(error).__name__}") from error
    return response


def _open_within(request: Request, seconds: float) -> HTTPResponse:
    """Ask a server, and give up where its headers, which may drip, are not here in time."""
    done: SimpleQueue[HTTPResponse | Exception] = SimpleQueue()

    def ask() -> None:
        try:
            done.put(build_opener(_SafeRedirects).open(request, timeout=_TIMEOUT))
        except Exception as error:
            done.put(error)

    Thread(target=ask, name="ask for a download", daemon=True).start()
    try:
        answer = done.get(timeout=seconds)
    except Empty:
        raise _Broken(f"it gave no whole answer in {seconds:.0f} seconds") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


class _SafeRedirects(HTTPRedirectHandler):
    """Follow redirects to https only; from this machine to this machine too."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
            raise ValueError(
                f"{req.full_url} is redirected to {newurl}, which is not https; download it by hand"
            )
        _check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_address(url: str) -> None:
    parts = urlsplit(url)
    local = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost")
    if parts.scheme != "https" and not local:
        raise ValueError(
            f"{url} is not an https address, and weights are downloaded by https only; give one"
        )


def _advise_by_hand(path: Path) -> str:
    """Say what to do where there is no network."""
    return f"download it elsewhere and put it at {path}"
