"""Class folders, flat folders and lists against torchvision's ImageFolder and plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from resnext_det.data.images.locations import (
    open_class_folders,
    open_flat_folder,
    open_list,
    read_class_names,
)
from tests.data.images.helpers import encoded, jpeg, picture, write_files

TREE = {
    "dog/b.JPEG": jpeg(0),
    "dog/a.jpg": jpeg(1),
    "dog/notes.txt": b"no image",
    "cat/z/2.jpeg": jpeg(2),
    "cat/z-1/3.jpg": jpeg(3),
    "cat/1.jpg": jpeg(4),
    "cat-big/deep/er/x y.webp": encoded(picture(7, 9), "WEBP"),
    "Zebra/ü.jpg": jpeg(5),
    "beside.jpg": jpeg(7),
}


def test_class_folders_equal_image_folder(tmp_path: Path) -> None:
    write_files(tmp_path / "set", TREE)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "w.jpg").write_bytes(jpeg(8))
    (tmp_path / "set" / "wolf").symlink_to(tmp_path / "elsewhere")
    reference = ImageFolder(str(tmp_path / "set"))
    found = open_class_folders(tmp_path / "set")
    assert list(found.class_names) == reference.classes
    assert found.labels.tolist() == reference.targets
    assert [found.locate(i) for i in range(len(found))] == [path for path, _ in reference.samples]
    assert len(found) == 8
    for i, (image, _) in enumerate(reference):
        np.testing.assert_array_equal(found.read(i), np.asarray(image))


def test_missing_folder_or_classes(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=rf"folder {tmp_path}/none does not exist; give a folder of"
    ):
        open_class_folders(tmp_path / "none")
    (tmp_path / "a.jpg").write_bytes(jpeg(0))
    with pytest.raises(
        FileNotFoundError, match=rf"folder {tmp_path} holds no class folders; give the folder"
    ):
        open_class_folders(tmp_path)


def test_classes_without_images(tmp_path: Path) -> None:
    write_files(tmp_path, {"cat/1.jpg": jpeg(0), "dog/readme.txt": b""})
    with pytest.raises(
        FileNotFoundError,
        match=r"holds no images for 1 of its 2 classes: dog; images end in .*\.jpeg.* elsewhere",
    ):
        open_class_folders(tmp_path)
    found = open_class_folders(tmp_path, allow_empty=True)
    assert found.class_names == ("cat", "dog")
    assert found.labels.tolist() == [0]


@pytest.mark.parametrize("splits", [("train", "val"), ("Train", "TEST"), ("train",)])
def test_splits_are_no_classes(tmp_path: Path, splits: tuple[str, ...]) -> None:
    write_files(tmp_path, {f"{split}/cat/1.jpg": jpeg(0) for split in splits})
    with pytest.raises(
        ValueError, match=r"no classes but splits of a set; open one of them, .*/(train|TEST)$"
    ):
        open_class_folders(tmp_path)


def test_a_flat_folder_is_in_the_order_of_names(tmp_path: Path) -> None:
    write_files(tmp_path, dict.fromkeys(("b.JPEG", "a.png", "c.txt", "sub/d.jpg"), b""))
    found = open_flat_folder(tmp_path)
    assert [found.locate(i) for i in range(len(found))] == [
        f"{tmp_path}/a.png",
        f"{tmp_path}/b.JPEG",
    ]


LIST = "dog/b.JPEG 1\n\n  cat/1.jpg 0\r\ncat-big/deep/er/x y.webp  2\ndog/a.jpg\t1\nbeside.jpg 0"


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    write_files(tmp_path / "set", TREE)
    (tmp_path / "list.txt").write_text(LIST)
    (tmp_path / "classes.txt").write_text("cat\nbig dog\n\nbig cat\n")
    return tmp_path


def test_a_list_names_images_and_labels(lists: Path) -> None:
    found = open_list(lists / "set", lists / "list.txt", lists / "classes.txt")
    names = ["dog/b.JPEG", "cat/1.jpg", "cat-big/deep/er/x y.webp", "dog/a.jpg", "beside.jpg"]
    assert [found.locate(i) for i in range(len(found))] == [f"{lists}/set/{name}" for name in names]
    assert found.labels.tolist() == [1, 0, 2, 1, 0]
    assert found.class_names == ("cat", "big dog", "big cat")
    for i, name in enumerate(names):
        np.testing.assert_array_equal(
            found.read(i),
            np.asarray(ImageFolder(str(lists / "set")).loader(f"{lists}/set/{name}")),
        )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cat/1.jpg", r"list\.txt, line 2: 'cat/1\.jpg' is not of the form 'path label'"),
        ("cat/1.jpg cat", r"line 2: 'cat/1\.jpg cat' is not of the form"),
        ("cat/1.jpg -1", r"line 2: .* is not of the form"),
        ("cat/1.jpg 1.0", r"line 2: .* is not of the form"),
        ("7", r"line 2: '7' is not of the form"),
        (
            "cat/1.jpg 3",
            r"line 2: label 3 has no class; the names of 3 classes are given, for .* 0 to 2",
        ),
    ],
)
def test_a_wrong_line_is_named(lists: Path, line: str, message: str) -> None:
    (lists / "list.txt").write_text(f"cat/1.jpg 0\n{line}\n")
    with pytest.raises(ValueError, match=message):
        open_list(lists / "set", lists / "list.txt", lists / "classes.txt")


def test_a_list_needs_its_three_parts(lists: Path) -> None:
    images, names, classes, none = (
        lists / part for part in ("set", "list.txt", "classes.txt", "none")
    )
    for parts in ((none, names, classes), (images, none, classes), (images, names, none)):
        with pytest.raises(FileNotFoundError, match=rf"{none} does not exist; "):
            open_list(*parts)
    (lists / "empty").write_text("\n \n")
    with pytest.raises(ValueError, match="empty names no images; write a line 'path label'"):
        open_list(images, lists / "empty", classes)
    with pytest.raises(
        ValueError, match="empty names no classes; write the name of one in each line"
    ):
        read_class_names(lists / "empty")
    (lists / "twice").write_text("a\nb\na\n")
    with pytest.raises(ValueError, match=r"twice names the class 'a' in lines 1 and 3"):
        read_class_names(lists / "twice")


def test_a_listed_image_that_is_not_there_is_named_when_it_is_read(lists: Path) -> None:
    (lists / "list.txt").write_text("cat/none.jpg 0\n")
    found = open_list(lists / "set", lists / "list.txt", lists / "classes.txt")
    with pytest.raises(
        FileNotFoundError, match=r"set/cat/none\.jpg does not exist; .*correct the list"
    ):
        found.read(0)
