"""Archives read in place against ImageFolder on what is extracted."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from resnext_det.data.images.archives import open_archive, open_archives_of_classes
from resnext_det.data.images.locations import open_path
from tests.data.images.helpers import (
    classes_of_images,
    encoded,
    expected,
    holdings,
    jpeg,
    member,
    nested,
    picture,
    pillow,
    tar_bytes,
    tree,
    write_files,
)

LONG = "long" * 40
TREE = {
    "dog/b.JPEG": jpeg(0),
    "cat/z/2.jpeg": jpeg(2),
    "dog/a.jpg": jpeg(1),
    "cat-big/deep/er/x y.webp": encoded(picture(7, 9), "WEBP"),
    "cat/z-1/3.jpg": jpeg(3),
    "dog/notes.txt": b"no image",
    "cat/1.jpg": jpeg(4),
    "Zebra/ü.jpg": jpeg(5),
    f"cat/{LONG}/1.jpg": encoded(picture(7, 9), "PNG"),
    "beside.jpg": jpeg(7),
}
CLASSES = classes_of_images(["n01440764", "n01443537", "n02012849"])


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("prefix", ["", "./", "train/", "./data/set/"])
def test_a_tree_equals_image_folder_on_the_extracted_archive(
    tmp_path: Path, format: int, prefix: str
) -> None:
    contents = [member(f"{prefix}dog", type=tarfile.DIRTYPE)]
    contents += [member(f"{prefix}{name}", content) for name, content in TREE.items()]
    if prefix not in (
        "",
        "./",
    ):  # images beside the folder of the class folders would not be below it
        contents = contents[:-1]
    (tmp_path / "set.tar").write_bytes(tar_bytes(contents, format))
    with tarfile.open(tmp_path / "set.tar") as tar:
        tar.extractall(tmp_path / "extracted", filter="data")
    reference = ImageFolder(str(tmp_path / "extracted" / prefix))
    found = open_archive(tmp_path / "set.tar")
    assert list(found.class_names) == reference.classes
    assert found.labels.tolist() == reference.targets
    names = [
        path.replace(str(tmp_path / "extracted"), str(tmp_path / "set.tar"))
        for path, _ in reference.samples
    ]
    assert [found.locate(i) for i in range(len(found))] == [str(Path(name)) for name in names]
    assert len(found) == 8
    for i, (image, _) in enumerate(reference):
        np.testing.assert_array_equal(found.read(i), np.asarray(image))


@pytest.mark.parametrize("prefix", ["", "winter21_whole/"])
def test_an_archive_of_archives(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "ILSVRC2012_img_train.tar"
    path.write_bytes(nested(CLASSES, prefix))
    found = open_archive(path)
    assert found.class_names == tuple(CLASSES)
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert found.locate(4) == f"{path}/{prefix}n01443537.tar/n01443537_1.JPEG"
    assert holdings(found) == expected(CLASSES)


def test_a_folder_of_archives(tmp_path: Path) -> None:
    write_files(tmp_path, {f"{name}.tar": tar_bytes(files) for name, files in CLASSES.items()})
    names = [f"{name}.tar" for name in reversed(CLASSES)]
    found = open_archives_of_classes(tmp_path, names)
    assert found.class_names == tuple(CLASSES)
    assert found.locate(4) == f"{tmp_path}/n01443537.tar/n01443537_1.JPEG"
    assert holdings(found) == expected(CLASSES)
    inner = {
        "n01440764/deep/1.JPEG": jpeg(1)
    }  # an archive with a folder in it is of its own class too
    (tmp_path / "n01440764.tar").write_bytes(tar_bytes(inner))
    found = open_archives_of_classes(tmp_path, names)
    assert found.locate(0) == f"{tmp_path}/n01440764.tar/n01440764/deep/1.JPEG"
    assert found.count_images().tolist() == [1, 3, 3]


def test_a_folder_of_archives_of_something_else(tmp_path: Path) -> None:
    write_files(
        tmp_path, {"a.tar": tar_bytes(CLASSES["n01440764"]), "b.tar": tar_bytes({"x.txt": b"x"})}
    )
    with pytest.raises(
        ValueError, match=r"there are no images in b\.tar; download them again, or remove"
    ):
        open_archives_of_classes(tmp_path, ["a.tar", "b.tar"])
    (tmp_path / "empty.tar").write_bytes(tar_bytes({}))
    (tmp_path / "lost+found").mkdir()
    assert open_path(tmp_path, allow_empty=True).class_names == ("a",)
    (tmp_path / "n02123394").mkdir()
    with pytest.raises(
        ValueError, match=r"has folders \(n02123394 ...\) and archives \(a\.tar ...\), so it is not"
    ):
        open_path(tmp_path, allow_empty=True)
    (tmp_path / "c.tar").write_bytes(nested(CLASSES))
    with pytest.raises(
        ValueError, match=r"c\.tar holds an archive, n01440764\.tar, .* by its own path"
    ):
        open_archives_of_classes(tmp_path, ["a.tar", "c.tar"])


def test_one_class_alone(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes({"cat/1.jpg": jpeg(0), "cat/more/2.jpg": jpeg(1)}))
    (tmp_path / "b.tar").write_bytes(nested({"n01440764": CLASSES["n01440764"]}))
    assert open_archive(tmp_path / "a.tar").class_names == ("cat",)
    assert open_archive(tmp_path / "b.tar").class_names == ("n01440764",)


def test_a_folder_in_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "all.tar"
    splits = {
        "val": classes_of_images(["cat", "dog"], 1),
        "train": classes_of_images(["cat", "emu"], 2),
    }
    contents = {
        f"top/{split}/{name}": content
        for split, classes in splits.items()
        for name, content in tree(classes).items()
    }
    path.write_bytes(tar_bytes(contents))
    for split, classes in splits.items():
        found = open_archive(path, f"top/{split}/")
        assert found.name == f"{path}/top/{split}"
        assert holdings(found) == expected(classes)
    with pytest.raises(
        ValueError, match=rf"{path}/top holds train, val, which are no classes .*{path}/top/train$"
    ):
        open_archive(path)
    with pytest.raises(
        FileNotFoundError, match=r"all\.tar holds no images .* in test; its folders are top"
    ):
        open_archive(path, "test")


def test_an_archive_without_classes_or_images(tmp_path: Path) -> None:
    (tmp_path / "flat.tar").write_bytes(tar_bytes(CLASSES["n01440764"]))
    with pytest.raises(
        ValueError, match=r"flat\.tar holds images and no class folders, .* make a list"
    ):
        open_archive(tmp_path / "flat.tar")
    (tmp_path / "none.tar").write_bytes(tar_bytes({"cat/1.txt": b"x"}))
    with pytest.raises(
        FileNotFoundError, match=r"none\.tar holds no images \(\.jpg.* in it; give an archive"
    ):
        open_archive(tmp_path / "none.tar")
    with pytest.raises(FileNotFoundError, match=r"other\.tar"):
        open_archive(tmp_path / "other.tar")


def test_files_of_macos_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(
        tar_bytes({"cat/._1.jpg": b"\x00\x05\x16\x07", "cat/1.jpg": jpeg(0)})
    )
    found = open_archive(tmp_path / "a.tar")
    assert [found.locate(i) for i in range(len(found))] == [f"{tmp_path}/a.tar/cat/1.jpg"]


def test_the_later_of_two_members_of_one_path_counts_as_when_extracted(tmp_path: Path) -> None:
    pairs = [
        member("cat/1.jpg", jpeg(0)),
        member("dog/1.jpg", jpeg(1)),
        member("./cat/1.jpg", jpeg(2)),
    ]
    (tmp_path / "a.tar").write_bytes(tar_bytes(pairs))
    found = open_archive(tmp_path / "a.tar")
    assert len(found) == 2
    np.testing.assert_array_equal(found.read(0), pillow(jpeg(2)))


def test_a_broken_member_and_a_lost_archive_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes({"cat/1.jpg": jpeg(0)[:200], "dog/1.jpg": jpeg(1)}))
    found = open_archive(path)
    with pytest.raises(
        ValueError, match=rf"image {path}/cat/1\.jpg cannot be read: .+; copy or download its"
    ):
        found.read(0)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(
        ValueError, match=rf"image {path}/dog/1\.jpg cannot be read: {path} ends before byte"
    ):
        found.read(1)
    path.unlink()
    with pytest.raises(
        FileNotFoundError,
        match=rf"dog/1\.jpg is not there: archive {path} does not exist any more; put it",
    ):
        found.read(1)


def test_reading_in_place_gives_the_bytes_that_tarfile_gives(tmp_path: Path) -> None:
    """Offsets of an archive in an archive, checked by tarfile's own reading."""
    path = tmp_path / "a.tar"
    path.write_bytes(nested(CLASSES))
    found = open_archive(path)
    with tarfile.open(path) as outer:
        for i in range(len(found)):
            inner_name, name = found.locate(i).split("/")[-2:]
            content = outer.extractfile(inner_name)
            assert content is not None
            with tarfile.open(fileobj=io.BytesIO(content.read())) as inner:
                image = inner.extractfile(name)
                assert image is not None
                np.testing.assert_array_equal(found.read(i), pillow(image.read()))
