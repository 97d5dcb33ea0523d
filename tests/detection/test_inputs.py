"""The images and videos that are found among files and folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from resnext_det.detection.inputs import find_images, name_pictures


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6)).save(path)


def test_folders_are_searched_and_each_image_comes_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (
        "b.png",
        "a.JPG",
        "deep/er/c.jpeg",
        "deep/d.webp",
        "notes.txt",
        "LICENSE",
        "boxes.json",
        "clip.mp4",
        ".hidden",
        "out/a.png",
    ):
        if not name.endswith(("png", "JPG", "jpeg", "webp")):
            (tmp_path / name).write_text("{}")
        else:
            draw(tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    found = find_images([tmp_path, tmp_path / "b.png"], outside=tmp_path / "out")
    assert [str(path.relative_to(tmp_path)) for path in found] == [
        "a.JPG",
        "b.png",
        "deep/d.webp",
        "deep/er/c.jpeg",
    ]
    (told,) = caplog.messages
    assert told.startswith("passed over 4 files of the folders, which are no images that Pillow ")
    assert all(
        words in told
        for words in ("1 .txt", "1 .json", "1 .mp4", "1 without a suffix", "a video has")
    )
    assert tmp_path / "out/a.png" in find_images([tmp_path])
    assert find_images([str(tmp_path / "notes.txt")]) == [
        tmp_path / "notes.txt"
    ]  # asked for by name


def test_hidden_images_of_folders_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("a.png", ".hidden/a.png", "._a.png", "deep/__MACOSX/b.png", "deep/c.png")
    for name in (*names, ".DS_Store.png"):
        draw(tmp_path / ".cache" / name)
    (tmp_path / ".cache" / ".DS_Store").touch()
    found = find_images([tmp_path / ".cache"])
    assert found == [tmp_path / ".cache" / name for name in ("a.png", "deep/c.png")]
    assert caplog.messages == [
        f"{tmp_path}/.cache: passed over 4 hidden files and folders: "
        ".DS_Store.png, ._a.png, .hidden, deep/__MACOSX"
    ]
    hidden = tmp_path / ".cache" / "._a.png"  # asked for by name
    assert find_images([hidden]) == [hidden]


def test_inputs_that_hold_no_image(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for inputs, words in (
        ([tmp_path / "empty"], "there is no image in .*empty; give images, folders"),
        ([], "there is no image; give images"),
        ([tmp_path / "none.png"], "none.png does not exist; give images, folders"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            find_images(inputs)


def test_videos_and_cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.avi").touch()
    paths = find_images(["0", "clip.avi", tmp_path / "clip.avi"])
    assert paths == [Path("0"), Path("clip.avi")]
    targets = name_pictures([*paths, Path("clip.mov")], Path("out"))
    assert [target.name for target in targets] == ["camera_0.mp4", "clip.mp4", "clip_2.mp4"]
    targets = name_pictures([Path("x/A.JPG"), Path("y/a.jpg"), Path("a.bmp")], Path("out"))
    assert [target.name for target in targets] == ["A.jpg", "a_2.jpg", "a.png"]
    with pytest.raises(ValueError, match=r"clip\.mp4 would overwrite"):
        name_pictures([Path("clip.mp4")], Path("."))
