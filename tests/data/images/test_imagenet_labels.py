"""The classes of ImageNet-1K's validation images from everything that says them, and what is damaged."""

from __future__ import annotations

import shutil
import sys
import tarfile
from pathlib import Path

import pytest
from torchvision.datasets import imagenet as torchvision_imagenet

from resnext_det.data.images.imagenet import validation_wnids
from tests.data.images.imagenet_files import (
    LABELS,
    NAMES,
    WNIDS,
    Put,
    meta,
    put_annotations,
    put_devkit,
    put_devkit_archive,
    savemat,
)


@pytest.mark.parametrize("put", LABELS)
def test_the_labels_of_every_source_are_the_same(tmp_path: Path, put: Put) -> None:
    put(tmp_path)
    assert validation_wnids(tmp_path) == WNIDS


def test_the_development_kit_is_read_as_torchvision_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_devkit_archive(tmp_path)
    monkeypatch.setattr(torchvision_imagenet, "_verify_archive", lambda *arguments: None)
    torchvision_imagenet.parse_devkit_archive(tmp_path)
    _, wnids = torchvision_imagenet.load_meta_file(tmp_path)
    assert list(validation_wnids(tmp_path).values()) == wnids


def damage_truth(folder: Path) -> None:
    put_devkit(folder)
    (folder / "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt").write_text(
        "1\n4\n"
    )


def damage_meta(folder: Path) -> None:
    put_devkit(folder)
    (folder / "ILSVRC2012_devkit_t12/data/meta.mat").write_bytes(meta()[:-200])


def other_meta(folder: Path) -> None:
    put_devkit(folder)
    savemat(folder / "ILSVRC2012_devkit_t12/data/meta.mat", {"x": 1})


def cut_devkit(folder: Path) -> None:
    put_devkit_archive(folder)
    path = folder / "ILSVRC2012_devkit_t12.tar.gz"
    path.write_bytes(path.read_bytes()[:300])


def other_devkit(folder: Path) -> None:
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz"):
        pass


def other_solution(folder: Path) -> None:
    (folder / "LOC_val_solution.csv").write_text("a,b\n")


def empty_row(folder: Path) -> None:
    (folder / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\nx,n01440764 1 2 3 4\ny,\n"
    )


def two_classes(folder: Path) -> None:
    put_annotations(folder)
    path = folder / "ILSVRC/Annotations/CLS-LOC/val" / f"{NAMES[0]}.xml"
    path.write_text(path.read_text().replace("n01440764", "n02119789", 1))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            damage_truth,
            r"validation_ground_truth\.txt, line 2: '4' is no id of a class; copy or download",
        ),
        (damage_meta, r"devkit_t12/data/meta\.mat is damaged \(.*\); copy or download it again"),
        (other_meta, r"devkit_t12/data/meta\.mat is damaged \(.*synsets.*\)"),
        (cut_devkit, r"development kit .*\.tar\.gz is damaged \(.*\); copy or download it again"),
        (other_devkit, r"development kit .*\.tar\.gz is damaged \(.*meta\.mat.*\)"),
        (other_solution, r"LOC_val_solution\.csv does not begin with ImageId,PredictionString"),
        (empty_row, r"LOC_val_solution\.csv, line 3: 'y,' names no class"),
        (two_classes, r"ILSVRC2012_val_00000001\.xml names 2 classes, where an image has one"),
    ],
)
def test_damaged_labels_are_named(tmp_path: Path, damage: Put, message: str) -> None:
    damage(tmp_path)
    with pytest.raises(ValueError, match=message):
        validation_wnids(tmp_path)


def test_a_development_kit_without_a_file(tmp_path: Path) -> None:
    put_devkit(tmp_path)
    shutil.move(tmp_path / "ILSVRC2012_devkit_t12/data/meta.mat", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"devkit_t12 lacks .*meta\.mat; extract .* again"):
        validation_wnids(tmp_path)


def test_scipy_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_devkit(tmp_path)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(
        ValueError, match=r"pip install scipy, or put Kaggle's LOC_val_solution\.csv beside it"
    ):
        validation_wnids(tmp_path)
