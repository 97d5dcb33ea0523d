"""ImageNet-1K in each of its published arrangements."""

from __future__ import annotations

from pathlib import Path

import pytest

from resnext_det.data.images import imagenet
from resnext_det.data.images.imagenet import open_imagenet
from tests.data.images.image_files import (
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
    LEAVES,
    TRAIN,
    WNIDS,
    Put,
    put_archive,
    put_devkit,
    put_devkit_archive,
    put_flat,
    put_kaggle,
    put_solution,
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
        match=rf"{tmp_path}/val holds 7 images: 1 without a label, cat the first, 1 of 7 missing; copy",
    ):
        open_imagenet(tmp_path, "val")
