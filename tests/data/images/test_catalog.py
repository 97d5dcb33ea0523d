"""Image sets by name and by path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from resnext_det.data import shapes
from resnext_det.data.images.catalog import list_image_sets, open_image_set
from resnext_det.data.images.image_set import check_same_classes
from tests.data.images.helpers import (
    classes_of_images,
    expected,
    holdings,
    nested,
    tar_bytes,
    tree,
    write_cifar,
    write_files,
)

CLASSES = classes_of_images(["cat", "dog", "emu"], per_class=2)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    (tmp_path / "datasets").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "datasets"


def test_every_name_is_looked_up_where_datasets_lie(root: Path, tmp_path: Path) -> None:
    assert list_image_sets() == (
        "cifar100_test",
        "cifar100_train",
        "cifar10_test",
        "cifar10_train",
        "imagenet5k_train",
        "imagenet5k_val",
        "imagenet_train",
        "imagenet_val",
        "shape_images_train",
        "shape_images_val",
    )
    for name in list_image_sets():
        if name.startswith("shape"):
            continue
        with pytest.raises(
            FileNotFoundError, match=rf"is not there: .*{root}.*DETECTRON2_DATASETS"
        ):
            open_image_set(name)
        with pytest.raises(FileNotFoundError, match=rf"is not there: .*{tmp_path}/other/"):
            open_image_set(name, root=tmp_path / "other")


def test_imagenet_by_name(root: Path) -> None:
    write_files(root / "imagenet" / "val", tree(CLASSES))
    write_files(root / "imagenet", {"ILSVRC2012_img_train.tar": nested(CLASSES)})
    train, val = open_image_set("imagenet_train"), open_image_set("imagenet_val")
    check_same_classes(train, val)
    assert holdings(train) == holdings(val) == expected(CLASSES)
    assert (train.name, val.name) == ("imagenet_train", "imagenet_val")


@pytest.mark.parametrize("number", [10, 100])
def test_cifar_by_name(root: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(root, number, monkeypatch)
    train, test = open_image_set(f"cifar{number}_train"), open_image_set(f"cifar{number}_test")
    check_same_classes(train, test)
    assert (train.name, test.name) == (f"cifar{number}_train", f"cifar{number}_test")
    assert not np.array_equal(train.read(0), test.read(0))


def test_generated_shapes_by_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shapes.STANDARD_IMAGES_PER_CLASS == {"train": 1000, "val": 100}
    monkeypatch.setattr(shapes, "STANDARD_IMAGES_PER_CLASS", {"train": 3, "val": 2})
    train, val = open_image_set("shape_images_train"), open_image_set("shape_images_val")
    assert train.class_names == shapes.SHAPE_CLASSES
    check_same_classes(train, val)
    assert (train.name, val.name) == ("shape_images_train", "shape_images_val")
    assert train.count_images().tolist() == [3] * 6
    assert val.count_images().tolist() == [2] * 6
    folder = root / "shape_images" / f"v{shapes.VERSION}"
    for found, split in ((train, "train"), (val, "val")):
        for i, (image, label) in enumerate(ImageFolder(str(folder / split))):
            assert found.labels[i] == label
            assert image.size == (64, 64)
            np.testing.assert_array_equal(found.read(i), np.asarray(image))
    before = (folder / "train" / "ring" / "00000.jpg").stat().st_mtime_ns
    open_image_set("shape_images_train")
    assert (folder / "train" / "ring" / "00000.jpg").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="no split 'test'; write one of train, val"):
        shapes.prepare_shape_images(root, "test")


def test_a_path_of_every_kind(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {f"train/{name}": content for name, content in tree(CLASSES).items()}
    write_files(tmp_path / "folder", tree(CLASSES))
    write_files(
        tmp_path / "tars", {f"{name}.tar": tar_bytes(files) for name, files in CLASSES.items()}
    )
    (tmp_path / "tars" / ".hidden").mkdir()
    (tmp_path / "tree.tar").write_bytes(tar_bytes(contents))
    (tmp_path / "nested.tar").write_bytes(nested(CLASSES))
    labels = {name: label for label, name in enumerate(CLASSES)}
    lines = [f"{name} {labels[name.split('/')[0]]}" for name in tree(CLASSES)]
    write_files(
        tmp_path, {"l.txt": "\n".join(lines).encode(), "c.txt": "\n".join(CLASSES).encode()}
    )
    wheres = [
        "folder",
        "tars",
        "tars/",
        "tree.tar",
        "tree.tar/train",
        "nested.tar",
        "folder:l.txt:c.txt",
    ]
    for where in wheres:
        found = open_image_set(where)
        assert holdings(found) == expected(CLASSES)
        assert found.class_names == ("cat", "dog", "emu")
        assert found.name.strip("/") == where.strip("/")
    assert holdings(open_image_set(tmp_path / "folder")) == expected(CLASSES)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(open_image_set("~/folder")) == len(open_image_set("~/folder:~/l.txt:~/c.txt")) == 6


def test_unknown_names_and_paths(root: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"'imagnet_train' is neither a name nor a path \(did you mean imagenet_train\?\); "
        r"names are cifar100_.*"
        r"a path is a folder of class folders, .*LIST\.txt:CLASSES\.txt",
    ):
        open_image_set("imagnet_train")
    with pytest.raises(ValueError, match="'zzz' is neither a name nor a path; names are"):
        open_image_set("zzz")
    for where in ("none/train", "none.tar", "./none", "a:b"):
        with pytest.raises(
            FileNotFoundError, match=rf"image set '{where}': there is no such path; give a folder"
        ):
            open_image_set(where)
    with pytest.raises(
        FileNotFoundError,
        match=r"folder a does not exist; give the folder that holds the paths of b",
    ):
        open_image_set("a:b:c")
    Path("file.txt").write_text("x" * 2000)
    with pytest.raises(ValueError, match=r"file\.txt is no tar archive"):
        open_image_set("file.txt")
