"""CIFAR's binary files against torchvision, which reads the Python version of the same pixels."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.datasets import cifar as torchvision_cifar

from resnext_det.data.images import cifar
from resnext_det.data.images.cifar import open_cifar10, open_cifar100
from tests.data.images.cifar_files import (
    FILES,
    NAMES10,
    RECORDS,
    SETS,
    cifar10,
    few_records,
    put,
)
from tests.data.images.helpers import tar_bytes, write_files


@pytest.fixture(autouse=True)
def _few_records(monkeypatch: pytest.MonkeyPatch) -> None:
    few_records(monkeypatch)


@pytest.mark.parametrize("form", ["folder", "archive"])
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("number", [10, 100])
def test_pixels_and_labels_equal_torchvision(
    tmp_path: Path, number: int, split: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, reference_class, make, _, _ = SETS[number]
    put(tmp_path, number, form)
    write_files(tmp_path / "python" / reference_class.base_folder, make()[1])
    monkeypatch.setattr(torchvision_cifar, "check_integrity", lambda *arguments: True)
    reference = reference_class(str(tmp_path / "python"), train=split == "train")
    found = opened(tmp_path, split)
    assert found.name == f"cifar{number}_{split}"
    assert list(found.class_names) == reference.classes
    assert found.labels.tolist() == reference.targets
    assert len(found) == RECORDS * len(FILES[split] if number == 10 else [split])
    for i, (image, _) in enumerate(reference):
        np.testing.assert_array_equal(found.read(i), np.asarray(image))
    assert (found.read(0).shape, found.read(0).dtype) == ((32, 32, 3), np.uint8)


def test_an_image_is_named_by_its_file_and_place(tmp_path: Path) -> None:
    put(tmp_path, 10, "folder")
    name = open_cifar10(tmp_path, "train").file_name(2 * RECORDS + 7)
    assert name == f"{tmp_path}/cifar-10-batches-bin/data_batch_3.bin, image 7"


def test_the_published_numbers_of_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of files of the published sizes, without content: 30,730,000 bytes a batch, 153,700,000 and 30,740,000."""
    monkeypatch.undo()
    sizes = {f"cifar-10-batches-bin/{name}.bin": 30_730_000 for name in FILES["test"]}
    sizes |= {"cifar-100-binary/test.bin": 30_740_000}
    put(tmp_path, 10, "folder")
    put(tmp_path, 100, "folder")
    for name, size in sizes.items():
        with open(tmp_path / name, "wb") as file:
            file.truncate(size)
    assert len(open_cifar10(tmp_path, "test")) == len(open_cifar100(tmp_path, "test")) == 10_000
    assert cifar._CIFAR10.records_of_file["train"] * 3073 == 30_730_000
    assert cifar._CIFAR100.records_of_file["train"] * 3074 == 153_700_000


@pytest.mark.parametrize("form", ["folder", "archive"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            -1,
            r"data_batch_2\.bin has 36875 bytes \(11 images of 3073 bytes and 3072 bytes more\), where CIFAR-10 has",
        ),
        (
            -3073,
            r"data_batch_2\.bin has 33803 bytes \(11 images of 3073 bytes\), .* 36876 \(12 images\); download",
        ),
        (3073, r"data_batch_2\.bin has 39949 bytes"),
    ],
)
def test_files_of_another_size_are_refused(
    tmp_path: Path, form: str, change: int, message: str
) -> None:
    binary = cifar10()[0]
    content = binary["data_batch_2.bin"] + bytes(max(0, change))
    binary["data_batch_2.bin"] = content[: len(content) + min(0, change)]
    named = {f"cifar-10-batches-bin/{name}": content for name, content in binary.items()}
    if form == "folder":
        write_files(tmp_path, named)
    else:
        (tmp_path / "cifar-10-binary.tar.gz").write_bytes(gzip.compress(tar_bytes(named)))
    with pytest.raises(ValueError, match=message):
        open_cifar10(tmp_path, "train")
    assert len(open_cifar10(tmp_path, "test")) == RECORDS


def test_a_label_without_a_class_is_refused(tmp_path: Path) -> None:
    put(tmp_path, 10, "folder")
    path = tmp_path / "cifar-10-batches-bin/data_batch_4.bin"
    content = bytearray(path.read_bytes())
    content[5 * 3073] = 10
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"data_batch_4\.bin, image 5: label 10 is not below 10; download"
    ):
        open_cifar10(tmp_path, "train")


def test_class_names_of_another_set_are_refused(tmp_path: Path) -> None:
    put(tmp_path, 100, "folder")
    (tmp_path / "cifar-100-binary/fine_label_names.txt").write_text("\n".join(NAMES10))
    with pytest.raises(ValueError, match=r"fine_label_names\.txt names 10 classes in place of 100"):
        open_cifar100(tmp_path, "train")


@pytest.mark.parametrize(
    ("number", "python"),
    [(10, "cifar-10-batches-py"), (10, "cifar-10-python.tar.gz"), (100, "cifar-100-python")],
)
def test_the_python_version_is_not_read(tmp_path: Path, number: int, python: str) -> None:
    (tmp_path / python).mkdir()
    archive = SETS[number][4]
    with pytest.raises(
        ValueError,
        match=rf"{python} is the Python version, which is of pickles; .* not read: .* {archive}, and put",
    ):
        SETS[number][0](tmp_path, "train")
    put(tmp_path, number, "folder")
    assert len(SETS[number][0](tmp_path, "test")) == RECORDS


def test_missing_data(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=rf"CIFAR-10 is not there: neither {tmp_path}/cifar-10-batches-bin nor {tmp_path}/cifar",
    ):
        open_cifar10(tmp_path, "train")
    put(tmp_path, 100, "folder")
    (tmp_path / "cifar-100-binary/test.bin").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"CIFAR-100: .*/cifar-100-binary lacks test\.bin; download"
    ):
        open_cifar100(tmp_path, "test")


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _without(content: bytes) -> bytes:
    return gzip.compress(tar_bytes({"cifar-10-batches-bin/readme.html": b"x"}))


def _link(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        information = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        information.type, information.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(information)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut, r"cifar-10-binary\.tar\.gz is damaged \(.+\); download"),
        (lambda content: b"<html>", r"cifar-10-binary\.tar\.gz is damaged \(.+\); download"),
        (_without, r"cifar-10-binary\.tar\.gz lacks cifar-10-batches-bin/batches\.meta\.txt"),
        (_link, r"cifar-10-binary\.tar\.gz lacks"),
    ],
)
def test_a_damaged_archive_is_refused(tmp_path: Path, damage: Any, message: str) -> None:
    put(tmp_path, 10, "archive")
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        open_cifar10(tmp_path, "test")
