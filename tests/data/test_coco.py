"""COCO annotations: the content against detectron2's load_coco_json, and what is refused."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnext_det.data import coco
from resnext_det.data.coco import (
    CocoDataset,
    check_same_categories,
    filter_empty,
    find_dataset,
    list_datasets,
    load_coco,
    map_classes,
    register_coco,
)

Content = dict[str, Any]


@pytest.fixture(autouse=True)
def own_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco, "_registered", {})
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)


def content() -> Content:
    """Make images and categories out of order, gaps, a crowd, each kind of mask, an empty box."""
    polygon = [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]]
    images = [(30, "b.jpg", 60, 80), (4, "sub/a.jpg", 50, 40), (11, "empty.jpg", 10, 10)]
    boxes: list[tuple[int, int, list[float], dict[str, Any]]] = [
        (30, 7, [10.5, 10, 30, 20.25], {"segmentation": polygon}),
        (
            4,
            1,
            [0, 0, 40, 50],
            {"iscrowd": 1, "segmentation": {"counts": [0, 2000], "size": [50, 40]}},
        ),
        (30, 90, [-5.0, 50.0, 20.0, 20.0], {"segmentation": []}),
        (30, 1, [1, 2, 3, 4], {"segmentation": [[1.0, 2.0, 3.0, 4.0]]}),
        (4, 7, [3.0, 3.0, 0.0, 5.0], {"ignore": 0}),
    ]
    return {
        "images": [{"id": i, "file_name": f, "height": h, "width": w} for i, f, h, w in images],
        "categories": [
            {"id": 90, "name": "tooth"},
            {"id": 1, "name": "person"},
            {"id": 7, "name": "train"},
        ],
        "annotations": [
            {
                "id": 100 + number,
                "image_id": image,
                "category_id": category,
                "bbox": box,
                "area": box[2] * box[3],
            }
            | more
            for number, (image, category, box, more) in enumerate(boxes)
        ],
    }


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., CocoDataset]:
    """Write a content, register it and load it."""

    def write_and_load(
        content: Any, file_name: str = "instances.json", with_masks: bool = False
    ) -> CocoDataset:
        (tmp_path / "images").mkdir(exist_ok=True)
        path = tmp_path / file_name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        register_coco("mine", path, tmp_path / "images")
        return load_coco("mine", with_masks=with_masks)

    return write_and_load


def assert_equals_detectron2(ours: CocoDataset, with_masks: bool = False) -> None:
    data = pytest.importorskip("detectron2.data", reason="detectron2 is not installed")
    from detectron2.data.datasets import load_coco_json

    name = f"coco_{ours.annotations_file}"
    expected = load_coco_json(str(ours.annotations_file), str(ours.image_dir), name)
    for record in expected:
        for annotation in record["annotations"]:
            if not with_masks:
                annotation.pop("segmentation", None)
            mask = annotation.get("segmentation")
            if isinstance(mask, dict) and isinstance(mask["counts"], bytes):  # compressed there
                mask["counts"] = mask["counts"].decode()
            annotation.setdefault("iscrowd", 0)
    assert ours.records == expected
    assert list(ours.class_names) == data.MetadataCatalog.get(name).thing_classes
    ids = data.MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    assert dict(zip(ours.category_ids, range(len(ours.category_ids)), strict=True)) == ids


@pytest.mark.detectron2
@pytest.mark.parametrize("with_masks", [False, True])
def test_content_equals_detectron2(with_masks: bool, load: Callable[..., CocoDataset]) -> None:
    dataset = load(content(), with_masks=with_masks)
    assert_equals_detectron2(dataset, with_masks)
    masks = ["segmentation" in each for r in dataset.records for each in r["annotations"]]
    assert masks == ([True, False, True, False] if with_masks else [False] * 4)


@pytest.mark.detectron2
def test_random_content_equals_detectron2(load: Callable[..., CocoDataset]) -> None:
    random = np.random.RandomState(0)
    ids = random.choice(10_000, 80, replace=False).tolist()
    annotations = [
        {
            "id": number,
            "image_id": int(random.choice(ids)),
            "category_id": int(random.choice([1, 2, 5, 40])),
            "bbox": [round(float(v), 2) for v in random.uniform(0, 90, 4)],
            "iscrowd": int(random.uniform() < 0.1),
            "segmentation": draw_segmentation(random),
        }
        for number in random.permutation(500).tolist()
    ]
    made = {
        "images": [{"id": i, "file_name": f"{i:012}.jpg", "height": 100, "width": 95} for i in ids],
        "categories": [{"id": i, "name": str(i)} for i in (40, 1, 5, 2)],
        "annotations": annotations,
    }
    assert_equals_detectron2(load(made))
    assert_equals_detectron2(load(made, with_masks=True), True)


def draw_segmentation(random: np.random.RandomState) -> Any:
    """Draw one to three polygons, some of too few points, or counts of an image of 100 x 95."""
    if random.uniform() < 0.2:
        runs = np.diff(np.sort(random.choice(9500, 6, replace=False)), prepend=0, append=9500)
        return {"size": [100, 95], "counts": runs.tolist()}
    sizes = random.choice([4, 6, 7, 8, 20], random.randint(1, 4))
    drawn = [random.uniform(-5, 99, size).round(2) for size in sizes]
    return [[*map(int, each)] if random.rand() < 0.3 else each.tolist() for each in drawn]


def test_content(load: Callable[..., CocoDataset], tmp_path: Path) -> None:
    dataset = load(content())
    assert dataset.class_names == ("person", "train", "tooth") and dataset.category_ids == (
        1,
        7,
        90,
    )
    assert [record["image_id"] for record in dataset.records] == [4, 11, 30]
    assert dataset.records[0] == {
        "file_name": str(tmp_path / "images" / "sub/a.jpg"),
        "height": 50,
        "width": 40,
        "image_id": 4,
        "annotations": [
            {"bbox": [0, 0, 40, 50], "bbox_mode": 1, "category_id": 0, "iscrowd": 1},
            {"bbox": [3.0, 3.0, 0.0, 5.0], "bbox_mode": 1, "category_id": 1, "iscrowd": 0},
        ],
    }
    assert [record["image_id"] for record in filter_empty(dataset.records)] == [4, 30]


def test_what_is_left_out_is_counted(
    load: Callable[..., CocoDataset], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        load(content())
    polygons, area = [record.getMessage() for record in caplog.records]
    assert "1 annotations have polygons of under 3 points only; they are left out" in polygons
    assert (
        "1 boxes have no area, the first is annotation 104 of image 4; training leaves them out"
        in area
    )


def test_minival_may_repeat_ids(
    load: Callable[..., CocoDataset], caplog: pytest.LogCaptureFixture
) -> None:
    made = content()
    made["annotations"][1]["id"] = 100
    made["annotations"][2]["image_id"] = 5
    dataset = load(made, "instances_valminusminival2014.json")
    assert sum(len(record["annotations"]) for record in dataset.records) == 3
    messages = " ".join(record.getMessage() for record in caplog.records)
    assert (
        "1 annotations repeat an id" in messages
        and "1 annotations belong to no listed image" in messages
    )


def test_lvis_urls_and_whole_floats(load: Callable[..., CocoDataset], tmp_path: Path) -> None:
    made = content()
    del made["images"][0]["file_name"]
    made["images"][0] |= {
        "coco_url": "http://images.cocodataset.org/train2017/000000391895.jpg",
        "width": 80.0,
    }
    record = load(made).records[-1]
    assert record["file_name"] == str(tmp_path / "images" / "train2017/000000391895.jpg")
    assert record["width"] == 80 and isinstance(record["width"], int)


def changed(table: str, index: int, **values: Any) -> Content:
    made = copy.deepcopy(content())
    made[table][index] |= values
    return made


def without(table: str, index: int, key: str) -> Content:
    made = copy.deepcopy(content())
    del made[table][index][key]
    return made


MALFORMED: list[tuple[Any, str]] = [
    ('{"images": [\n 1, }', r"is not JSON: .* at line 2 column 5; correct it, or copy or download"),
    ("", "is empty; write it again"),
    ([1, 2], "it holds a list, not an object"),
    ({"labels": [], "a": 1}, "not in COCO's format: it has labels, a; give lists named 'images'"),
    ({"images": [], "annotations": []}, "it has images, annotations; give lists"),
    (content() | {"annotations": {"1": 2}}, "'annotations' is no list of objects"),
    (content() | {"images": [3]}, "entry 0 of 'images' is 3; it has to be an object"),
    (content() | {"images": []}, "'images' is empty"),
    (content() | {"categories": []}, "'categories' is empty"),
    (changed("categories", 0, id=1), "category id 1 occurs twice; give each category its own id"),
    (changed("categories", 0, name=None), "category 90 has the name None; write a string"),
    (changed("categories", 0, id="90"), "mixes category ids of several types, such as '90' and 1"),
    (changed("images", 0, id=4), "image id 4 occurs twice"),
    (changed("images", 0, id="30"), "mixes image ids of several types, such as '30' and 4; write"),
    (changed("images", 0, width=0), "image 30 has width 0; write its size in pixels"),
    (without("images", 0, "height"), "image 30 lacks 'height'; write it"),
    (without("images", 0, "file_name"), "image 30 lacks 'file_name'"),
    (changed("annotations", 1, id=100), "annotation 100: its id occurs twice, and 1 of 5 "),
    (changed("annotations", 1, image_id=5), "annotation 101: image_id 5 is no image's id"),
    (changed("annotations", 1, category_id=2), r"101: category_id 2 is no .*\(now 1, 7, 90\)"),
    (without("annotations", 1, "category_id"), "annotation 101 lacks 'category_id'"),
    (without("annotations", 1, "bbox"), r"101: bbox is None; write \[x, y, width, height\]"),
    (changed("annotations", 1, bbox=[1, 2, 3]), r"101: bbox is \[1, 2, 3\]; write"),
    (changed("annotations", 1, bbox=[1, 2, "3", 4]), r"101: bbox is \[1, 2, '3', 4\]"),
    (changed("annotations", 1, bbox=[1, 2, float("nan"), 4]), r"101: bbox .*nan, .* is not finite"),
    (changed("annotations", 1, bbox=[1, 2, 1e999, 4]), "101: bbox .* is not finite"),
    (changed("annotations", 1, bbox=[30, 2, -8, 4]), r"101: bbox .* -8.0, .* has a negative side"),
    (changed("annotations", 1, bbox=[41, 2, 8, 4]), r"outside; its image 4 \(.*a.jpg\) is 40 x 50"),
    (changed("annotations", 1, bbox=[1, -9, 8, 4]), "101: bbox .* lies wholly outside"),
    (changed("annotations", 1, iscrowd=2), "101: iscrowd is 2; write 0 or 1"),
    (changed("annotations", 1, ignore=1), "101: 'ignore' is 1, which is not .* write iscrowd 1"),
]  # fmt: skip


@pytest.mark.parametrize("made, message", MALFORMED, ids=[message[:30] for _, message in MALFORMED])
def test_malformed_files_are_refused(
    load: Callable[..., CocoDataset], made: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        load(made)
    assert "dataset 'mine'" in str(error.value) and "instances.json" in str(error.value)


def test_text_that_is_not_utf_8(load: Callable[..., CocoDataset], tmp_path: Path) -> None:
    load(content())
    (tmp_path / "instances.json").write_bytes(b'{"images": "\xe9"}')
    with pytest.raises(ValueError, match="is not text in UTF-8"):
        load_coco("mine")


def test_missing_paths_name_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    remedy = r"set DETECTRON2_DATASETS \(now '.*'\), or name your files with --register-coco"
    with pytest.raises(
        FileNotFoundError,
        match=rf"'coco_2017_val': .*instances_val2017\.json does not exist.*{remedy}",
    ):
        load_coco("coco_2017_val")
    (tmp_path / "coco/annotations").mkdir(parents=True)
    (tmp_path / "coco/annotations/instances_val2017.json").write_text("{}")
    with pytest.raises(
        FileNotFoundError, match=rf"image folder .*val2017 does not exist; .*{remedy}"
    ):
        load_coco("coco_2017_val")
    (tmp_path / "coco/val2017").write_text("")
    with pytest.raises(ValueError, match=r"coco/val2017 is a file; give the folder of the images"):
        load_coco("coco_2017_val")


@pytest.mark.detectron2
def test_built_in_paths_equal_detectron2(monkeypatch: pytest.MonkeyPatch) -> None:
    builtin = pytest.importorskip(
        "detectron2.data.datasets.builtin", reason="detectron2 is not installed"
    )
    monkeypatch.setenv("DETECTRON2_DATASETS", "/somewhere")  # read at use, not at import
    for name in coco._BUILT_IN:
        images, annotations = builtin._PREDEFINED_SPLITS_COCO["coco"][name]
        assert find_dataset(name) == (Path("/somewhere") / annotations, Path("/somewhere") / images)


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(
        ValueError,
        match=r"dataset 'coco' is unknown; known are coco_2014_minival, .*shapes_val; .*--register",
    ):
        load_coco("coco")


def test_names_are_registered_once(tmp_path: Path) -> None:
    register_coco("mine", tmp_path / "a.json", tmp_path)
    register_coco("mine", str(tmp_path / "x" / ".." / "a.json"), tmp_path)
    assert "mine" in list_datasets()
    with pytest.raises(
        ValueError, match=r"'mine' already stands for .*a\.json .*not for .*b\.json .*another name"
    ):
        register_coco("mine", tmp_path / "b.json", tmp_path)
    with pytest.raises(ValueError, match="'coco_2017_val' already stands for"):
        register_coco("coco_2017_val", tmp_path / "b.json", tmp_path)
    with pytest.raises(ValueError, match="'shapes_val' stands for a generated dataset"):
        register_coco("shapes_val", tmp_path / "b.json", tmp_path)


def test_generated_dataset_is_prepared_on_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = []

    def prepare(root: Path) -> tuple[Path, Path]:
        calls.append(root)
        (root / "made.json").write_text(json.dumps(content()))
        return root / "made.json", root

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setitem(coco._GENERATED, "made", prepare)
    assert "made" in list_datasets() and calls == []
    assert len(load_coco("made").records) == 3
    assert calls == [tmp_path]


def dataset(name: str, *class_names: str) -> CocoDataset:
    return CocoDataset(
        name, Path("a.json"), Path("."), class_names, tuple(range(len(class_names))), []
    )


def test_same_categories() -> None:
    first = dataset("first", "cat", "dog")
    check_same_categories([first, dataset("second", "cat", "dog")], [dataset("test", "cat", "dog")])
    with pytest.raises(
        ValueError,
        match=r"'first' \(2 categories\) and 'test' \(2\).*'test' lacks dog; 'first' lacks cow",
    ):
        check_same_categories([first], [dataset("test", "cat", "cow")])
    check_same_categories([first, dataset("test", "dog", "cat")])


def test_classes_are_put_into_another_order_by_name() -> None:
    annotations = [{"bbox": [0, 0, 1, 1], "category_id": index} for index in (0, 1, 2, 1)]
    given = CocoDataset(
        *("given", Path("a.json"), Path("."), ("ant", "bee", "cow"), (5, 7, 9)),
        [{"image_id": 1, "annotations": annotations}],
    )
    moved = map_classes(given, ("cow", "ant", "bee"))
    assert (moved.class_names, moved.category_ids) == (("cow", "ant", "bee"), (9, 5, 7))
    assert [a["category_id"] for a in moved.records[0]["annotations"]] == [1, 2, 0, 2]
    assert [a["category_id"] for a in given.records[0]["annotations"]] == [0, 1, 2, 1]
    assert map_classes(moved, given.class_names) == given
    with pytest.raises(ValueError, match="'given' has the classes ant, bee, cow, and ant, bee are"):
        map_classes(given, ("ant", "bee"))
