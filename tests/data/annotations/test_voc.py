"""Pascal VOC's XML as COCO annotations, beside supervision's and detectron2's readers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnext_det.data.annotations.voc import convert_voc, read_voc

Thing = tuple[str, tuple[float, ...]]


def write_voc(
    folder: Path, place: str, things: list[Thing], *, size: str | None = None, more: str = ""
) -> Path:
    """Write an image of 60 x 40 and its XML file."""
    image = folder / "JPEGImages" / f"{place}.jpg"
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 40)).save(image)
    if size is None:
        size = "<size><width>60</width><height>40</height><depth>3</depth></size>"
    objects = "".join(
        f"<object><name>{name}</name>{more}<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>"
        f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for name, box in things
    )
    path = folder / "Annotations" / f"{place}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation><filename>{Path(place).name}.jpg</filename>{size}{objects}</annotation>"
    )
    return path


def convert(folder: Path, annotations: Path | None = None) -> dict[str, Any]:
    images, names = read_voc(annotations or folder / "Annotations")
    return convert_voc(images, folder / "JPEGImages", sorted(names))


def list_boxes(content: dict[str, Any]) -> list[list[float]]:
    return [annotation["bbox"] for annotation in content["annotations"]]


def test_the_annotations_are_cocos(tmp_path: Path) -> None:
    write_voc(tmp_path, "b", [("dog", (1, 1, 60, 40)), ("cat", (11, 6, 30, 25))])
    write_voc(tmp_path, "a", [])
    write_voc(tmp_path, "sub/c", [("dog", (2.5, 3, 9.5, 4))], more="<difficult>1</difficult>")
    assert convert(tmp_path) == {
        "images": [
            {"id": 1, "file_name": "a.jpg", "width": 60, "height": 40},
            {"id": 2, "file_name": "b.jpg", "width": 60, "height": 40},
            {"id": 3, "file_name": "sub/c.jpg", "width": 60, "height": 40},
        ],
        "annotations": [
            {"id": 1, "image_id": 2, "category_id": 2, "bbox": [0, 0, 60, 40]}
            | {"area": 2400, "iscrowd": 0},
            {"id": 2, "image_id": 2, "category_id": 1, "bbox": [10, 5, 20, 20]}
            | {"area": 400, "iscrowd": 0},
            {"id": 3, "image_id": 3, "category_id": 2, "bbox": [1.5, 2, 8, 2]}
            | {"area": 16, "iscrowd": 1},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def test_hidden_files_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_voc(tmp_path, "a", [("dog", (1, 1, 60, 40))])
    expected = convert(tmp_path)
    write_voc(tmp_path, ".ipynb_checkpoints/a-checkpoint", [("cat", (1, 1, 60, 40))])
    for folder, name in (("Annotations", "._a.xml"), ("JPEGImages", "._a.jpg")):
        (tmp_path / folder / name).write_bytes(b"\x00\x05\x16\x07")
    assert convert(tmp_path) == expected
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        "passed over 2 hidden files and folders: ._a.xml, .ipynb_checkpoints",
        "passed over 2 hidden files and folders: ._a.jpg, .ipynb_checkpoints",
    ]


def make_random(folder: Path) -> None:
    random = np.random.RandomState(0)
    for place in "abcd":
        lows = random.randint(1, 20, (3, 2))
        boxes = np.concatenate([lows, lows + random.randint(5, 20, (3, 2))], axis=1)
        names = random.choice(["cat", "dog", "aeroplane"], 3)
        write_voc(folder, place, [(str(n), tuple(b.tolist())) for n, b in zip(names, boxes)])


def as_rows(content: dict[str, Any]) -> dict[str, list[tuple[str, list[float]]]]:
    """List class names and corners by file name."""
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    rows: dict[str, list[tuple[str, list[float]]]] = {}
    files = {image["id"]: image["file_name"] for image in content["images"]}
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        row = (names[annotation["category_id"]], [float(n) for n in (x, y, x + w, y + h)])
        rows.setdefault(files[annotation["image_id"]], []).append(row)
    return rows


def test_boxes_equal_those_of_supervision(tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision")
    make_random(tmp_path)
    theirs = supervision.DetectionDataset.from_pascal_voc(
        str(tmp_path / "JPEGImages"), str(tmp_path / "Annotations")
    )
    ours = as_rows(convert(tmp_path))
    assert len(theirs.annotations) == len(ours) == 4
    for path, found in theirs.annotations.items():
        names = [theirs.classes[index] for index in found.class_id]
        assert ours[Path(path).name] == list(zip(names, found.xyxy.tolist()))


@pytest.mark.detectron2
def test_boxes_equal_those_of_detectron2(tmp_path: Path) -> None:
    voc = pytest.importorskip("detectron2.data.datasets.pascal_voc")
    make_random(tmp_path)
    names = tmp_path / "ImageSets" / "Main" / "train.txt"
    names.parent.mkdir(parents=True)
    names.write_text("a\nc\n")
    classes = ["aeroplane", "cat", "dog"]
    theirs = voc.load_voc_instances(str(tmp_path), "train", classes)
    ours = as_rows(convert(tmp_path, names))
    assert [*ours] == ["a.jpg", "c.jpg"]
    for record in theirs:
        rows = [(classes[a["category_id"]], a["bbox"]) for a in record["annotations"]]
        assert ours[Path(record["file_name"]).name] == rows


def test_a_list_has_the_classes_of_the_whole_folder(tmp_path: Path) -> None:
    write_voc(tmp_path, "a", [("dog", (1, 1, 9, 9))])
    write_voc(tmp_path, "b", [("cat", (1, 1, 9, 9))])
    names = tmp_path / "ImageSets" / "Main" / "dog_val.txt"
    names.parent.mkdir(parents=True)
    names.write_text("b  -1\n")
    images, classes = read_voc(names)
    assert [image.place for image in images] == ["b"]
    assert classes == {"cat", "dog"}
    names.write_text("b.jpg\n")
    with pytest.raises(
        ValueError, match=r"val\.txt names b\.jpg, and .* 2 XML files, such as a\.xml"
    ):
        read_voc(names)


def test_programs_that_count_from_0(tmp_path: Path) -> None:
    write_voc(tmp_path, "a", [("dog", (0, 5, 20, 25))])
    write_voc(tmp_path, "b", [("dog", (10, 5, 30, 25))])
    assert list_boxes(convert(tmp_path)) == [[0, 5, 20, 20], [10, 5, 20, 20]]


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_a_size_that_is_not_said_is_the_images(tmp_path: Path, size: str) -> None:
    write_voc(tmp_path, "a", [("dog", (1, 1, 5, 5))], size=size)
    (image,) = convert(tmp_path)["images"]
    assert (image["width"], image["height"]) == (60, 40)


def test_the_image_of_the_xmls_name_goes_before_the_one_it_names(tmp_path: Path) -> None:
    write_voc(tmp_path, "a", [("dog", (1, 1, 5, 5))])
    copy = tmp_path / "Annotations" / "a_flipped.xml"
    copy.write_text((tmp_path / "Annotations" / "a.xml").read_text())
    assert [i["file_name"] for i in convert(tmp_path)["images"]] == ["a.jpg", "a.jpg"]
    Image.new("RGB", (60, 40)).save(tmp_path / "JPEGImages" / "a_flipped.png")
    assert [i["file_name"] for i in convert(tmp_path)["images"]] == ["a.jpg", "a_flipped.png"]


BOMB = "<!DOCTYPE a [<!ENTITY b 'bbbb'><!ENTITY c '&b;&b;&b;'>]><annotation>&c;</annotation>"
OUTSIDE = "<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><annotation>&b;</annotation>"
BOX = "<bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
WRONG: dict[str, tuple[str | bytes, str]] = {
    "cut off": ("<annotation><object>", "a.xml is not sound XML: .*; write it again"),
    "empty": ("", "a.xml is not sound XML: no element found"),
    "bytes": (b"<annotation>\xff\xfe</annotation>", "a.xml is not sound XML"),
    "encoding": ("<?xml version='1.0' encoding='none'?><annotation/>", "a.xml"),
    "bomb": (BOMB, "a.xml: it declares a document type, as .* never do; remove it"),
    "entity": (OUTSIDE, "a.xml: it declares a document type"),
    "CVAT": ("<annotations></annotations>", "begins with <annotations>, CVAT's XML: export it"),
    "name": (f"<object>{BOX}</object>", "object 1 has no name; write its class in <name>"),
    "no box": ("<object><name>dog</name></object>", r"object 1 \(dog\) has no <bndbox>; write"),
    "letters": (f"<object><name>a</name>{BOX.format('x')}</object>", "<xmin> is 'x'; write a numb"),
    "nothing": (f"<object><name>a</name>{BOX.format('')}</object>", "<xmin> is 'nothing'; write"),
    "nan": (
        f"<object><name>a</name>{BOX.format('nan')}</object>",
        "<xmin> is 'nan'; write a number",
    ),
    "corners": (f"<object><name>a</name>{BOX.format(20)}</object>", "has xmax 9 below xmin 20"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_named(tmp_path: Path, name: str) -> None:
    content, words = WRONG[name]
    path = write_voc(tmp_path, "a", [])
    if isinstance(content, str) and content.startswith("<object"):
        content = f"<annotation>{content}</annotation>"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=words):
        read_voc(tmp_path / "Annotations")


MISSING: dict[str, Callable[[Path], Any]] = {
    r"there is no folder .*none of Pascal VOC's XML files": lambda p: read_voc(p / "none"),
    r"JPEGImages has no XML file; give": lambda p: read_voc(p / "JPEGImages"),
    r"a\.xml is one image's annotations; give the folder": lambda p: read_voc(
        p / "Annotations" / "a.xml"
    ),
    r"image folder .*none does not exist": lambda p: convert_voc([], p / "none", []),
    r"b\.xml has no image b\.\* in .*JPEGImages \(it names 'b\.jpg'\); put it there": convert,
}


@pytest.mark.parametrize("words", MISSING)
def test_what_is_missing_is_named(tmp_path: Path, words: str) -> None:
    for place in "ab":
        write_voc(tmp_path, place, [])
    (tmp_path / "JPEGImages" / "b.jpg").unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        MISSING[words](tmp_path)
    (tmp_path / "Annotations" / "b.xml").unlink()
    with pytest.raises(
        ValueError, match=r"no XML file has an <object>; the first is .*a\.xml; give"
    ):
        convert(tmp_path)
