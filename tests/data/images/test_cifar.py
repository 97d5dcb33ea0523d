"""CIFAR is read by torchvision from its Python version, and what is missing or damaged is named."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnext_det.data.images.cifar import open_cifar10, open_cifar100
from resnext_det.data.images.image_set import ImageSet
from tests.data.images.helpers import CIFAR, RECORDS, write_cifar

OPEN: dict[int, Callable[[Path, str], ImageSet]] = {10: open_cifar10, 100: open_cifar100}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("number", [10, 100])
def test_pixels_and_labels_equal_torchvision(
    tmp_path: Path, number: int, split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(tmp_path, number, monkeypatch)
    reference = CIFAR[number](str(tmp_path), train=split == "train")
    found = OPEN[number](tmp_path, split)
    assert found.name == f"cifar{number}_{split}"
    assert list(found.class_names) == reference.classes
    assert found.labels.tolist() == reference.targets
    assert len(found) == RECORDS * (5 if (number, split) == (10, "train") else 1)
    for i, (image, _) in enumerate(reference):
        np.testing.assert_array_equal(found.read(i), np.asarray(image))
    assert (found.read(0).shape, found.read(0).dtype) == ((32, 32, 3), np.uint8)
    assert found.read(0).flags["C_CONTIGUOUS"]


def test_pixels_are_those_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red, green and blue planes of 32 rows each, as the publisher describes them."""
    folder = write_cifar(tmp_path, 10, monkeypatch)
    found = open_cifar10(tmp_path, "train")
    record = pickle.loads((folder / "data_batch_3").read_bytes())
    index = 2 * RECORDS + 7
    assert found.locate(index) == f"{folder}/data_batch_3, image 7"
    assert found.labels[index] == record["labels"][7]
    planes = record["data"][7].reshape(3, 32, 32)
    np.testing.assert_array_equal(found.read(index), np.stack(list(planes), axis=2))


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["TRAP"],)


@pytest.mark.parametrize(
    ("number", "names"), [(10, ["test_batch", "batches.meta"]), (100, ["test", "train", "meta"])]
)
def test_files_that_are_not_the_published_ones_are_named_and_run_no_code(
    tmp_path: Path, number: int, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_cifar(tmp_path, number, monkeypatch)
    monkeypatch.setenv("TRAP", str(tmp_path / "was-run"))
    for name in names:
        whole = (folder / name).read_bytes()
        for content in (whole[:-10], b"", pickle.dumps(_Trap()), None):
            (folder / name).unlink()
            if content is not None:
                (folder / name).write_bytes(content)
            archive = rf"cifar-{number}-python\.tar\.gz"
            with pytest.raises(
                ValueError,
                match=rf"CIFAR-{number}: {name} in {folder} are missing or damaged: their MD5 is "
                rf"not that of .*download {archive} to {tmp_path} again .*: tar -xzf .*{archive}",
            ):
                OPEN[number](tmp_path, "train")
            (folder / name).write_bytes(whole)
    assert not (tmp_path / "was-run").exists()
    (folder / names[0]).write_bytes(b"")
    (folder / names[1]).write_bytes(b"")
    with pytest.raises(ValueError, match=f"{names[0]}.* in .* are missing or damaged"):
        OPEN[number](tmp_path, "test")


@pytest.mark.parametrize("number", [10, 100])
def test_missing_data(tmp_path: Path, number: int) -> None:
    archive = rf"cifar-{number}-python\.tar\.gz"
    with pytest.raises(
        FileNotFoundError,
        match=rf"CIFAR-{number} is not there: .* does not exist; copy or download {archive} \(the "
        rf"Python version; .*: tar -xzf {tmp_path}/{archive} -C {tmp_path}, or set DETECTRON2_DATA",
    ):
        OPEN[number](tmp_path, "train")
    (tmp_path / CIFAR[number].filename).write_bytes(b"archive")
    with pytest.raises(
        FileNotFoundError,
        match=rf"is not there: .*{archive} is not extracted; extract it with: tar -xzf {tmp_path}",
    ):
        OPEN[number](tmp_path, "train")


def test_the_command_of_the_error_extracts_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_cifar(tmp_path, 10, monkeypatch)
    base = str(tmp_path / "cifar-10-python")
    shutil.make_archive(base, "gztar", root_dir=tmp_path, base_dir=folder.name)
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError) as error:
        open_cifar10(tmp_path, "test")
    assert os.system(str(error.value).rpartition("with: ")[2]) == 0
    assert len(open_cifar10(tmp_path, "test")) == RECORDS
