"""Millions of file names in a few arrays: a process that is forked shares them, and one that is spawned gets them at once.

As Python strings the paths of ImageNet-5K would take about a gigabyte in every loading process.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class PackedStrings:
    """An immutable list of file names, in the file system's encoding.

    ``blob`` is uint8, the names one after another; ``ends`` is int64 (N,), where each ends.
    """

    blob: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, names: Iterable[str]) -> PackedStrings:
        blob, ends = bytearray(), array("q")
        for name in names:
            blob += os.fsencode(name)
            ends.append(len(blob))
        return cls(np.frombuffer(blob, np.uint8), np.frombuffer(ends, np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        begin = self.ends[index - 1] if index else 0
        return os.fsdecode(self.blob[begin : self.ends[index]].tobytes())

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def check(self) -> None:
        """Raise ValueError where the arrays, read from a file, are not of this form."""
        if (
            self.blob.dtype != np.uint8
            or self.ends.dtype != np.int64
            or self.blob.ndim + self.ends.ndim != 2
        ):
            raise ValueError("names are not packed as they should be")
        last = self.ends[-1] if len(self) else 0
        if last != len(self.blob) or (np.diff(self.ends, prepend=0) < 0).any():
            raise ValueError("names do not end where they should")


@dataclass(frozen=True, eq=False)
class PackedPaths:
    """An immutable list of paths of the form ``folder/name``; each folder is stored once.

    ``folder_of`` is int32 (N,), the number of each path's folder. An empty folder stands for none.
    """

    folders: PackedStrings
    folder_of: np.ndarray
    names: PackedStrings

    @classmethod
    def of(cls, paths: Iterable[tuple[str, str]]) -> PackedPaths:
        """Pack pairs of a folder and a name."""
        numbers: dict[str, int] = {}
        folder_of = array("i")

        def names() -> Iterator[str]:
            for folder, name in paths:
                folder_of.append(numbers.setdefault(folder, len(numbers)))
                yield name

        packed = PackedStrings.of(names())
        return cls(PackedStrings.of(numbers), np.frombuffer(folder_of, np.int32), packed)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], prefix: str) -> PackedPaths:
        """The inverse of ``arrays``; raises ValueError or KeyError where something is wrong."""
        folders = PackedStrings(arrays[f"{prefix}folders"], arrays[f"{prefix}folder_ends"])
        names = PackedStrings(arrays[f"{prefix}names"], arrays[f"{prefix}name_ends"])
        folders.check()
        names.check()
        folder_of = arrays[f"{prefix}folder_of"]
        if folder_of.dtype != np.int32 or folder_of.shape != (len(names),):
            raise ValueError("names and folders do not fit together")
        if len(names) and not 0 <= folder_of.min() <= folder_of.max() < len(folders):
            raise ValueError("a name is in a folder that is not there")
        return cls(folders, folder_of, names)

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """What is to be stored, by names that begin with ``prefix``."""
        return {
            f"{prefix}folders": self.folders.blob,
            f"{prefix}folder_ends": self.folders.ends,
            f"{prefix}folder_of": self.folder_of,
            f"{prefix}names": self.names.blob,
            f"{prefix}name_ends": self.names.ends,
        }

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> str:
        folder, name = self.folders[self.folder_of[index]], self.names[index]
        return f"{folder}/{name}" if folder else name

    def take(self, indices: np.ndarray) -> PackedPaths:
        """The paths of these indices, in this order."""
        names = PackedStrings.of(self.names[index] for index in indices.tolist())
        return PackedPaths(self.folders, self.folder_of[indices], names)
