"""Where the pixels of an image set come from: files, members of archives, or an array."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from resnext_det.data.images.decoding import decode_rgb, read_range
from resnext_det.data.images.packing import PackedPaths

_FILE_REMEDY = "replace the file (copy or download it again), or remove it and open the set anew"
_ARCHIVE_REMEDY = "copy or download its archive again, or make the archive without it"


class ImageSource(Protocol):
    """Images by number; small and picklable. ``ImageSet`` says what the methods give and raise."""

    def __len__(self) -> int: ...

    def file_name(self, index: int) -> str: ...

    def image(self, index: int) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class FileSource:
    """Files at ``root/path``."""

    root: Path
    paths: PackedPaths

    def __len__(self) -> int:
        return len(self.paths)

    def file_name(self, index: int) -> str:
        return os.path.join(self.root, self.paths[index])

    def image(self, index: int) -> np.ndarray:
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

    def image(self, index: int) -> np.ndarray:
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

    def image(self, index: int) -> np.ndarray:
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

    def image(self, index: int) -> np.ndarray:
        part, index = self._place(index)
        return part.image(index)

    def _place(self, index: int) -> tuple[ImageSource, int]:
        for part in self.parts:
            if index < len(part):
                return part, index
            index -= len(part)
        raise IndexError(index)
