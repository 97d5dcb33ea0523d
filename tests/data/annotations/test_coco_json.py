"""The one reader of annotations: training and evaluation take the same, and refuse the same."""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnext_det.data.annotations.coco_json import read_category_names, read_coco_json
from resnext_det.evaluation.coco import evaluate_coco
from resnext_det.evaluation.coco_files import read_ground_truth

Content = dict[str, Any]


def make_content() -> Content:
    """Make two images of 100 x 100 with two objects each, of two categories."""
    boxes = [[10, 10, 40, 30], [60.5, 50, 20, 40], [0, 0, 100, 100], [5, 70, 25.5, 10]]
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 100, "width": 100} for i in (7, 3)],
        "categories": [{"id": 9, "name": "nut"}, {"id": 2, "name": "bolt"}],
        "annotations": [
            {
                "id": 11 + number,
                "image_id": (3, 7)[number % 2],
                "category_id": (9, 2)[number // 2],
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
                "segmentation": [[1, 2, 30, 4, 5, 60]],
            }
            for number, box in enumerate(boxes)
        ],
    }


def find_perfect_results(content: Content) -> list[Content]:
    keys = ("image_id", "category_id", "bbox")
    return [{key: a[key] for key in keys} | {"score": 0.9} for a in content["annotations"]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "instances.json"


def refuse(path: Path, content: Any) -> str:
    """Get the sentence by which both refuse a file, or "" where both take it."""
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    texts = []
    for read, source in (
        (lambda: read_coco_json(path, Path("images"), "mine"), f"dataset 'mine' ({path})"),
        (lambda: read_ground_truth(path), f"annotation file {path}"),
    ):
        try:
            read()
        except ValueError as error:
            assert type(error) is ValueError
            assert str(error).isprintable()
            assert str(error).startswith(source)
            texts.append(str(error).removeprefix(source))
        else:
            texts.append("")
    assert texts[0] == texts[1]
    return texts[0]


def change(key: str, value: Any, table: str = "annotations") -> Content:
    content = make_content()
    if value is ...:
        del content[table][1][key]
    else:
        content[table][1][key] = value
    return content


REFUSED: list[tuple[Content, str]] = [
    (
        make_content() | {"annotations": [{"image_id": 1, "segments_info": []}]},
        ": entry 0 of 'annotations' is of COCO's panoptic format; give a file of instances",
    ),
    *(
        (change("area", area), f": annotation 12: area is {shown}")
        for area, shown in (
            ([720], "[720]"), ("720", "'720'"), ("big", "'big'"), ({}, "{}"), (True, "True"),
            (-1, "-1"), (-0.5, "-0.5"), (math.inf, "inf"), (math.nan, "nan"), (10**400, "1000"),
        )
    ),
    (change("id", ...), ": entry 1 of 'annotations' lacks 'id' (it has image_id, category_id, "),
    (change("id", [1]), ": entry 1 of 'annotations' has the id [1]; write an integer"),
    (change("id", {"a": 1}), ": entry 1 of 'annotations' has the id {'a': 1}; write an"),
    (change("id", "12"), ": entry 1 of 'annotations' has the id '12'; write an integer"),
    (change("id", 1.5), ": entry 1 of 'annotations' has the id 1.5; write an integer"),
    (change("id", True), ": entry 1 of 'annotations' has the id True; write an integer"),
    (change("id", 11), ": annotation 11: its id occurs twice, and 1 of 4 annotations repeat"),
    (change("image_id", [3]), ": annotation 12 has the image_id [3]; write an integer"),
    (change("image_id", {}), ": annotation 12 has the image_id {}; write an integer"),
    (change("category_id", None), ": annotation 12 has the category_id None; write an integer"),
    (change("bbox", [1, 2, 3, True]), ": annotation 12: bbox is [1, 2, 3, True]; write [x, y,"),
    (change("bbox", "1 2 3 4"), ": annotation 12: bbox is '1 2 3 4'; write [x, y, width, hei"),
    (change("bbox", {"x": 1}), ": annotation 12: bbox is {'x': 1}; write [x, y, width, height]"),
    (change("bbox", [1, 2, 3, 10**400]), ": annotation 12: bbox is [1, 2, 3, 10000000000"),
    (change("bbox", [1, 2, -3, 4]), ": annotation 12: bbox [1.0, 2.0, -3.0, 4.0] has a negative"),
    (change("bbox", [101, 2, 3, 4]), ": annotation 12: bbox [101.0, 2.0, 3.0, 4.0] lies wholly"),
    (change("bbox", [1, math.nan, 3, 4]), ": annotation 12: bbox [1.0, nan, 3.0, 4.0] is not fin"),
    (change("iscrowd", None), ": annotation 12: iscrowd is None; write 0 or 1"),
    (change("iscrowd", [0]), ": annotation 12: iscrowd is [0]; write 0 or 1"),
    (change("ignore", 1), ": annotation 12: 'ignore' is 1, which is not supported; remove the"),
    (change("segmentation", [[1, 2], 3]), ": annotation 12: segmentation has 3; write polygons"),
    (change("segmentation", [[], 1, 2, 3, 4, 5]), ": annotation 12: segmentation has 1; write p"),
    (change("segmentation", [[1, 2, None, 4, 5, 6]]), ": annotation 12: segmentation has [1, 2, N"),
    (change("segmentation", "mask.png"), ": annotation 12: segmentation is 'mask.png'; write pol"),
    (change("id", None, "images"), ": entry 1 of 'images' has the id None; write an integer"),
    (change("id", "3", "images"), ": it mixes image ids of several types, such as '3' and 7; "),
    (change("id", 7, "images"), ": image id 7 occurs twice; give each image its own id"),
    (change("width", 0, "images"), ": image 3 has width 0; write its size in pixels"),
    (change("width", 2**31, "images"), ": image 3 has width 2147483648; write its size in pixels"),
    (change("width", "100", "images"), ": image 3 has the width '100'; write an integer"),
    (change("file_name", "", "images"), ": image 3 has the file_name ''; write a path in the"),
    (change("file_name", ["a"], "images"), ": image 3 has the file_name ['a']; write a path in"),
    (change("id", 9, "categories"), ": category id 9 occurs twice; give each category its own"),
    (change("name", ..., "categories"), ": category 2 has the name None; write a string"),
    (change("name", "", "categories"), ": category 2 has the name ''; write a string"),
    (change("name", " \t", "categories"), r": category 2 has the name ' \t'; write a name"),
    (change("name", "\ud800", "categories"), r": category 2 has the name '\ud800'; write a string"),
    ({**make_content(), "images": []}, ": 'images' is empty; list the images in it"),
    ({**make_content(), "categories": {}}, ": it is not in COCO's format: 'categories' is no list"),
    ({"\x1b[2Jx": 1}, r": it is not in COCO's format: it has \x1b[2Jx; give lists named"),
]  # fmt: skip


@pytest.mark.parametrize("content, message", REFUSED, ids=[text[2:50] for _, text in REFUSED])
def test_both_refuse_the_same_by_one_sentence(content: Content, message: str, path: Path) -> None:
    assert refuse(path, content).startswith(message)
    with pytest.raises(ValueError, match=r"^annotations: ") as error:  # and so it is for a dict
        read_ground_truth(content)
    assert str(error.value).removeprefix("annotations").startswith(message)


@pytest.mark.parametrize(
    "one, other",
    [
        ("cell", "cell"),
        ("cell", " cell "),
        ("red  cell", "red cell"),
        ("Zelle \u00fc", "Zelle u\u0308"),
    ],
)
def test_categories_of_one_name_are_refused(one: str, other: str, path: Path) -> None:
    content = change("name", one, "categories")
    content["categories"][0]["name"] = other
    assert ": categories 9 and 2 have one name, '" in refuse(path, content)
    content["categories"][0]["name"] = other.upper() + "x"
    assert refuse(path, content) == ""
    # And a detector of the one is a detector of the other.
    for name in (one, other):
        path.write_text(json.dumps(change("name", name, "categories")), encoding="utf-8")
        assert read_category_names(path, "set")[2] == " ".join(one.split())


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"info": ' + "[" * 100_000 + "]" * 100_000 + "}", " is nested too deep to be COCO's"),
        ("[" * 100_000, " is nested too deep to be COCO's format"),
        (json.dumps(make_content())[:-200], " is not JSON: the text ends too early at line 1"),
        ("<annotation></annotation>", " is one image's annotations in Pascal VOC"),
        ("{'images': []}", " is not JSON: Expecting property name"),
        ("[]", ": it holds a list, not an object; give annotations in COCO's format"),
        (
            '[{"image_id": 3, "score": 1}]',
            " is a file of results (detections); give the annotations",
        ),
        ("7", ": it holds a int, not an object"),
        ("null", ": it holds a NoneType, not an object"),
    ],
)
def test_a_file_of_something_else_is_refused_by_both(text: str, message: str, path: Path) -> None:
    assert refuse(path, text).startswith(message)


def test_a_mask_that_is_nested_deep_gets_a_sentence(path: Path) -> None:
    for depth in (300, 900, 990, 20_000):
        text = json.dumps(change("segmentation", "mask")).replace(
            '"mask"', "[" * depth + "]" * depth
        )
        assert "segmentation" in refuse(path, text) or "nested too deep" in refuse(path, text)


def name_spots(node: Any, spot: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Name every value of the first and second entries, by its keys from the root."""
    yield spot
    for key in node if isinstance(node, dict) else range(min(2, len(node))):
        if isinstance(node[key], dict | list):
            yield from name_spots(node[key], (*spot, key))
        else:
            yield (*spot, key)


@pytest.mark.parametrize(
    "value",
    [None, True, 1.0, -1, 7.5, 10**30, math.nan, -math.inf, "", "7", "\x1b[31m", "x\0", [], [1],
     {}, {"a": []}, [[1, 2], 3], [None], ["1", 2, 3, 4], [[[[]]]]],
    ids=repr,
)  # fmt: skip
def test_nothing_gives_a_traceback_wherever_it_stands(value: Any, path: Path) -> None:
    """A value at every place of a file: both take it, or one sentence refuses it.

    Only where an annotation's image or category is not listed the evaluation is more lenient, as
    pycocotools is; and it needs no sizes and no names of files.
    """
    lenient = ("is no image's id", "is no category's id", "lacks 'file_name'", "lacks 'height'",
               "lacks 'width'")  # fmt: skip
    for spot in list(name_spots(make_content())):
        content: Any = make_content()
        if spot:
            node = content
            for key in spot[:-1]:
                node = node[key]
            node[spot[-1]] = copy.deepcopy(value)
        else:
            content = value
        path.write_text(json.dumps(content))
        try:
            read_coco_json(path, Path("images"), "mine")
        except ValueError as error:
            assert type(error) is ValueError and len(str(error)) < 600
            if any(text in str(error) for text in lenient):
                read_ground_truth(path)
                continue
        refuse(path, content)


def test_what_is_as_good_is_taken_by_both(path: Path) -> None:
    """Whole floats, truth values, repeated keys, and ids of any size are no other numbers."""
    content = make_content()
    expected = read_after_writing(path, content)
    for table in ("images", "annotations", "categories"):
        for entry in content[table]:
            for key in ("id", "image_id", "category_id", "height", "width"):
                if key in entry:
                    entry[key] = float(entry[key])
    for entry in content["annotations"]:
        entry.update(iscrowd=False, segmentation=None, ignore=False)
    text = json.dumps(content).replace('"iscrowd"', '"area": -1, "area": 100, "iscrowd"')
    assert read_after_writing(path, text) == expected
    content = make_content()
    for number, entry in enumerate(content["annotations"]):
        entry["id"] = 2**64 * (number - 1)
    assert read_after_writing(path, content) == expected
    assert read_ground_truth(path).id_is_zero.tolist() == [False, True, False, False]


def read_after_writing(path: Path, content: Any) -> tuple[Any, Any]:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    truth = read_ground_truth(path)
    assert truth.boxes.shape == (4, 4)
    names, records = read_coco_json(path, Path("images"), "mine")
    return repr(names), repr(list(records))


def test_ids_of_images_and_categories_may_be_texts_in_both(path: Path) -> None:
    content = make_content()
    for entry in content["images"]:
        entry["id"] = f"img{entry['id']}"
    for entry in content["categories"]:
        entry["id"] = f"c{entry['id']}"
    for entry in content["annotations"]:
        entry.update(image_id=f"img{entry['image_id']}", category_id=f"c{entry['category_id']}")
    path.write_text(json.dumps(content))
    names, records = read_coco_json(path, Path("images"), "mine")
    assert names == {"c2": "bolt", "c9": "nut"}
    assert [record["image_id"] for record in records] == ["img3", "img7"]
    assert pytest.approx(100) == evaluate_coco(path, find_perfect_results(content)).AP


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_both_take_every_encoding(encoding: str, path: Path) -> None:
    content = change("name", "Mutter für Öl 猫", "categories")
    path.write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
    assert read_category_names(path, "mine") == {2: "Mutter für Öl 猫", 9: "nut"}
    names, records = read_coco_json(path, Path("images"), "mine")
    assert list(names.values()) == ["Mutter für Öl 猫", "nut"]
    assert len(records) == 2
    results = path.with_name("results.json")
    results.write_text(json.dumps(find_perfect_results(content)), encoding=encoding)
    assert pytest.approx(100) == evaluate_coco(path, results).AP


def test_names_are_read_without_the_rest(path: Path) -> None:
    content = make_content() | {"annotations": "to be made", "images": None}
    path.write_text(json.dumps(content))
    assert list(read_category_names(path, "mine").items()) == [(2, "bolt"), (9, "nut")]
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"dataset 'mine' \(.*\): it is not in COCO's format"):
        read_category_names(path, "mine")
    with pytest.raises(FileNotFoundError, match=r"dataset 'mine' \(.*\) does not exist"):
        read_category_names(path.with_name("none.json"), "mine")


@pytest.mark.parametrize("backend", ["auto", "pycocotools"])
def test_areas_that_are_left_out_are_those_of_the_boxes(backend: str, path: Path) -> None:
    content = make_content()
    expected = evaluate_coco(content, find_perfect_results(content), backend=backend)
    assert [expected.AP, expected.APs, expected.APm, expected.APl] == pytest.approx([100] * 4)
    for number, entry in enumerate(content["annotations"]):
        entry["area"] = None
        if number % 2:
            del entry["area"]
    path.write_text(json.dumps(content))
    found = evaluate_coco(path, find_perfect_results(content), backend=backend)
    assert found.to_json() == expected.to_json()
    np.testing.assert_array_equal(found.precision, expected.precision)


@pytest.mark.parametrize("area", [0, 1, 1.0, 0.25, 2500])
def test_areas_of_something_else_are_told(
    area: float, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = make_content()
    for entry in content["annotations"]:
        entry["area"] = area
    path.write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        read_ground_truth(path)
    (text,) = [record.getMessage() for record in caplog.records]
    assert f": 4 areas are about {area:g}, while their boxes have about 1000 square pix" in text
    assert "APs, APm and APl follow the areas: correct them, or leave them out" in text
    caplog.clear()
    content = make_content()
    for entry in content["annotations"]:
        entry.update(area=area, bbox=[3, 3, max(0.5, area**0.5), max(0.5, area**0.5)])
    read_ground_truth(content)
    assert not caplog.records


MASKS = [
    "[[1,2,3,4,5,6]]", "[ [1, 2, 3, 4, 5, 6] ]", "[[1,2,3,4,5,6,7]]", "[[1,2,3,4]]", "[[1,2]]",
    "[[]]", "[]", "[[1,2,3,4,5]]", "[[1,2],[1,2,3,4,5,6.5]]", "[[1,2],[1,2,3,4]]", "[[],[]]",
    "[[\n1e1,-2.5,3,4,5,6,7,8\n]]", '{"counts": [0, 5000], "size": [100, 50]}',
    '{"counts": "a]]", "size": [100, 50]}',
]  # fmt: skip


@pytest.mark.detectron2
@pytest.mark.parametrize("mask", MASKS)
def test_masks_are_left_out_as_by_detectron2(mask: str, path: Path) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.data.datasets import load_coco_json

    text = json.dumps(change("segmentation", "mask")).replace('"mask"', mask)
    path.write_text(text)
    theirs = load_coco_json(str(path), "images", None)
    _, ours = read_coco_json(path, Path("images"), "mine")
    boxes = [[a["bbox"] for a in record["annotations"]] for record in ours]
    assert boxes == [[a["bbox"] for a in record["annotations"]] for record in theirs]


def test_a_file_name_that_no_system_takes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    image = {"id": 1, "file_name": "a\0b", "width": 4, "height": 4}
    content = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="write a path in the image folder"):
        read_coco_json(path, tmp_path, "tiny")
