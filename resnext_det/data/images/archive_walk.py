"""Find the images of a tar archive by its headers; nothing is extracted."""

from __future__ import annotations

import posixpath
import shlex
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from torchvision.datasets.folder import IMG_EXTENSIONS

from resnext_det.files import find_hidden

IMAGE_SUFFIXES = tuple(IMG_EXTENSIONS)
"""The suffixes of images in lower case, those of ``torchvision.datasets.ImageFolder``."""

# The first bytes of compressed files, and the commands that decompress them.
_COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ\x00": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}
_ZIP = b"PK\x03\x04"
_TAR_ERRORS = (tarfile.TarError, ValueError, OverflowError, RecursionError)
_BROKEN = "is damaged or cut short: {}; copy or download it again"


@dataclass(frozen=True)
class Member:
    """Locate an image in an archive."""

    folder: str  # begins with the archive's name
    name: str  # in the folder
    offset: int  # the byte of the archive at which the image begins
    size: int  # in bytes


def is_image(name: str) -> bool:
    """Tell an image by its suffix, as ImageFolder does."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def walk_archive(
    path: Path, *, progress: Callable[[int], object], nested: bool = True
) -> Iterator[Member]:
    """Find every image of an archive and of the archives in it, in their order.

    ILSVRC2012_img_train.tar holds an archive for each class. Directories, devices and files that
    are no images are passed over. Hidden images are listed, and a hidden archive as if it were an
    image, so that who leaves them out can tell of them: macOS puts ``._n01440764.tar``, which is no
    archive, beside ``n01440764.tar``.

    Args:
        progress: called with the number of bytes that have been passed since the last call.
        nested: whether the archive may hold archives.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is compressed, damaged, cut short or no tar archive; an image is a
            link, sparse, or has no proper name.
    """
    with path.open("rb") as file:
        _refuse_compressed(path, file.read(8))
        file.seek(0)
        done, size = 0, path.stat().st_size
        for member in _walk(file, str(path), size, path.name, 0, nested):
            progress(member.offset - done)
            done = member.offset
            yield member
        progress(size - done)


def _walk(
    file: BinaryIO, archive: str, size: int, folder: str, begin: int, nested: bool
) -> Iterator[Member]:
    """Walk an archive that begins at byte ``begin`` of the outermost one; ``folder`` names it."""
    with _open(file, archive) as tar:
        while (member := _read_header(tar, archive, size)) is not None:
            tar.members = []  # type: ignore[attr-defined]  # it grows by a kilobyte an image
            is_tar = member.name.lower().endswith(".tar")
            if member.isdir() or not (is_tar or is_image(member.name)):
                continue
            is_visible = find_hidden(member.name) is None
            if not (is_visible or member.isreg()):
                continue
            _check_member(member, archive, size)
            path = posixpath.join(folder, posixpath.normpath(member.name.lstrip("/")))
            begin_of_member = begin + member.offset_data
            if not (is_tar and is_visible):
                yield Member(*posixpath.split(path), begin_of_member, member.size)
                continue
            if not nested:
                raise ValueError(
                    f"archive {archive} holds an archive, {member.name}, where images are "
                    "expected; open the archive of the classes by its own path, or extract it once"
                )
            inner = tar.extractfile(member)
            assert inner is not None
            with inner:
                inner_name = f"{archive}/{member.name}"
                yield from _walk(inner, inner_name, member.size, path, begin_of_member, False)  # type: ignore[arg-type]
        _check_end(file, tar.offset, archive, is_inner=begin > 0)


def _open(file: BinaryIO, archive: str) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=file, mode="r:")
    except _TAR_ERRORS as error:
        raise ValueError(
            f"{archive} is no tar archive, or is damaged ({error}); give an uncompressed .tar or a "
            "folder of class folders, or copy it or download it again"
        ) from error


def _read_header(tar: tarfile.TarFile, archive: str, size: int) -> tarfile.TarInfo | None:
    """Read the next header; None at the end."""
    if tar.offset == 0:  # an empty archive, in which tarfile of Python 3.10 seeks before its begin
        return None
    try:
        member = tar.next()
    except _TAR_ERRORS as error:
        raise ValueError(f"archive {archive} {_BROKEN.format(error)}") from error
    if member is None:
        return None
    beyond = tar.offset - size >= tarfile.BLOCKSIZE
    if member.size < 0 or tar.offset <= member.offset or beyond:  # tarfile itself would never end
        place = f"from byte {member.offset_data} on, of {size}"
        reason = f"{member.name} has {member.size} bytes {place}"
        raise ValueError(f"archive {archive} {_BROKEN.format(reason)}")
    return member


def _check_member(member: tarfile.TarInfo, archive: str, size: int) -> None:
    if not member.isreg() or member.issparse():
        kind = "a link" if member.issym() or member.islnk() else "no plain file"
        raise ValueError(
            f"archive {archive}: {member.name} is {kind}; make the archive of the files themselves "
            "(tar --dereference --hard-dereference)"
        )
    if ".." in member.name.split("/"):
        raise ValueError(
            f"archive {archive}: {member.name} points out of the archive; make it of a whole folder"
        )
    if member.offset_data + member.size > size:
        reason = f"{member.name} ends at byte {member.offset_data + member.size}, of {size}"
        raise ValueError(f"archive {archive} {_BROKEN.format(reason)}")


def _check_end(file: BinaryIO, offset: int, archive: str, *, is_inner: bool) -> None:
    """Check for the block of zeros at the end: tarfile takes whatever is no header for the end."""
    file.seek(offset)
    block = file.read(tarfile.BLOCKSIZE)
    if block == bytes(tarfile.BLOCKSIZE) or (is_inner and not block):
        return
    if block:
        reason = f"at byte {offset} there is no header"
        raise ValueError(f"archive {archive} {_BROKEN.format(reason)}")
    raise ValueError(
        f"archive {archive} is cut short: its end mark is missing; copy or download it again (if "
        f"you know that it is whole, append one: head -c 1024 /dev/zero >> {archive})"
    )


def _refuse_compressed(path: Path, begin: bytes) -> None:
    if begin.startswith(_ZIP):
        raise ValueError(
            f"archive {path} is a zip, whose images cannot be read in place; extract it once "
            f"(unzip {shlex.quote(str(path))} -d FOLDER) and give the folder"
        )
    for magic, command in _COMPRESSED.items():
        if begin.startswith(magic):
            raise ValueError(
                f"archive {path} is compressed, so that its images cannot be read in place; "
                f"decompress it once ({command} {path}) and give the .tar, or extract it and give "
                "the folder"
            )
