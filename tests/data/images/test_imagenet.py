"""ImageNet-1K in each of its published arrangements, and the labels of its validation images."""

from __future__ import annotations

import gzip
import shutil
import sys
import tarfile
from pathlib import Path

import pytest
from torchvision.datasets import imagenet as torchvision_imagenet

from resnext_det.data.images import imagenet
from resnext_det.data.images.imagenet import open_imagenet, read_validation_wnids
from tests.data.images.helpers import (
    expected,
    holdings,
    jpeg,
    nested,
    pillow,
    tar_bytes,
    tree,
    write_files,
)
from tests.data.images.imagenet_files import (
    GROUND_TRUTH,
    IMAGES,
    LABELS,
    LEAVES,
    NAMES,
    TRAIN,
    WNIDS,
    Put,
    meta,
    put_annotations,
    put_archive,
    put_devkit,
    put_devkit_archive,
    put_flat,
    put_kaggle,
    put_solution,
    savemat,
)


@pytest.mark.parametrize("labels", [put_devkit_archive, put_solution])
@pytest.mark.parametrize("images", [put_flat, put_kaggle, put_archive])
def test_validation_images_without_class_folders(tmp_path: Path, images: Put, labels: Put) -> None:
    images(tmp_path)
    labels(tmp_path)
    found = open_imagenet(tmp_path, "val")
    assert found.name == "imagenet_val"
    assert found.class_names == ("n01440764", "n02100735", "n02119789")
    assert holdings(found) == {
        name: (WNIDS[name.removesuffix(".JPEG")], pillow(content).tobytes())
        for name, content in IMAGES.items()
    }


def test_validation_images_in_class_folders_need_no_labels(tmp_path: Path) -> None:
    write_files(tmp_path / "val", tree(TRAIN))
    assert holdings(open_imagenet(tmp_path, "val")) == expected(TRAIN)


def put_train_folders(folder: Path) -> None:
    write_files(folder / "train", tree(TRAIN))


def put_train_kaggle(folder: Path) -> None:
    write_files(folder / "ILSVRC/Data/CLS-LOC/train", tree(TRAIN))


def put_train_archive(folder: Path) -> None:
    write_files(folder, {"ILSVRC2012_img_train.tar": nested(TRAIN)})


def put_train_archives(folder: Path) -> None:
    write_files(
        folder / "train", {f"{name}.tar": tar_bytes(files) for name, files in TRAIN.items()}
    )


@pytest.mark.parametrize(
    "put", [put_train_folders, put_train_kaggle, put_train_archive, put_train_archives]
)
def test_training_images(
    tmp_path: Path, put: Put, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path)
    found = open_imagenet(tmp_path, "train")
    assert (found.name, found.class_names) == ("imagenet_train", tuple(sorted(TRAIN)))
    assert holdings(found) == expected(TRAIN)
    assert "9 images of 3 classes, where the published set has 1281167 of 1000" in caplog.text
    caplog.clear()
    monkeypatch.setattr(imagenet, "NUM_CLASSES", 3)
    monkeypatch.setitem(imagenet.NUM_IMAGES, "train", 9)
    open_imagenet(tmp_path, "train")
    assert not caplog.records


def test_the_published_class_order_is_that_of_torchvision(tmp_path: Path) -> None:
    """The label of a WordNet id is its place in ascending order, not its ILSVRC2012 id."""
    put_flat(tmp_path)
    put_devkit(tmp_path)
    found = open_imagenet(tmp_path, "val")
    assert found.labels.tolist() == [sorted(LEAVES.values()).index(LEAVES[i]) for i in GROUND_TRUTH]


def test_missing_images_or_labels(tmp_path: Path) -> None:
    for split in ("train", "val"):
        with pytest.raises(
            FileNotFoundError,
            match=rf"'imagenet_{split}' is not there: none of {tmp_path}/{split}, .*\.tar exists",
        ):
            open_imagenet(tmp_path, split)
    put_flat(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=rf"nothing in {tmp_path} says their classes; put there ILSVRC"
    ):
        open_imagenet(tmp_path, "val")


def test_images_and_labels_that_do_not_fit_together(tmp_path: Path) -> None:
    put_flat(tmp_path)
    put_solution(tmp_path)
    (tmp_path / "val" / "ILSVRC2012_val_00000002.JPEG").unlink()
    (tmp_path / "val" / "cat.jpg").write_bytes(jpeg(0))
    with pytest.raises(
        ValueError,
        match=rf"{tmp_path}/val holds 7 images: 1 without a label, cat the first, 1 of 7 missing; "
        "copy",
    ):
        open_imagenet(tmp_path, "val")


@pytest.mark.parametrize("put", LABELS)
def test_the_labels_of_every_source_are_the_same(tmp_path: Path, put: Put) -> None:
    put(tmp_path)
    assert read_validation_wnids(tmp_path) == WNIDS


def test_the_development_kit_is_read_as_torchvision_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_devkit_archive(tmp_path)
    monkeypatch.setattr(torchvision_imagenet, "_verify_archive", lambda *arguments: None)
    torchvision_imagenet.parse_devkit_archive(tmp_path)
    _, wnids = torchvision_imagenet.load_meta_file(tmp_path)
    assert list(read_validation_wnids(tmp_path).values()) == wnids


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


def huge_devkit(folder: Path) -> None:
    with gzip.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "wb", compresslevel=1) as file:
        for _ in range(65):
            file.write(bytes(1 << 20))


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
        (huge_devkit, r"\.tar\.gz is damaged \(it holds over 64 MiB, where the kit has 3\)"),
        (other_solution, r"LOC_val_solution\.csv does not begin with ImageId,PredictionString"),
        (empty_row, r"LOC_val_solution\.csv, line 3: 'y,' names no class"),
        (two_classes, r"ILSVRC2012_val_00000001\.xml names 2 classes, where an image has one"),
    ],
)
def test_damaged_labels_are_named(tmp_path: Path, damage: Put, message: str) -> None:
    damage(tmp_path)
    with pytest.raises(ValueError, match=message):
        read_validation_wnids(tmp_path)


def test_a_development_kit_without_a_file(tmp_path: Path) -> None:
    put_devkit(tmp_path)
    shutil.move(tmp_path / "ILSVRC2012_devkit_t12/data/meta.mat", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"devkit_t12 lacks .*meta\.mat; extract .* again"):
        read_validation_wnids(tmp_path)


def test_scipy_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_devkit(tmp_path)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(
        ValueError, match=r"pip install scipy, or put Kaggle's LOC_val_solution\.csv beside it"
    ):
        read_validation_wnids(tmp_path)
