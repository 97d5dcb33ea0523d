"""Where the entries of a zip archive lie. Only uncompressed ones are admitted, as ``torch.save`` writes them: none can be a bomb."""

from __future__ import annotations

import struct
import zipfile
from io import BufferedReader
from typing import NamedTuple

from resnext_det.weights.limits import AGAIN, Unreadable, read_exactly

_LARGEST_DIRECTORY = 2 << 20
_LOCAL_HEADER = struct.Struct("<4s22x2H")


class Entry(NamedTuple):
    """Where an entry's bytes lie in the file."""

    start: int
    size: int


class _Limited:
    """A file whose reader cannot take more memory than a directory of some 20,000 entries needs."""

    def __init__(self, file: BufferedReader) -> None:
        self.seek = file.seek
        self.tell = file.tell
        self._file = file

    def read(self, size: int = -1) -> bytes:
        taken = self._file.read(_LARGEST_DIRECTORY + 1 if size < 0 else min(size, _LARGEST_DIRECTORY + 1))
        if len(taken) > _LARGEST_DIRECTORY:
            raise Unreadable(
                f"is refused: its directory is over {_LARGEST_DIRECTORY} bytes; weights have fewer entries"
            )
        return taken


def stored_entries(file: BufferedReader, size: int) -> dict[str, Entry]:
    """The entries of a zip archive by name.

    Raises:
        Unreadable: the archive is cut short or damaged; an entry is compressed, encrypted, twice there, overlaps another one or lies
            beyond the file.
    """
    try:
        with zipfile.ZipFile(_Limited(file)) as archive:
            found = archive.infolist()
    except Unreadable:
        raise
    except (
        zipfile.BadZipFile,
        ValueError,
        ArithmeticError,
        LookupError,
        struct.error,
        OSError,
        RuntimeError,
        EOFError,
    ) as error:
        raise Unreadable(f"is damaged or cut short, as a zip archive; {AGAIN}") from error
    _refuse_others([each.filename for each in found])
    entries: dict[str, Entry] = {}
    end = 0
    for each in sorted(found, key=lambda each: each.header_offset):
        if (
            each.compress_type != zipfile.ZIP_STORED
            or each.file_size != each.compress_size
            or each.flag_bits & 1
        ):
            raise Unreadable(
                f"is refused: its entry {each.filename!a:.60} is compressed or encrypted, as torch.save never does; {AGAIN}"
            )
        if each.filename in entries or not end <= each.header_offset < size:
            raise Unreadable(
                f"is refused: its entry {each.filename!a:.60} is there twice or overlaps another one; {AGAIN}"
            )
        file.seek(each.header_offset)
        signature, name, extra = _LOCAL_HEADER.unpack(read_exactly(file, _LOCAL_HEADER.size))
        start = file.tell() + name + extra
        end = start + each.file_size
        if signature != b"PK\x03\x04" or end > size:
            raise Unreadable(f"is damaged: its entry {each.filename!a:.60} lies beyond the file; {AGAIN}")
        entries[each.filename] = Entry(start, each.file_size)
    return entries


def _refuse_others(names: list[str]) -> None:
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        raise Unreadable(
            "is a TorchScript archive, which holds code; load it with torch.jit.load and save its state_dict()"
        )
    if any(name.endswith(".npy") for name in names):
        raise Unreadable(
            "is an archive of numpy (.npz); save its arrays, as tensors by name, with torch.save"
        )
