"""One file over HTTP, attempt after attempt, each going on where the last one broke off."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Iterator
from errno import ENOSPC
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm import tqdm

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte
_ATTEMPTS = 5  # that brought less than a chunk, one after another
_PAUSE = 1.0  # seconds, doubled from attempt to attempt
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers of a server that may answer otherwise soon
_RANGE_REFUSED = 416


class Broken(Exception):
    """The connection broke, or never was; another attempt may bring the rest."""


class _Stale(Broken):
    """What has come cannot be gone on from; another attempt begins anew."""


class Partial:
    """What has come of a file, ``.partial``, and beside it what tells whether the server still has the same one.

    Args:
        target: path of the file to be.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.partial")
        self._origin_path = target.with_name(f"{target.name}.partial.json")
        self.validator: str | None = None
        self.total: int | None = None
        with contextlib.suppress(
            OSError, ValueError, LookupError, TypeError
        ):  # there is none, or it is damaged
            origin = json.loads(self._origin_path.read_text(encoding="utf-8"))
            self.validator, self.total = origin["validator"], origin["total"]

    @property
    def size(self) -> int:
        """Bytes that have come and can be gone on from."""
        return self.path.stat().st_size if self.validator and self.path.is_file() else 0

    def begin(self, headers: HTTPMessage) -> None:
        """Forget what has come: the server gives the whole file."""
        tag, length = headers.get("ETag", ""), headers.get("Content-Length", "")
        self.validator = tag if tag.startswith('"') else headers.get("Last-Modified")
        self.total = int(length) if length.isdecimal() else None
        self.remove()
        origin = {"validator": self.validator, "total": self.total}
        self._origin_path.write_text(json.dumps(origin), encoding="utf-8")

    def check_part(self, headers: HTTPMessage) -> None:
        """What the server gives must go on where this ends, and be of the same file."""
        tags = [tag for tag in (headers.get("ETag"), self.validator) if tag and tag.startswith('"')]
        if len(set(tags)) > 1 or not headers.get("Content-Range", "").startswith(
            f"bytes {self.size}-"
        ):
            raise _Stale("the server gave another part than it was asked for")

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._origin_path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Give the file its name."""
        self.path.replace(self.target)
        self._origin_path.unlink(missing_ok=True)


def bring(url: str, partial: Partial) -> None:
    """Fetch all of a file that has not come yet.

    Raises:
        FileNotFoundError: the server does not have it, or cannot be reached.
        ValueError: it cannot be written, or the address is not https.
    """
    failures, came = 0, False
    while True:
        before = partial.size
        try:
            return _bring_rest(url, partial)
        except Broken as error:
            if isinstance(error, _Stale):
                partial.remove()
            gained = partial.size - before
            came = came or gained > 0
            failures = 0 if gained >= _CHUNK else failures + 1
            offline = not came and isinstance(error.__cause__, URLError)
            if offline or failures >= _ATTEMPTS:
                raise FileNotFoundError(
                    f"{url} cannot be reached ({error}); connect this machine to the internet, or {by_hand(partial.target)}"
                ) from error
            logger.info("%s: %s; it is tried again.", url, error)
            time.sleep(_PAUSE * 2**failures)


def _bring_rest(url: str, partial: Partial) -> None:
    size = partial.size
    if size and size == partial.total:
        return
    headers = (
        {"Range": f"bytes={size}-", "If-Range": partial.validator}
        if size and partial.validator
        else {}
    )
    with opened(url, headers, partial.target) as response, writing(partial.target):
        if response.status == 206:
            partial.check_part(response.headers)
        else:
            partial.begin(response.headers)
        _write(response, partial)
        size = partial.path.stat().st_size
    if partial.total is not None and size != partial.total:
        kind = _Stale if size > partial.total else Broken
        raise kind(f"the connection broke after {size} of {partial.total} bytes")


def _write(response: HTTPResponse, partial: Partial) -> None:
    size, free = partial.size, shutil.disk_usage(partial.target.parent).free
    if partial.total is not None and partial.total - size > free:
        raise OSError(
            ENOSPC, f"{(partial.total - size) >> 20} MiB are needed and {free >> 20} MiB are free"
        )
    bar = tqdm(
        initial=size,
        total=partial.total,
        desc=partial.target.name,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        disable=None,  # where standard error is no terminal
    )
    with bar, partial.path.open("ab") as file:
        for chunk in _chunks(response):
            file.write(chunk)
            bar.update(len(chunk))


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := response.read1(_CHUNK):  # what is there: a break loses nothing
            yield chunk
    except (OSError, HTTPException) as error:
        raise Broken(f"the connection broke: {error or type(error).__name__}") from error


def opened(url: str, headers: dict[str, str], target: Path | None = None) -> HTTPResponse:
    """The answer of a server.

    Args:
        url: https; http on this machine.
        headers: of the request.
        target: where the file is to be, for the error to say.

    Raises:
        Broken: there is none, and another attempt may help.
        FileNotFoundError: the server does not have it.
        ValueError: the address is not https, or it is redirected to one that is not.
    """
    _check_address(url)
    request = Request(url, headers={"User-Agent": "resnext_det", **headers})
    try:
        response: HTTPResponse = build_opener(_SafeRedirects).open(request, timeout=_TIMEOUT)
    except HTTPError as error:
        error.close()
        answer = f"the server answers {error.code} {error.reason}"
        if error.code in (*_PASSING, _RANGE_REFUSED):
            raise (_Stale if error.code == _RANGE_REFUSED else Broken)(answer) from None
        remedy = f"; {by_hand(target)}" if target else ""
        raise FileNotFoundError(f"{url} cannot be had: {answer}{remedy}") from None
    except URLError as error:
        raise Broken(str(error.reason)) from error
    except (OSError, HTTPException) as error:
        raise Broken(f"the connection broke: {error or type(error).__name__}") from error
    return response


class _SafeRedirects(HTTPRedirectHandler):
    """To https only; from this machine to this machine too."""

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


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the file system refuses becomes an error for the user."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written ({error.strerror or error}); free space there, or name another folder in the environment's "
            "RESNEXT_DET_CACHE"
        ) from error


def by_hand(path: Path) -> str:
    """What to do where there is no network."""
    return f"download it elsewhere and put it at {path}"
