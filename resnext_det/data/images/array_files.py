"""Write and read lists of images: arrays and a JSON header in an .npz file.

A file appears whole or not at all, and reading one runs no code.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Any
from zipfile import BadZipFile

import numpy as np

from resnext_det.data.images.storage import Archive, ArchiveSource, FileSource, PackedPaths
from resnext_det.files import escape_controls, write_file

VERSION = 2
"""Changes with the meaning of what is stored, so that no old file is taken for a new one."""

_HEADER = "header"
_OF_ARCHIVES = ("archive_of_folder", "offsets", "sizes")
# What numpy and zipfile raise on a file that is cut short, damaged or something else.
_DAMAGE = (
    *(ValueError, LookupError, TypeError, ArithmeticError, AttributeError, RuntimeError),
    *(OSError, EOFError, SyntaxError, TokenError, MemoryError, BadZipFile, zlib.error),
)

StoredSource = FileSource | ArchiveSource


def write_arrays(path: Path, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays and a header of what JSON can say.

    Raises:
        OSError: the folder cannot be written to, or the disk is full; nothing is left behind.
    """
    text = json.dumps({"version": VERSION, **header}).encode()
    stored: dict[str, Any] = {_HEADER: np.frombuffer(text, np.uint8), **arrays}
    write_file(path, lambda file: np.savez(file, **stored))


def read_arrays(
    path: Path, *, header_alone: bool = False
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read the header and the arrays that ``write_arrays`` wrote, or the header alone.

    Raises:
        OSError: the file is not there or cannot be read.
        ValueError: it is damaged, or of another version.
    """
    with path.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as stored:
                header = json.loads(stored[_HEADER].tobytes())
                if header["version"] != VERSION:
                    raise ValueError(f"it is of version {header['version']!r}, not {VERSION}")
                names = [] if header_alone else [name for name in stored.files if name != _HEADER]
                return header, {name: stored[name] for name in names}
        except _DAMAGE as error:
            raise ValueError(escape_controls(f"{path} is damaged: {error}")) from error


def pack(source: StoredSource, prefix: str = "") -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Turn a source into a part of a header, and arrays whose names begin with ``prefix``."""
    description: dict[str, Any] = {"root": os.fspath(source.root.absolute())}
    arrays = source.paths.to_arrays(prefix)
    if isinstance(source, ArchiveSource):
        description["archives"] = [[a.name, a.size, a.mtime] for a in source.archives]
        arrays |= {f"{prefix}{name}": getattr(source, name) for name in _OF_ARCHIVES}
    return description, arrays


def unpack(
    description: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    prefix: str = "",
    root: Path | None = None,
) -> StoredSource:
    """Invert ``pack``, and check everything that can be checked.

    Args:
        root: where the files are now; by default where they were.

    Raises:
        ValueError: the arrays contradict each other.
    """
    try:
        root = root or Path(description["root"])
        paths = PackedPaths.from_arrays(arrays, prefix)
        if "archives" not in description:
            return FileSource(root, paths)
        archives = tuple(
            Archive(str(name), int(size), int(mtime))
            for name, size, mtime in description["archives"]
        )
        source = ArchiveSource(root, archives, paths, *(arrays[prefix + n] for n in _OF_ARCHIVES))
    except (LookupError, TypeError) as error:
        raise ValueError(f"a part of it is missing or of another kind ({error})") from error
    source.check()
    return source
