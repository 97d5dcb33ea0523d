"""Files from the internet: resumed where they broke off, verified, and whole or not there at all."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

from resnext_det.files import lock_file
from resnext_det.weights.transfer import Broken, Partial, bring, by_hand, opened, writing

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20


def download(
    url: str,
    path: str | Path,
    *,
    sha256: str | None = None,
    md5_url: str | None = None,
    smallest_size: int = 0,
) -> Path:
    """Bring a file here, unless it is here already.

    What came before the connection broke stays beside ``path`` under ``.partial``: the rest is asked for at once, up to five times,
    and otherwise by the next call, unless the server's file has changed meanwhile. ``path`` appears whole and verified. Processes
    that want one file wait for the one that downloads it. A bar shows the progress on a terminal.

    Args:
        url: https, and redirected to https only; http on this machine.
        path: of the file to be; its folder is made.
        sha256: the first digits of its SHA-256, or all.
        md5_url: of a text that begins with its MD5; where that cannot be had, a warning is logged.
        smallest_size: bytes that it has at least; counts without sha256.

    Raises:
        FileNotFoundError: the file cannot be had, or the network is down; the text says where to put it by hand.
        ValueError: the address is not https; what came is not the file; the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    with lock_download(path):
        if path.is_file():  # another process was faster
            return path
        logger.info("Downloading %s to %s.", url, path)
        partial = Partial(path)
        bring(url, partial)
        try:
            verify(partial.path, sha256=sha256, smallest_size=smallest_size)
            if md5_url:
                _verify_md5(partial.path, md5_url)
        except ValueError as error:
            partial.remove()
            raise ValueError(
                f"what came from {url} is not the file: {error}; try again, or {by_hand(path)}"
            ) from None
        with writing(path):
            partial.finish()
    return path


@contextlib.contextmanager
def lock_download(path: Path) -> Iterator[None]:
    """Let one process at a time make a file of the cache; see ``lock_file``.

    Raises:
        ValueError: the folder cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        with writing(path):
            stack.enter_context(lock_file(path))
        yield


def verify(path: Path, *, sha256: str | None = None, smallest_size: int = 0) -> None:
    """Hold a file to what is known of it: its checksum or, without one, its least size.

    Raises:
        ValueError: it is another file, damaged, cut short or cannot be read; the text says what is wrong.
    """
    try:
        size = path.stat().st_size
        digest = _digest(path, "sha256") if sha256 else ""
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror or error})") from error
    if sha256:
        if not digest.startswith(sha256.lower()):
            raise ValueError(
                f"its SHA-256 begins {digest[: max(8, len(sha256))]}, not {sha256} ({size} bytes)"
            )
    elif size < smallest_size:
        raise ValueError(f"its size is {size} bytes, and it must have {smallest_size} at least")


def _verify_md5(path: Path, url: str) -> None:
    try:
        with opened(url, {}) as response:
            found = re.match(rb"\s*([0-9a-fA-F]{32})\b", response.read(200))
    except (Broken, OSError, HTTPException) as error:
        logger.info("%s: %s", url, error)
        found = None
    if found is None:
        logger.warning("%s gives no MD5: %s is verified by its size alone.", url, path.stem)
        return
    digest, published = _digest(path, "md5"), found[1].decode().lower()
    if digest != published:
        raise ValueError(f"its MD5 is {digest}, not {published}")


def _digest(path: Path, name: str) -> str:
    digest = hashlib.new(name, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
