"""Annotations that are no COCO file are told by what they are, with what to do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from resnext_det.data.annotations.other_formats import describe_other_format
from resnext_det.data.coco import load_coco, register_coco

VOC = "<annotation><filename>1.jpg</filename></annotation>"
CVAT = '<?xml version="1.0"?>\n<annotations>\n<version>1.1</version></annotations>'
COCO = {"images": [], "annotations": [], "categories": []}

# What a file holds (its name is before the bar) -> what is told.
FILES: dict[str, tuple[str | bytes | Any, str]] = {
    "a.xml": (VOC, r"one image's annotations in Pascal VOC's XML; give .* --register-voc NAME \S+"),
    "b.xml": (CVAT, "CVAT's XML; export it from that program in the format COCO"),
    "c.xml": ("<svg></svg>", "an XML file of another format; convert it"),
    "1.txt": ("0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.1 0.1\n", r"one image's labels as YOLO .*-yolo NAME"),
    "data.yaml": (
        "train: images\nnames: [a, b]\n",
        r"a YOLO set; give it by --register-yolo NAME \S+data.yaml IMAGES",
    ),
    "a.csv": ("filename,xmin,ymin,xmax,ymax,class\n1.jpg,1,2,3,4,a\n", r"a table \(CSV\); convert"),
    "table.json": ("1.jpg;1;2;3;4;a\n", r"a table \(CSV\); convert"),
    "labelme.json": (
        {"version": "5.0", "shapes": [], "imagePath": "1.jpg"},
        "a labelme file of one",
    ),
    "via.json": ({"_via_img_metadata": {}}, r"VIA \(VGG Image Annotator\); export"),
    "via2.json": ({"1.jpg123": {"filename": "1.jpg", "regions": []}}, r"annotations of VIA"),
    "createml.json": ([{"image": "1.jpg", "annotations": []}], "CreateML's JSON, as labelImg"),
    "studio.json": (
        [{"id": 1, "data": {}, "annotations": []}],
        "a project of Label Studio; export",
    ),
    "results.json": ([{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}], "a file of results"),
    "rows.json": ([{"image_id": 1, "bbox": [1, 2, 3, 4]}], "a list of annotations alone; give"),
    "lines.json": (
        '{"file_name": "1.jpg"}\n{"file_name": "2.jpg"}\n',
        "JSON Lines, an object a line",
    ),
    "page.json": ("<!DOCTYPE html><html>404</html>", "a web page, as a failed download leaves it"),
    "pointer.json": ("version https://git-lfs.github.com/spec/v1\noid 1\n", "a pointer of Git LFS"),
    "a.zip": (b"PK\x03\x04....", "a zip archive; unpack it"),
    "a.json.gz": (b"\x1f\x8b\x08\x00....", "compressed by gzip; unpack it"),
    "photo.jpg": (b"\xff\xd8\xff\xe0....", "an image; give the annotations file"),
    "zeros.json": (bytes(5000), "nothing but zeros; copy or download it again"),
}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", FILES)
def test_a_file_is_recognized(tmp_path: Path, name: str) -> None:
    content, words = FILES[name]
    path = write(tmp_path / name, content)
    (tmp_path / "images").mkdir()
    register_coco("mine", path, tmp_path / "images")
    with pytest.raises(
        ValueError, match=rf"^dataset 'mine' \({re.escape(str(path))}\) is .*{words}"
    ):
        load_coco("mine")


FOLDERS: dict[str, tuple[list[str], str]] = {
    "VOC": (
        ["VOC2007/Annotations/a.xml"],
        "Pascal VOC's XML files; give .*voc NAME {0}/VOC2007/Ann",
    ),
    "CVAT": (["b.xml"], "a folder; its first XML file, b.xml, is CVAT's XML; export"),
    "YOLO": (
        ["labels/train/1.txt"],
        "YOLO's label files; give it by --register-yolo NAME {0}/labels/train",
    ),
    "YOLO with a description": (
        ["labels/1.txt", "data.yaml"],
        "YOLO set; give it by --register-yolo NAME {0}/data.yaml",
    ),
    "labelme": (["labelme.json"], "its first JSON file, labelme.json, is a labelme file of one"),
    "tables": (["a.csv"], r"a folder of tables \(a.csv\); convert"),
    "hidden files": (
        [".vscode/labelme.json", ".git/a.csv", "._1.txt", "photo.jpg"],
        "a folder without annotations; give the COCO file",
    ),
    "nothing": ([], "an empty folder; give the COCO file"),
    "photographs": (["photo.jpg"], "a folder without annotations; give the COCO file"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_recognized(tmp_path: Path, name: str) -> None:
    files, words = FOLDERS[name]
    for file in files:
        write(tmp_path / file, FILES.get(Path(file).name, ("",))[0])
    assert re.search(words.format(tmp_path), describe_other_format(tmp_path) or "")


@pytest.mark.usefixtures("alone")
def test_the_coco_files_of_a_folder_are_named(tmp_path: Path) -> None:
    for name in ("train", "val"):
        write(tmp_path / "annotations" / f"instances_{name}.json", COCO)
    register_coco("mine", tmp_path, tmp_path)
    with pytest.raises(
        ValueError, match=r"is a folder; give one COCO file in it: annotations/inst"
    ):
        load_coco("mine")


@pytest.mark.parametrize(
    "content", ["", COCO, {"images": []}, {"a": 1}, [], "{", '{"images": [', 7]
)
def test_what_is_or_may_be_a_coco_file_is_left_to_its_reader(tmp_path: Path, content: Any) -> None:
    assert describe_other_format(write(tmp_path / "a.json", content)) is None


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    assert describe_other_format(Path("/dev/zero")) == "a device; give a file"
    assert describe_other_format(tmp_path / "gone") is None
