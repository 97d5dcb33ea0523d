"""Find image files of the same content, in one set or in several."""

from __future__ import annotations

import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from resnext_det.files import hash_file

MANY_COPIES = 0.05
"""Share of a set's images from which copies of others spoil a training, and are no blemish."""

SEARCH_SECONDS = 10.0
"""How long a page searches for copies."""

_END = 4096  # bytes by which files of one size are told apart before all of them are read


def find_copied_images(
    paths: Sequence[str], *, seconds: float = float("inf")
) -> tuple[list[list[int]], bool]:
    """Find files that are equal to the last byte, under whatever names.

    Files of different sizes are not opened, and of those of one size the ends are compared first,
    so that COCO's images take some seconds. A path that is listed twice is one file; files that
    cannot be read are left out.

    Args:
        paths: of images.
        seconds: after which the search ends.

    Returns:
        groups of indices into ``paths``, in order, and whether all files were compared.
    """
    end = time.monotonic() + seconds
    first_of: dict[str, int] = {}
    for index, path in enumerate(paths):
        first_of.setdefault(os.path.normpath(path), index)
    groups = [list(first_of.values())]
    for read in (os.path.getsize, _read_end, hash_file):
        parts = [_split(group, paths, read, end) for group in groups]
        groups = [group for part in parts for group in part]
    return sorted(groups), time.monotonic() <= end


def unify_files(files: Iterable[Path]) -> dict[Path, str]:
    """Give every file that is there a text: its path, or that of an earlier file equal to it."""
    paths = [str(file) for file in dict.fromkeys(files) if file.is_file()]
    texts = {Path(path): path for path in paths}
    for first, *others in find_copied_images(paths)[0]:
        texts.update({Path(paths[index]): paths[first] for index in others})
    return texts


def _split(
    group: Iterable[int], paths: Sequence[str], read: Callable[[str], Hashable], end: float
) -> list[list[int]]:
    """Split a group by what is read of its files; a file that is alone is left out."""
    parts: dict[Hashable, list[int]] = defaultdict(list)
    for index in group:
        if time.monotonic() > end:
            return []
        with suppress(OSError, ValueError):
            parts[read(paths[index])].append(index)
    return [part for part in parts.values() if len(part) > 1]


def _read_end(path: str) -> bytes:
    with open(path, "rb") as file:
        file.seek(-min(_END, file.seek(0, os.SEEK_END)), os.SEEK_END)
        return hashlib.blake2b(file.read(), digest_size=16).digest()
