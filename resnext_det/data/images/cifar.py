"""CIFAR-10 and CIFAR-100 in their own binary form, from the extracted folder or from the archive as it is downloaded."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnext_det.data.images.image_set import ImageSet
from resnext_det.data.images.storage import ArraySource

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE


@dataclass(frozen=True)
class _Form:
    """Files of records: labels of a byte, of which the last counts, then the pixels, red, green, blue, each row by row."""

    title: str
    folder: str
    files: dict[str, tuple[str, ...]]
    records_of_file: dict[str, int]
    labels: int  # of an image
    names: tuple[str, int]  # the file of the class names, and how many there are

    @property
    def archive(self) -> str:
        return f"{self.title.lower()}-binary.tar.gz"

    @property
    def record_length(self) -> int:
        return self.labels + _PIXELS


_CIFAR10 = _Form(
    "CIFAR-10",
    "cifar-10-batches-bin",
    {
        "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        "test": ("test_batch.bin",),
    },
    {"train": 10_000, "test": 10_000},
    1,
    ("batches.meta.txt", 10),
)
_CIFAR100 = _Form(
    "CIFAR-100",
    "cifar-100-binary",
    {"train": ("train.bin",), "test": ("test.bin",)},
    {"train": 50_000, "test": 10_000},
    2,
    ("fine_label_names.txt", 100),
)
_PYTHON = {
    "CIFAR-10": ("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    "CIFAR-100": ("cifar-100-python", "cifar-100-python.tar.gz"),
}


def open_cifar10(root: Path, split: str) -> ImageSet:
    """Open ``cifar-10-batches-bin/`` or ``cifar-10-binary.tar.gz`` in ``root``; all pixels are kept in memory (150 MB).

    Args:
        split: "train" (50,000 images) or "test" (10,000), of 32 by 32 pixels.

    Raises:
        FileNotFoundError: neither is there, or a file is missing.
        ValueError: a file is damaged or not of the published size; only the Python version is there, which is of pickles.
    """
    return _open(_CIFAR10, root, split)


def open_cifar100(root: Path, split: str) -> ImageSet:
    """Open ``cifar-100-binary/`` or ``cifar-100-binary.tar.gz`` with its 100 fine labels; otherwise as ``open_cifar10``."""
    return _open(_CIFAR100, root, split)


def _open(form: _Form, root: Path, split: str) -> ImageSet:
    names_file, num_classes = form.names
    files = form.files[split]
    place, contents = _read(form, root, (names_file, *files))
    class_names = tuple(contents[names_file].decode(errors="replace").split())
    if len(class_names) != num_classes or len(set(class_names)) != num_classes:
        raise ValueError(
            f"{place}/{names_file} names {len(set(class_names))} classes in place of {num_classes}; {_again(form)}"
        )
    records = [
        _records(contents[file], f"{place}/{file}", form, form.records_of_file[split])
        for file in files
    ]
    labels = np.concatenate([part[:, form.labels - 1] for part in records]).astype(np.int64)
    if labels.max() >= num_classes:
        file, record = divmod(int(labels.argmax()), form.records_of_file[split])
        raise ValueError(
            f"{place}/{files[file]}, image {record}: label {labels.max()} is not below {num_classes}; {_again(form)}"
        )
    pixels = np.concatenate([_pixels(part[:, form.labels :]) for part in records])
    name = f"{form.title.lower().replace('-', '')}_{split}"
    return ImageSet(
        name, class_names, labels, ArraySource(pixels, tuple(f"{place}/{file}" for file in files))
    )


def _pixels(part: np.ndarray) -> np.ndarray:
    """(N, 3072), red, green and blue planes -> (N, 32, 32, 3)."""
    return np.ascontiguousarray(part.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1))


def _records(content: bytes, where: str, form: _Form, count: int) -> np.ndarray:
    """The bytes of a file -> uint8 (count, record length)."""
    expected = count * form.record_length
    if len(content) != expected:
        whole, rest = divmod(len(content), form.record_length)
        raise ValueError(
            f"{where} has {len(content)} bytes ({whole} images of {form.record_length} bytes{f' and {rest} bytes more' if rest else ''}), "
            f"where {form.title} has {expected} ({count} images); {_again(form)}"
        )
    return np.frombuffer(content, np.uint8).reshape(count, form.record_length)


def _read(form: _Form, root: Path, names: Sequence[str]) -> tuple[Path, dict[str, bytes]]:
    """Where the files are, and what is in them."""
    folder, archive = root / form.folder, root / form.archive
    if folder.is_dir():
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{form.title}: {folder} lacks {', '.join(missing)}; {_again(form)}"
            )
        return folder, {name: (folder / name).read_bytes() for name in names}
    if archive.is_file():
        return archive, _read_archive(form, archive, names)
    for python in _PYTHON[form.title]:
        if (root / python).exists():
            raise ValueError(
                f"{form.title}: {root / python} is the Python version, which is of pickles; they can run code and are not read: "
                f"download the binary version, {form.archive}, and put it into {root}"
            )
    raise FileNotFoundError(
        f"{form.title} is not there: neither {folder} nor {archive} exists; download the binary version ({form.archive}) and put it there "
        "as it is or extracted, or set DETECTRON2_DATASETS to its folder"
    )


def _read_archive(form: _Form, archive: Path, names: Sequence[str]) -> dict[str, bytes]:
    wanted = {f"{form.folder}/{name}": name for name in names}
    largest = max(form.records_of_file.values()) * form.record_length
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.name in wanted and member.isreg() else None
                if file is None:
                    continue
                if member.size > largest:
                    raise ValueError(f"{member.name} has {member.size} bytes, more than {largest}")
                found[wanted[member.name]] = file.read()
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{form.title}: {archive} is damaged ({reason}); {_again(form)}"
        ) from error
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(
            f"{form.title}: {archive} lacks {form.folder}/{missing[0]}; {_again(form)}"
        )
    return found


def _again(form: _Form) -> str:
    return f"download {form.archive} (the binary version) again"
