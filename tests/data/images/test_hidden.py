"""Test that hidden files are neither classes nor images, in folders, archives and flat sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from resnext_det.data.images.catalog import open_image_set
from resnext_det.data.images.image_set import ImageSet, check_same_classes
from resnext_det.data.images.locations import open_flat_folder
from tests.data.images.helpers import jpeg, tar_bytes, write_files

VISIBLE = {"cat/1.jpg": jpeg(0), "cat/deep/2.jpg": jpeg(1), "dog/3.jpg": jpeg(2)}
# What Jupyter, git, Subversion, macOS, Synology, Windows and editors leave in sets of images.
HIDDEN = {
    ".ipynb_checkpoints/1-checkpoint.jpg": jpeg(3),
    ".git/HEAD": b"ref: refs/heads/main",
    ".svn/pristine/a.jpg": jpeg(4),
    "__MACOSX/cat/._1.jpg": b"\x00\x05\x16\x07",
    "@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg": jpeg(5),
    "$RECYCLE.BIN/$R1.jpg": jpeg(6),
    ".DS_Store": b"\x00\x00\x00\x01Bud1",
    "cat/._1.jpg": b"\x00\x05\x16\x07",
    "cat/.ipynb_checkpoints/1-checkpoint.jpg": jpeg(7),
    "cat/deep/@eaDir/2.jpg": jpeg(8),
    "dog/.hidden.png": b"",
    "dog/Thumbs.db": b"",
}
TOLD = (
    *(".ipynb_checkpoints", ".svn", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "cat/._1.jpg"),
    *("cat/.ipynb_checkpoints", "cat/deep/@eaDir", "dog/.hidden.png"),
)


def names_of(found: ImageSet, above: Path) -> list[str]:
    return [Path(found.locate(i)).relative_to(above).as_posix() for i in range(len(found))]


@pytest.fixture(autouse=True)
def all_names_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log names the first five; here all of them are to be seen."""
    monkeypatch.setattr("resnext_det.files.list_first", ", ".join)


@pytest.mark.parametrize("kind", ["folder", "tar", "tar of train/", "in a hidden folder"])
def test_hidden_folders_are_no_classes_and_hidden_files_no_images(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNEXT_DET_CACHE", str(tmp_path / "cache"))
    every = {**HIDDEN, **VISIBLE}
    root = tmp_path / (".cache/set" if kind == "in a hidden folder" else "set")
    if "tar" in kind:
        above = root = tmp_path / "set.tar"
        if kind == "tar of train/":
            every, above = {f"train/{name}": content for name, content in every.items()}, root
            above = root / "train"
        root.write_bytes(tar_bytes(every))
    else:
        above = write_files(root, every)
    for _ in range(2):  # of an archive the second time by its index
        caplog.clear()
        found = open_image_set(root)
        assert found.class_names == ("cat", "dog")
        assert names_of(found, above) == [*VISIBLE]
        assert found.labels.tolist() == [0, 0, 1]
        (message,) = caplog.messages
        assert "passed over" in message and all(name in message for name in TOLD)
        assert (".git," in message) is ("tar" not in kind)  # without an image no tar shows it
        assert "remove" not in message


def test_both_splits_have_the_same_classes(tmp_path: Path) -> None:
    write_files(tmp_path / "train", VISIBLE)
    write_files(tmp_path / "val", {**VISIBLE, ".ipynb_checkpoints/1-checkpoint.jpg": jpeg(3)})
    train, val = (open_image_set(tmp_path / split) for split in ("train", "val"))
    check_same_classes(train, val)
    assert len(val) == 3


def test_what_is_left_is_told_by_its_own_fault(tmp_path: Path) -> None:
    write_files(tmp_path / "a", {".git/1.jpg": jpeg(0), "1.jpg": jpeg(1)})
    with pytest.raises(FileNotFoundError, match=r"no class folders but hidden ones \(\.git\)"):
        open_image_set(tmp_path / "a")
    write_files(tmp_path / "b", {".git/HEAD": b"", "cat/1.jpg": jpeg(0), "docs/a.txt": b""})
    with pytest.raises(FileNotFoundError, match=r"1 of its 2 classes: docs; .* move") as caught:
        open_image_set(tmp_path / "b")
    assert "remove" not in str(caught.value) and ".git" not in str(caught.value)
    write_files(tmp_path / "c", {".git/HEAD": b"", "train/cat/1.jpg": b"", "val/cat/1.jpg": b""})
    with pytest.raises(ValueError, match="no classes but splits of a set"):
        open_image_set(tmp_path / "c")
    (tmp_path / "d.tar").write_bytes(tar_bytes({".git/1.jpg": jpeg(0), "cat/._1.jpg": b""}))
    with pytest.raises(FileNotFoundError, match=r"d\.tar holds no images"):
        open_image_set(tmp_path / "d.tar")
    (tmp_path / "e.tar").write_bytes(tar_bytes({".git/1.jpg": jpeg(0), "1.jpg": jpeg(0)}))
    with pytest.raises(ValueError, match=r"e\.tar holds images and no class folders"):
        open_image_set(tmp_path / "e.tar")


def test_hidden_archives_are_not_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """macOS's tar puts ._n01440764.tar, which is no archive, beside n01440764.tar."""
    inner = {f"{name}.tar": tar_bytes({"1.jpg": jpeg(0), "._1.jpg": b""}) for name in ("a", "b")}
    apple = {"._a.tar": b"\x00\x05\x16\x07" * 200, "__MACOSX/b.tar": b"\x00\x05\x16\x07"}
    (tmp_path / "nested.tar").write_bytes(tar_bytes({**apple, **inner}))
    found = open_image_set(tmp_path / "nested.tar")
    assert found.class_names == ("a", "b") and len(found) == 2
    assert caplog.messages == [
        f"{tmp_path}/nested.tar: passed over 4 hidden files and folders: "
        "._a.tar, __MACOSX, a.tar/._1.jpg, b.tar/._1.jpg"
    ]
    caplog.clear()
    write_files(tmp_path / "tars", {**inner, **apple, ".git/HEAD": b"", "@eaDir/x.jpg": b""})
    found = open_image_set(tmp_path / "tars")
    assert found.class_names == ("a", "b") and len(found) == 2
    assert caplog.messages == [
        f"{tmp_path}/tars: passed over 1 hidden files and folders: ._a.tar",
        f"{tmp_path}/tars: passed over 2 hidden files and folders: a.tar/._1.jpg, b.tar/._1.jpg",
    ]


def test_images_in_no_class_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As ImageNet's validation images are."""
    write_files(tmp_path, {"1.jpg": jpeg(0), "._1.jpg": b"\x00\x05", ".git/2.jpg": jpeg(1)})
    assert len(open_flat_folder(tmp_path)) == 1
    assert caplog.messages == [f"{tmp_path}: passed over 1 hidden files and folders: ._1.jpg"]
