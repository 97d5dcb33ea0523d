"""Files of ``torch.save``, of today (a zip archive of uncompressed entries) and of before torch 1.6, read without torch's unpickler.

torch's own ``weights_only`` unpickler runs no foreign code either, but lets a file take any amount of memory; here every size is
checked against the file before.
"""

from __future__ import annotations

import re
import struct
import zipfile
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from resnext_det.weights.limits import AGAIN, Budget, Unreadable, read_exactly, read_values
from resnext_det.weights.unpickling.arrays import NUMPY
from resnext_det.weights.unpickling.foreign import FOREIGN
from resnext_det.weights.unpickling.machine import PickleMachine
from resnext_det.weights.unpickling.objects import PLAIN, check_depth
from resnext_det.weights.unpickling.tensors import TORCH, Storage, storage_request

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
        taken = self._file.read(
            _LARGEST_DIRECTORY + 1 if size < 0 else min(size, _LARGEST_DIRECTORY + 1)
        )
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
            raise Unreadable(
                f"is damaged: its entry {each.filename!a:.60} lies beyond the file; {AGAIN}"
            )
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


_ADMITTED = {**FOREIGN, **NUMPY, **PLAIN, **TORCH}
_PROTOCOL = 1001

# The first pickle of an old file is this number, and nothing else.
TORCH_LEGACY = re.compile(
    rb"\x80[\x02-\x05](?:\x95.{8})?\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19\.", re.DOTALL
)


def read_torch_zip(path: Path, *, mapped: bool = False) -> Any:
    """The contents of an archive of ``torch.save``.

    Args:
        path: of a file that begins as a zip archive.
        mapped: tensors are parts of the mapped file and take memory only where they are used. The file must then stay as it is as
            long as they live.

    Raises:
        Unreadable: it is refused, damaged or cut short.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        entries = stored_entries(file, size)
        prefix = _prefix(entries)
        if b"big" in _small(file, entries.get(f"{prefix}byteorder")):
            raise Unreadable(
                "was saved on a big-endian machine; load and save it on a little-endian one"
            )
        budget = Budget(size)
        storages = _ZipStorages(
            file, entries, f"{prefix}data/", budget, _map(path, size) if mapped else None
        )
        start, length = entries[f"{prefix}data.pkl"]
        file.seek(start)
        machine = PickleMachine(
            file, end=start + length, budget=budget, admitted=_ADMITTED, persistent=storages.find
        )
        contents = machine.read()
        if file.tell() != start + length:
            raise Unreadable(f"is damaged: its pickle ends before its entry; {AGAIN}")
    check_depth(contents)
    return contents


def _prefix(entries: dict[str, Entry]) -> str:
    """Of the names in an archive: "archive/" or the name of the file."""
    found = [
        name.removesuffix("data.pkl")
        for name in entries
        if name.endswith("/data.pkl") or name == "data.pkl"
    ]
    if len(found) != 1:
        some = ", ".join(ascii(name)[1:-1] for name in list(entries)[:3])
        raise Unreadable(
            f"is a zip archive of {some:.100}, not one of torch.save; unpack it and give the weights in it"
        )
    return found[0]


def _small(file: BufferedReader, entry: Entry | None) -> bytes:
    if entry is None:
        return b""
    file.seek(entry.start)
    return read_exactly(file, min(entry.size, 64))


def _map(path: Path, size: int) -> Any:
    """Private: what is written into the tensors does not go into the file."""
    return torch.UntypedStorage.from_file(str(path), False, size)


class _ZipStorages:
    """The storages of an archive, each an entry of its own, read when the pickle first names it."""

    def __init__(
        self,
        file: BufferedReader,
        entries: dict[str, Entry],
        prefix: str,
        budget: Budget,
        whole: Any,
    ) -> None:
        self.file = file
        self.entries = entries
        self.prefix = prefix
        self.budget = budget
        self.whole = whole
        self.read: dict[str, Tensor] = {}

    def find(self, identifier: Any) -> Storage:
        request = storage_request(identifier)
        entry = self.entries.get(self.prefix + request.key, Entry(0, 0))
        if request.part is not None or entry.size != request.nbytes:
            raise Unreadable(
                f"is damaged: a storage of {request.elements} {request.dtype} has {entry.size} bytes, not {request.nbytes}; {AGAIN}"
            )
        if request.key not in self.read:
            self.read[request.key] = self._bytes(entry)
        return Storage(self.read[request.key].view(request.dtype))

    def _bytes(self, entry: Entry) -> Tensor:
        if self.whole is not None and entry.start % 8 == 0 and entry.size:
            part = self.whole[entry.start : entry.start + entry.size]
            return torch.empty(0, dtype=torch.uint8).set_(part)
        self.budget.take(entry.size)
        position = self.file.tell()
        self.file.seek(entry.start)
        values = torch.empty(entry.size, dtype=torch.uint8)
        read_values(self.file, values)
        self.file.seek(position)
        return values


def read_torch_legacy(path: Path) -> Any:
    """The contents of a file of ``torch.save`` before 1.6: five pickles (magic, protocol, machine, contents, keys), and the storages.

    Raises:
        Unreadable: it is refused, damaged or cut short.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        budget = Budget(size)
        storages = _LaterStorages(size, budget)

        def read() -> Any:
            machine = PickleMachine(
                file, end=size, budget=budget, admitted=_ADMITTED, persistent=storages.find
            )
            return machine.read()

        magic = TORCH_LEGACY.match(read_exactly(file, min(size, 64)))
        file.seek(magic.end() if magic else size)
        protocol, system = read(), read()
        if protocol != _PROTOCOL or not isinstance(system, dict):
            raise Unreadable(
                f"is damaged: its torch protocol is {protocol!r:.20}, not {_PROTOCOL}; {AGAIN}"
            )
        if not system.get("little_endian", True):
            raise Unreadable(
                "was saved on a big-endian machine; load and save it on a little-endian one"
            )
        contents = read()
        storages.fill(file, read())
        if file.tell() != size:
            raise Unreadable(
                f"is damaged: {size - file.tell()} bytes follow its last storage; {AGAIN}"
            )
    check_depth(contents)
    return contents


class _LaterStorages:
    """The storages of an old file, which follow the contents. Their memory is taken before, so their sizes are held to the file's."""

    def __init__(self, size: int, budget: Budget) -> None:
        self.left = size
        self.budget = budget
        self.roots: dict[str, Tensor] = {}

    def find(self, identifier: Any) -> Storage:
        request = storage_request(identifier)
        values = self.roots.get(request.key)
        if values is None:
            self.left -= request.nbytes
            if self.left < 0:
                raise Unreadable(
                    f"is damaged or cut short: a storage of {request.elements} {request.dtype} is larger than what is left of it; {AGAIN}"
                )
            self.budget.take(request.nbytes + 1000)
            values = self.roots[request.key] = torch.empty(request.elements, dtype=request.dtype)
        if values.dtype != request.dtype or len(values) != request.elements:
            raise Unreadable(f"is damaged: it describes a storage in two ways; {AGAIN}")
        if request.part is None:
            return Storage(values)
        _, offset, elements = request.part
        if offset + elements > len(values):
            raise Unreadable(f"is damaged: a part of a storage reaches beyond it; {AGAIN}")
        return Storage(values[offset : offset + elements])

    def fill(self, file: BufferedReader, keys: Any) -> None:
        if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(self.roots):
            raise Unreadable(
                f"is damaged: its storages are not those that its tensors need; {AGAIN}"
            )
        for key in keys:
            values = self.roots[str(key)]
            (elements,) = struct.unpack("<q", read_exactly(file, 8))
            if elements != len(values):
                raise Unreadable(
                    f"is damaged: a storage has {elements} elements, not {len(values)}; {AGAIN}"
                )
            read_values(file, values)
