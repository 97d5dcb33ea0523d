"""Store the images of a set: in files, in tar archives, or as pixels in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from resnext_det.data.images.decoding import decode_rgb, read_range

_LONGEST_FOLDER, _LONGEST_NAME = 4096, 255  # bytes; Linux takes no longer ones
_CHUNK = 65_536  # names that are Python objects at once while millions are packed
_FILE_REMEDY = "replace the file (copy or download it again), or remove it and open the set anew"
_ARCHIVE_REMEDY = "copy or download its archive again, or make the archive without it"


@dataclass(frozen=True, eq=False)
class PackedPaths:
    """Hold millions of paths ``folder/name`` in three numpy arrays; each folder is stored once.

    Forked processes share the arrays and spawned ones get them at once. As Python strings the paths
    of ImageNet-5K would take about a gigabyte in every loading process.
    """

    folders: np.ndarray  # bytes (F,), in the file system's encoding; an empty one stands for none
    folder_of: np.ndarray  # int32 (N,), the number of each path's folder
    names: np.ndarray  # bytes (N,)

    @classmethod
    def pack(cls, paths: Iterable[tuple[str, str]]) -> PackedPaths:
        """Pack pairs of a folder and a name.

        Raises ValueError where one is longer than file systems take, since every name takes as many
        bytes as the longest.
        """
        numbers: dict[bytes, int] = {}
        names, folder_of = [np.empty(0, "S1")], [np.empty(0, np.int32)]
        pairs = (_encode(folder, name) for folder, name in paths)
        while chunk := list(islice(pairs, _CHUNK)):
            of_chunk = [numbers.setdefault(folder, len(numbers)) for folder, _ in chunk]
            folder_of.append(np.array(of_chunk, np.int32))
            names.append(np.array([name for _, name in chunk], "S"))
        return cls(np.array([*numbers], "S"), np.concatenate(folder_of), np.concatenate(names))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], prefix: str) -> PackedPaths:
        """Invert ``to_arrays``; raise ValueError or KeyError where something is wrong."""
        parts = (arrays[f"{prefix}{part}"] for part in ("folders", "folder_of", "names"))
        folders, folder_of, names = parts
        if not folders.dtype.kind == names.dtype.kind == "S" or folders.ndim + names.ndim != 2:
            raise ValueError("names are not packed as they should be")
        if folder_of.dtype != np.int32 or folder_of.shape != names.shape:
            raise ValueError("names and folders do not fit together")
        if len(names) and not 0 <= folder_of.min() <= folder_of.max() < len(folders):
            raise ValueError("a name is in a folder that is not there")
        return cls(folders, folder_of, names)

    def to_arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Name the arrays for a file; the names begin with ``prefix``."""
        parts = {"folders": self.folders, "folder_of": self.folder_of, "names": self.names}
        return {f"{prefix}{part}": array for part, array in parts.items()}

    def list_folders(self) -> list[str]:
        return [os.fsdecode(folder) for folder in self.folders.tolist()]

    def list_names(self) -> list[str]:
        return [os.fsdecode(name) for name in self.names.tolist()]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> str:
        folder, name = self.folders[self.folder_of[index]], self.names[index]
        return os.fsdecode(b"/".join([folder, name]) if folder else bytes(name))

    def take(self, indices: np.ndarray) -> PackedPaths:
        """Select the paths of these indices, in this order."""
        return PackedPaths(self.folders, self.folder_of[indices], self.names[indices])


def _encode(folder: str, name: str) -> tuple[bytes, bytes]:
    pair = os.fsencode(folder), os.fsencode(name)
    if len(pair[0]) > _LONGEST_FOLDER or len(pair[1]) > _LONGEST_NAME:
        raise ValueError(
            f"the path {folder[:100]}/{name[:100]} ... is too long: its folder has {len(pair[0])} "
            f"bytes of at most {_LONGEST_FOLDER}, its name {len(pair[1])} of at most "
            f"{_LONGEST_NAME}; give the image a shorter name"
        )
    return pair


class ImageSource(Protocol):
    """Give images by number; small and picklable, without open files.

    ``ImageSet`` says what the methods return and raise.
    """

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def locate(self, index: int) -> str: ...

    def read(self, index: int) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class FileSource:
    """Read image files at ``root/path``."""

    root: Path
    paths: PackedPaths

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index]

    def locate(self, index: int) -> str:
        return os.path.join(self.root, self.paths[index])

    def read(self, index: int) -> np.ndarray:
        path = self.locate(index)
        remedy = "put it there, or correct the list or the folder of the set"
        return _read(path, path, f"does not exist; {remedy}", _FILE_REMEDY)

    def take(self, indices: np.ndarray) -> FileSource:
        """Select the images of these indices, in this order."""
        return FileSource(self.root, self.paths.take(indices))


@dataclass(frozen=True)
class Archive:
    """Identify an archive as it was when its headers were read."""

    name: str  # in its folder
    size: int  # in bytes
    mtime: int  # when it was last changed, in nanoseconds

    @classmethod
    def inspect(cls, root: Path, name: str) -> Archive:
        """Describe the archive as it is now."""
        state = (root / name).stat()
        return cls(name, state.st_size, state.st_mtime_ns)


@dataclass(frozen=True, eq=False)
class ArchiveSource:
    """Read images where they lie in uncompressed tar archives.

    Paths have the form ``archive.tar/folder/in/it/name.jpg``; an archive in an archive counts as a
    folder.
    """

    root: Path  # the folder of the archives
    archives: tuple[Archive, ...]
    paths: PackedPaths  # of the images below ``root``
    archive_of_folder: np.ndarray  # int32 (F,), the number of the archive that holds each folder
    offsets: np.ndarray  # int64 (N,), the byte of its archive at which each image begins
    sizes: np.ndarray  # int64 (N,), in bytes

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index]

    def locate(self, index: int) -> str:
        return os.path.join(self.root, self.paths[index])

    def read(self, index: int) -> np.ndarray:
        number = self.archive_of_folder[self.paths.folder_of[index]]
        archive = str(self.root / self.archives[number].name)
        remedy = "put it back, or open the set anew"
        missing = f"is not there: archive {archive} does not exist any more; {remedy}"
        part = int(self.offsets[index]), int(self.sizes[index])
        return _read(archive, self.locate(index), missing, _ARCHIVE_REMEDY, *part)

    def take(self, indices: np.ndarray) -> ArchiveSource:
        """Select the images of these indices, in this order."""
        paths, offsets, sizes = self.paths.take(indices), self.offsets[indices], self.sizes[indices]
        return ArchiveSource(
            self.root, self.archives, paths, self.archive_of_folder, offsets, sizes
        )

    def check(self) -> None:
        """Raise ValueError where arrays from a file contradict each other or leave an archive."""
        shape, of_folder = (len(self.paths),), self.archive_of_folder
        if any(a.dtype != np.int64 or a.shape != shape for a in (self.offsets, self.sizes)):
            raise ValueError("offsets or sizes are not those of the names")
        if of_folder.dtype != np.int32 or of_folder.shape != self.paths.folders.shape:
            raise ValueError("the folders are in no archive")
        if len(of_folder) and not 0 <= of_folder.min() <= of_folder.max() < len(self.archives):
            raise ValueError("a folder is in an archive that is not there")
        ends = np.array([archive.size for archive in self.archives], np.int64)
        last = ends[of_folder][self.paths.folder_of] - self.sizes
        if ((self.offsets < 0) | (self.sizes < 0) | (self.offsets > last)).any():
            raise ValueError("an image lies outside its archive")


def _read(
    path: str, name: str, missing: str, remedy: str, offset: int = 0, size: int | None = None
) -> np.ndarray:
    """Read and decode a file or a part of it; an error calls the image ``name``."""
    try:
        return decode_rgb(read_range(path, offset, size), name, remedy)
    except FileNotFoundError:
        raise FileNotFoundError(f"image {name} {missing}") from None
    except (OSError, EOFError) as error:
        raise ValueError(f"image {name} cannot be read: {error}; {remedy}") from error


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Hold pixels in memory."""

    pixels: np.ndarray  # uint8 (N, height, width, 3)
    files: tuple[str, ...]  # where they were read from, each with equally many images

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, index: int) -> str:
        return os.path.basename(self.locate(index))

    def locate(self, index: int) -> str:
        file, number = divmod(index, len(self.pixels) // len(self.files))
        return f"{self.files[file]}, image {number}"

    def read(self, index: int) -> np.ndarray:
        return self.pixels[index].copy()


@dataclass(frozen=True, eq=False)
class JoinedSource:
    """Append the images of each source to those of the one before."""

    parts: Sequence[ImageSource]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def name(self, index: int) -> str:
        part, index = self._find(index)
        return part.name(index)

    def locate(self, index: int) -> str:
        part, index = self._find(index)
        return part.locate(index)

    def read(self, index: int) -> np.ndarray:
        part, index = self._find(index)
        return part.read(index)

    def _find(self, index: int) -> tuple[ImageSource, int]:
        for part in self.parts:
            if index < len(part):
                return part, index
            index -= len(part)
        raise IndexError(index)
