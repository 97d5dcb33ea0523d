"""Where the pixels of an image set come from: files, members of archives, or an array."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from resnext_det.data.reading import decode_rgb, read_range


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


_FILE_REMEDY = "replace the file (copy or download it again), or remove it and open the set anew"
_ARCHIVE_REMEDY = "copy or download its archive again, or make the archive without it"


class ImageSource(Protocol):
    """Images by number; small and picklable. ``ImageSet`` says what the methods give and raise."""

    def __len__(self) -> int: ...

    def file_name(self, index: int) -> str: ...

    def read(self, index: int) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class FileSource:
    """Files at ``root/path``."""

    root: Path
    paths: PackedPaths

    def __len__(self) -> int:
        return len(self.paths)

    def file_name(self, index: int) -> str:
        return os.path.join(self.root, self.paths[index])

    def read(self, index: int) -> np.ndarray:
        path = self.file_name(index)
        try:
            data = read_range(path)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"image {path} does not exist; put it there, or correct the list or the folder of the set"
            ) from None
        except (OSError, EOFError) as error:
            raise ValueError(f"image {path} cannot be read: {error}; {_FILE_REMEDY}") from error
        return decode_rgb(data, path, _FILE_REMEDY)

    def take(self, indices: np.ndarray) -> FileSource:
        """The images of these indices, in this order."""
        return FileSource(self.root, self.paths.take(indices))


@dataclass(frozen=True)
class Archive:
    """An archive as it was when its headers were read: the name in its folder, bytes, and time of the last change in nanoseconds."""

    name: str
    size: int
    mtime: int

    @classmethod
    def at(cls, root: Path, name: str) -> Archive:
        """The archive as it is now."""
        state = (root / name).stat()
        return cls(name, state.st_size, state.st_mtime_ns)


@dataclass(frozen=True, eq=False)
class ArchiveSource:
    """Members of uncompressed tar archives, read where they lie.

    Attributes:
        root: the folder of the archives.
        archives: in it.
        paths: of the images below ``root``: ``archive.tar/folder/in/it/name.jpg``; a tar in a tar is a folder.
        archive_of_folder: int32, the number of the archive that each of ``paths.folders`` is in.
        offsets: int64 (N,), where the bytes of each image begin in its archive.
        sizes: int64 (N,), how many they are.
    """

    root: Path
    archives: tuple[Archive, ...]
    paths: PackedPaths
    archive_of_folder: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def file_name(self, index: int) -> str:
        return os.path.join(self.root, self.paths[index])

    def read(self, index: int) -> np.ndarray:
        name = self.file_name(index)
        archive = (
            self.root / self.archives[self.archive_of_folder[self.paths.folder_of[index]]].name
        )
        try:
            data = read_range(str(archive), int(self.offsets[index]), int(self.sizes[index]))
        except FileNotFoundError:
            raise FileNotFoundError(
                f"image {name}: archive {archive} does not exist any more; put it back, or open the set anew"
            ) from None
        except (OSError, EOFError) as error:
            raise ValueError(f"image {name} cannot be read: {error}; {_ARCHIVE_REMEDY}") from error
        return decode_rgb(data, name, _ARCHIVE_REMEDY)

    def take(self, indices: np.ndarray) -> ArchiveSource:
        """The images of these indices, in this order."""
        return ArchiveSource(
            self.root,
            self.archives,
            self.paths.take(indices),
            self.archive_of_folder,
            self.offsets[indices],
            self.sizes[indices],
        )

    def check(self) -> None:
        """Raise ValueError where the arrays, read from a file, contradict each other or an image lies outside its archive."""
        shape = (len(self.paths),)
        if any(
            array.dtype != np.int64 or array.shape != shape for array in (self.offsets, self.sizes)
        ):
            raise ValueError("offsets or sizes are not those of the names")
        of_folder = self.archive_of_folder
        if of_folder.dtype != np.int32 or of_folder.shape != (len(self.paths.folders),):
            raise ValueError("the folders are in no archive")
        if len(of_folder) and not 0 <= of_folder.min() <= of_folder.max() < len(self.archives):
            raise ValueError("a folder is in an archive that is not there")
        ends = np.array([archive.size for archive in self.archives], np.int64)
        last = ends[of_folder][self.paths.folder_of] - self.sizes
        if ((self.offsets < 0) | (self.sizes < 0) | (self.offsets > last)).any():
            raise ValueError("an image lies outside its archive")


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Pixels in memory, uint8 (N, height, width, 3), and the files that they are from, each of equally many."""

    pixels: np.ndarray
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    def file_name(self, index: int) -> str:
        file, record = divmod(index, len(self.pixels) // len(self.files))
        return f"{self.files[file]}, image {record}"

    def read(self, index: int) -> np.ndarray:
        return self.pixels[index].copy()


@dataclass(frozen=True, eq=False)
class JoinedSource:
    """The images of one source after those of another."""

    parts: Sequence[ImageSource]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def file_name(self, index: int) -> str:
        part, index = self._place(index)
        return part.file_name(index)

    def read(self, index: int) -> np.ndarray:
        part, index = self._place(index)
        return part.read(index)

    def _place(self, index: int) -> tuple[ImageSource, int]:
        for part in self.parts:
            if index < len(part):
                return part, index
            index -= len(part)
        raise IndexError(index)
