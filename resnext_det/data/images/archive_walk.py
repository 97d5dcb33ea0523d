"""The images of a tar archive, by its headers; nothing is extracted."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from torchvision.datasets.folder import IMG_EXTENSIONS

IMAGE_SUFFIXES = tuple(IMG_EXTENSIONS)
"""How the names of images end, in lower case: those of ``torchvision.datasets.ImageFolder``."""

# By the first bytes: what is compressed, and what decompresses it.
_COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ\x00": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"PK\x03\x04": "unzip",
}
_BROKEN = "is damaged or cut short: {}; copy or download it again"


@dataclass(frozen=True)
class Member:
    """An image in an archive: ``folder/name``, where the folder begins with the archive's name, and which bytes it is."""

    folder: str
    name: str
    offset: int
    size: int


def is_image(name: str) -> bool:
    """By the suffix, as in ImageFolder; not the ``._name`` that macOS puts beside every file of an archive."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not posixpath.basename(name).startswith("._")


def walk(path: Path, *, progress: Callable[[int], object], nested: bool = True) -> Iterator[Member]:
    """Every image of an archive, and of the archives in it (ILSVRC2012_img_train.tar holds one for each class), in their order.

    Directories, devices and files that are no images are passed over.

    Args:
        progress: called with the number of bytes that have been passed since the last call.
        nested: whether there may be archives in it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is compressed, damaged, cut short or no tar archive; an image is a link, sparse, or has no proper name.
    """
    with path.open("rb") as file:
        _refuse_compressed(path, file.read(8))
        file.seek(0)
        done = 0
        for member in _walk(
            file, str(path), path.stat().st_size, _Place(path.name, 0, 1 if nested else 0)
        ):
            progress(member.offset - done)
            done = member.offset
            yield member
        progress(path.stat().st_size - done)


@dataclass(frozen=True)
class _Place:
    """An archive within others: the name for its folder, where it begins, and how many levels may be in it."""

    folder: str
    begin: int
    levels: int


def _walk(file: BinaryIO, archive: str, size: int, place: _Place) -> Iterator[Member]:
    with _opened(file, archive) as tar:
        while (member := _next(tar, archive, size)) is not None:
            tar.members = []  # type: ignore[attr-defined]  # which otherwise grow by a kilobyte an image
            is_tar = member.name.lower().endswith(".tar")
            if member.isdir() or not (is_tar or is_image(member.name)):
                continue
            _check(member, archive, size)
            folder, name = posixpath.split(posixpath.normpath(member.name.lstrip("/")))
            folder = posixpath.join(place.folder, folder) if folder else place.folder
            if not is_tar:
                yield Member(folder, name, place.begin + member.offset_data, member.size)
                continue
            if place.levels == 0:
                raise ValueError(
                    f"archive {archive} holds an archive, {member.name}, where images are expected; "
                    "open the archive of the classes by its own path, or extract it once"
                )
            inner = tar.extractfile(member)
            assert inner is not None
            below = _Place(f"{folder}/{name}", place.begin + member.offset_data, place.levels - 1)
            with inner:
                yield from _walk(inner, f"{archive}/{member.name}", member.size, below)  # type: ignore[arg-type]
        _check_end(file, tar.offset, archive, is_inner=place.begin > 0)


def _opened(file: BinaryIO, archive: str) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=file, mode="r:")
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{archive} is no tar archive, or is damaged ({error}); give an uncompressed .tar or a folder of class folders, "
            "or copy it or download it again"
        ) from error


def _next(tar: tarfile.TarFile, archive: str, size: int) -> tarfile.TarInfo | None:
    try:
        member = tar.next()
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"archive {archive} {_BROKEN.format(error)}") from error
    if member is None:
        return None
    beyond = tar.offset - size >= tarfile.BLOCKSIZE
    if (
        member.size < 0 or tar.offset <= member.offset or beyond
    ):  # tarfile itself would turn in a circle
        reason = (
            f"{member.name} has {member.size} bytes from byte {member.offset_data} on, of {size}"
        )
        raise ValueError(f"archive {archive} {_BROKEN.format(reason)}")
    return member


def _check(member: tarfile.TarInfo, archive: str, size: int) -> None:
    if not member.isreg() or member.issparse():
        kind = "a link" if member.issym() or member.islnk() else "no plain file"
        raise ValueError(
            f"archive {archive}: {member.name} is {kind}; make the archive of the files themselves "
            "(tar --dereference --hard-dereference)"
        )
    if ".." in member.name.split("/"):
        raise ValueError(
            f"archive {archive}: {member.name} points out of the archive; make it of a folder's contents"
        )
    if member.offset_data + member.size > size:
        reason = f"{member.name} ends at byte {member.offset_data + member.size}, of {size}"
        raise ValueError(f"archive {archive} {_BROKEN.format(reason)}")


def _check_end(file: BinaryIO, offset: int, archive: str, *, is_inner: bool) -> None:
    """tarfile takes whatever is no header for the end; a whole archive ends in a block of zeros."""
    file.seek(offset)
    block = file.read(tarfile.BLOCKSIZE)
    if block == bytes(tarfile.BLOCKSIZE) or (is_inner and not block):
        return
    if block:
        raise ValueError(
            f"archive {archive} {_BROKEN.format(f'at byte {offset} there is no header')}"
        )
    raise ValueError(
        f"archive {archive} is cut short: its end mark is missing; copy or download it again (if you know that it is whole, "
        f"append one: head -c 1024 /dev/zero >> {archive})"
    )


def _refuse_compressed(path: Path, begin: bytes) -> None:
    for magic, command in _COMPRESSED.items():
        if begin.startswith(magic):
            raise ValueError(
                f"archive {path} is compressed, so that its images cannot be read in place; decompress it once ({command} {path}) "
                "and give the .tar, or extract it and give the folder"
            )
