"""A server of files on this machine that misbehaves as it is told."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class File:
    """Describe what is served under a path.

    Attributes:
        content: its bytes.
        tag: its ETag; None: that of the content; "": none.
        modified: its Last-Modified, or "".
        ranges: parts are served; without, every answer is the whole file.
        if_range: a part is refused where the file has changed; without, the server does not look.
        cuts: how many bytes the answers end after, one after another, before whole answers.
        statuses: what is answered first, one after another.
        form: ``length`` (Content-Length), ``chunked`` or ``close`` (ends with the connection).
        pause: seconds before the second half of an answer.
        redirect: where to, instead.
    """

    content: bytes
    tag: str | None = None
    modified: str = ""
    ranges: bool = True
    if_range: bool = True
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    form: str = "length"
    pause: float = 0.0
    redirect: str = ""

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.content).hexdigest()}"' if self.tag is None else self.tag

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


class Server:
    """Files by path, and the headers of every request that came."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.files: dict[str, File] = {}
        self.requests: list[dict[str, str]] = []

    def add(self, path: str, content: bytes, **options: Any) -> File:
        self.files[path] = File(content, **options)
        return self.files[path]

    def url(self, path: str) -> str:
        return f"{self.address}{path}"

    @property
    def ranges(self) -> list[str | None]:
        """List the part of the file that each request asked for."""
        return [request.get("Range") for request in self.requests]


@contextlib.contextmanager
def run_server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.requests.append(dict(self.headers.items()))
            self.close_connection = True
            file = server.files.get(self.path)
            if file is None:
                self.send_error(404)
            elif file.statuses:
                self.send_error(file.statuses.pop(0))
            elif file.redirect:
                self.send_response(302)
                self.send_header("Location", file.redirect)
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self.give(file)

        def give(self, file: File) -> None:
            start, wanted = 0, self.headers.get("Range")
            validator = self.headers.get("If-Range")
            same = not file.if_range or validator in (file.etag, file.modified)
            if wanted and file.ranges and same:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(file.content):
                    return self.send_error(416)
            body = file.content[start:]
            self.send_response(206 if start else 200)
            if start:
                last = len(file.content) - 1
                self.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
            if file.etag:
                self.send_header("ETag", file.etag)
            if file.modified:
                self.send_header("Last-Modified", file.modified)
            if file.form == "length":
                self.send_header("Content-Length", str(len(body)))
            if file.form == "chunked":
                self.send_header("Transfer-Encoding", "chunked")
            self.send_header("Connection", "close")
            self.end_headers()
            cut = file.cuts.pop(0) if file.cuts else None
            self.write(body[:cut], file, whole=cut is None)

        def write(self, body: bytes, file: File, *, whole: bool) -> None:
            middle = len(body) // 2 if file.pause else 0
            with contextlib.suppress(OSError):  # who asked is gone
                for part in (body[:middle], body[middle:]):
                    if file.pause:
                        time.sleep(file.pause)
                    if part and file.form == "chunked":
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                    else:
                        self.wfile.write(part)
                    self.wfile.flush()
                if whole and file.form == "chunked":
                    self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *arguments: Any) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{listener.server_port}")
    thread = threading.Thread(
        target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()
