"""A stand-in for the Hugging Face hub on this machine: its addresses, headers and errors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "a" * 40
OTHER_COMMIT = "b" * 40


class HubServer:
    """Serves repositories, at ``/OWNER/NAME/resolve/REVISION/FILE``.

    Attributes:
        repositories: name -> revision ("main", a tag or a commit) -> (commit, folder).
        refusals: name -> (status, error code, message) of the hub.
        requests: every "METHOD path" that came.
        cut: the name of a file of which half is sent.
        url: of the server.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, tuple[str, Path]]] = {}
        self.refusals: dict[str, tuple[int, str, str]] = {}
        self.requests: list[str] = []
        self.cut = ""
        self.url = ""

    def add(self, name: str, folder: Path, revision: str = "main", commit: str = COMMIT) -> None:
        revisions = self.repositories.setdefault(name, {})
        revisions[revision] = revisions[commit] = commit, folder

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Answer as the hub: what it says of a path, its headers and the file's bytes."""
        owner, name, *rest = unquote(urlsplit(path).path).lstrip("/").split("/")
        if rest[:1] != ["resolve"]:
            return 404, {}, b""  # what else huggingface_hub asks for
        repository, revision, file = f"{owner}/{name}", "/".join(rest[1:-1]), rest[-1]
        if repository in self.refusals:
            status, code, message = self.refusals[repository]
            return status, {"X-Error-Code": code, "X-Error-Message": message}, b""
        if repository not in self.repositories:
            return 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "not found"}, b""
        found = self.repositories[repository].get(revision)
        if found is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        commit, folder = found
        if not (folder / file).is_file():
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        content = (folder / file).read_bytes()
        tag = hashlib.sha256(content).hexdigest()
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{tag}"'}, content


@contextmanager
def serve() -> Iterator[HubServer]:
    hub = HubServer()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            status, headers, content = hub.answer(self.path)
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                cut = hub.cut and self.path.endswith(hub.cut)
                self.wfile.write(content[: len(content) // 2] if cut else content)

        do_GET = do_HEAD

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        hub.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


def point_to(url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub, which reads its environment when imported, use a server and a cache."""
    constants = pytest.importorskip("huggingface_hub.constants")
    file_download = pytest.importorskip("huggingface_hub.file_download")
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    for module in (constants, file_download):  # before 1.0 the latter has copies of its own
        monkeypatch.setattr(module, "ENDPOINT", url, raising=module is constants)
        name = "HUGGINGFACE_CO_URL_TEMPLATE"
        monkeypatch.setattr(module, name, template, raising=module is constants)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    set_offline(False, monkeypatch)


def set_offline(offline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what HF_HUB_OFFLINE sets when huggingface_hub is imported."""
    from huggingface_hub import constants, utils

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    getattr(utils, "reset_sessions", lambda: None)()  # before 1.0 connections remember it
