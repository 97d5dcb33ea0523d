"""Pickle files and files of ``torch.save``, read without running any of their code.

torch.save writes a zip archive of uncompressed entries, and before torch 1.6 wrote pickles with the
tensors' values after them. Every size is checked against the file before memory is taken.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import torch

from resnext_det.weights.limits import AGAIN, Budget, Unreadable, read_exactly
from resnext_det.weights.unpickling.arrays import NUMPY
from resnext_det.weights.unpickling.machine import PickleMachine
from resnext_det.weights.unpickling.objects import PLAIN, check_depth
from resnext_det.weights.unpickling.tensors import TORCH, StoredBehind, StoredInside

_KNOWN = {**NUMPY, **PLAIN, **TORCH}
_LARGEST_DIRECTORY = 2 << 20
_LOCAL_HEADER = struct.Struct("<4s22x2H")
_PART = 1 << 20
_PROTOCOL = 1001
_BIG_ENDIAN = "was saved on a big-endian machine; load and save it on a little-endian one"

# The first pickle of an old file is this number, and nothing else.
TORCH_LEGACY = re.compile(
    rb"(?:\x80[\x02-\x05](?:\x95.{8})?\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"
    rb"|L119547037146038801333356L\n)\.",  # of protocols 0 and 1
    re.DOTALL,
)


def read_plain_pickle(path: str | Path) -> Any:
    """Read a pickle of plain data and numpy arrays.

    Read are dict, list, tuple, set, frozenset, str, bytes, bytearray, int, float, complex, bool,
    None, OrderedDict, and numpy's arrays and scalars of bool, int, uint and float, also of
    big-endian machines (they come back in this one's order). A Counter or defaultdict becomes a
    dict, and Python 2's strings str by latin1. Nothing that the file names is imported or called:
    every other object becomes a ``Placeholder``, every class or function a ``Name``.

    Memory stays below twice the file plus 64 MiB; arrays are read straight into their memory.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, cut short, damaged or too deep, or would take more memory
            than that.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; give the path of a pickle file")
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path} is empty; {AGAIN}")
    try:
        with path.open("rb") as file:
            contents = PickleMachine(file, end=size, budget=Budget(size), known=_KNOWN).read()
            if file.tell() != size:
                left = size - file.tell()
                raise Unreadable(f"is damaged: its pickle ends {left} bytes before it; {AGAIN}")
        check_depth(contents)
    except Unreadable as error:
        raise ValueError(f"{path} {error}") from error.__cause__
    return contents


def read_torch_zip(path: Path, *, mapped: bool = False) -> Any:
    """Read an archive of ``torch.save``.

    Args:
        path: of a file that begins as a zip archive.
        mapped: see ``read_container``.

    Raises:
        Unreadable: it is refused, damaged or cut short.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        entries = _list_entries(file, size)
        prefix = _find_prefix(entries)
        if b"big" in _read_start(file, entries.get(f"{prefix}byteorder")):
            raise Unreadable(_BIG_ENDIAN)
        # not shared: what is written into the tensors does not go into the file
        whole = torch.UntypedStorage.from_file(str(path), False, size) if mapped else None
        data = f"{prefix}data/"
        stored = {name[len(data) :]: entries[name][:2] for name in entries if name.startswith(data)}
        budget = Budget(size)
        storages = StoredInside(file, stored, budget, whole)
        start, length, _ = entries[f"{prefix}data.pkl"]
        file.seek(start)
        machine = PickleMachine(
            file, end=start + length, budget=budget, known=_KNOWN, persistent=storages.find
        )
        contents = machine.read()
        if file.tell() != start + length:
            raise Unreadable(f"is damaged: its pickle ends before its entry; {AGAIN}")
    check_depth(contents)
    return contents


def find_damaged_entries(path: Path) -> list[str]:
    """Find the entries of an archive of ``torch.save`` that are not what their checksums say.

    A checksum of 0 is none: torch can save without (``set_crc32_options(False)``). A pass over 100
    MB takes some 0.1 s.

    Raises:
        Unreadable: see ``read_torch_zip``.
    """
    damaged = []
    with path.open("rb") as file:
        for name, entry in _list_entries(file, path.stat().st_size).items():
            file.seek(entry.start)
            crc, left = 0, entry.size if entry.crc else 0
            while left:
                part = read_exactly(file, min(left, _PART))
                crc, left = zlib.crc32(part, crc), left - len(part)
            if crc != entry.crc:
                damaged.append(name)
    return damaged


class _Entry(NamedTuple):
    """The place of an archive's entry in the file, and its checksum."""

    start: int
    size: int
    crc: int


class _LimitedFile:
    """A file of which no more is read at once than a directory of some 20,000 entries."""

    def __init__(self, file: BufferedReader) -> None:
        self.seek = file.seek
        self.tell = file.tell
        self._file = file

    def read(self, size: int = -1) -> bytes:
        most = _LARGEST_DIRECTORY + 1
        taken = self._file.read(most if size < 0 else min(size, most))
        if len(taken) == most:
            raise Unreadable(
                f"is refused: its directory is over {_LARGEST_DIRECTORY} bytes; weights have fewer "
                "entries"
            )
        return taken


def _list_entries(file: BufferedReader, size: int) -> dict[str, _Entry]:
    """List the entries of a zip archive by name.

    Raises:
        Unreadable: the archive is cut short or damaged; an entry is compressed, encrypted, twice
            there, overlaps another one or lies beyond the file.
    """
    try:
        with zipfile.ZipFile(_LimitedFile(file)) as archive:
            found = archive.infolist()
    except Unreadable:
        raise
    except Exception as error:  # zipfile raises some eight kinds
        raise Unreadable(f"is damaged or cut short, as a zip archive; {AGAIN}") from error
    _refuse_other_archives([each.filename for each in found])
    entries: dict[str, _Entry] = {}
    end = 0
    for each in sorted(found, key=lambda each: each.header_offset):
        name = ascii(each.filename)[:60]
        stored = each.compress_type == zipfile.ZIP_STORED and each.file_size == each.compress_size
        if not stored or each.flag_bits & 1:
            raise Unreadable(
                f"is refused: its entry {name} is compressed or encrypted, as torch.save never "
                f"does; {AGAIN}"
            )
        if each.filename in entries or not end <= each.header_offset < size:
            raise Unreadable(
                f"is refused: its entry {name} is there twice or overlaps another one; {AGAIN}"
            )
        file.seek(each.header_offset)
        header = read_exactly(file, _LOCAL_HEADER.size)
        signature, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        start = file.tell() + name_length + extra_length
        end = start + each.file_size
        if signature != b"PK\x03\x04" or end > size:
            raise Unreadable(f"is damaged: its entry {name} lies beyond the file; {AGAIN}")
        entries[each.filename] = _Entry(start, each.file_size, each.CRC)
    return entries


def _refuse_other_archives(names: list[str]) -> None:
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        raise Unreadable(
            "is a TorchScript archive, which holds code; load it with torch.jit.load and save its "
            "state_dict()"
        )
    if any(name.rpartition("/")[2] == "archive_format" for name in names):
        raise Unreadable(
            "is an exported program (torch.export); load it with torch.export.load and save its "
            "state_dict"
        )
    if any(name.endswith(".npy") for name in names):
        raise Unreadable(
            "is an archive of numpy (.npz); save its arrays, as tensors by name, with torch.save"
        )


def _find_prefix(entries: dict[str, _Entry]) -> str:
    """Find what the names in an archive begin with: "archive/" or the name of the file."""
    found = [name for name in entries if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(found) != 1:
        some = ", ".join(ascii(name)[1:-1] for name in list(entries)[:3])
        raise Unreadable(
            f"is a zip archive of {some:.100}, not one of torch.save; unpack it and give the "
            "weights in it"
        )
    return found[0].removesuffix("data.pkl")


def _read_start(file: BufferedReader, entry: _Entry | None) -> bytes:
    if entry is None:
        return b""
    file.seek(entry.start)
    return read_exactly(file, min(entry.size, 64))


def read_torch_legacy(path: Path) -> Any:
    """Read a file of ``torch.save`` before torch 1.6.

    It is five pickles (magic, protocol, machine, contents, keys) and the storages.

    Raises:
        Unreadable: it is refused, damaged or cut short.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        budget = Budget(size)
        storages = StoredBehind(size, budget)

        def read_pickle() -> Any:
            machine = PickleMachine(
                file, end=size, budget=budget, known=_KNOWN, persistent=storages.find
            )
            return machine.read()

        magic = TORCH_LEGACY.match(read_exactly(file, min(size, 64)))
        file.seek(magic.end() if magic else size)
        protocol, system = read_pickle(), read_pickle()
        if protocol != _PROTOCOL or not isinstance(system, dict):
            raise Unreadable(f"is damaged: its torch protocol is not {_PROTOCOL}; {AGAIN}")
        if not system.get("little_endian", True):
            raise Unreadable(_BIG_ENDIAN)
        contents = read_pickle()
        storages.fill(file, read_pickle())
        if file.tell() != size:
            raise Unreadable(
                f"is damaged: {size - file.tell()} bytes follow its last storage; {AGAIN}"
            )
    check_depth(contents)
    return contents
