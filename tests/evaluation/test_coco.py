"""COCO's numbers equal pycocotools' and detectron2's to the last bit, from either backend."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resnext_det.evaluation import coco_backends
from resnext_det.evaluation.coco import CocoMetrics, evaluate_coco, make_coco_results
from resnext_det.evaluation.coco_backends import BACKENDS
from resnext_det.instances import Boxes, Instances
from tests.evaluation.helpers import Json, random_set, reference

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
SETS: dict[str, dict[str, int]] = {
    "plain": {"seed": 0},
    "many categories": {"seed": 1, "categories": 30, "images": 8},
    "all scores equal": {"seed": 2, "distinct_scores": 2},
    "one category": {"seed": 3, "categories": 1},
    "more than 100 an image": {"seed": 4, "categories": 1, "noise": 140, "images": 5},
    "one image": {"seed": 5, "images": 1},
}


@pytest.fixture(params=["pycocotools", "numpy", "hotcoco"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "hotcoco" and importlib.util.find_spec("hotcoco") is None:
        pytest.skip("hotcoco is not installed")
    return request.param


def numbers(metrics: CocoMetrics) -> list[float]:
    return [getattr(metrics, name) for name in NAMES]


def percent(stats: np.ndarray) -> list[float]:
    return [float(value * 100) if value > -1 else math.nan for value in stats]


def simple() -> tuple[Json, list[Json]]:
    """One object, found exactly."""
    content: Json = {
        "images": [{"id": 7}, {"id": 8}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 10, 50, 40]}],
        "categories": [{"id": 3, "name": "cell"}, {"id": 5, "name": "platelet"}],
    }
    return content, [{"image_id": 7, "category_id": 3, "bbox": [10, 10, 50, 40], "score": 0.9}]


@pytest.mark.parametrize("name", SETS)
def test_every_number_is_that_of_pycocotools(name: str, backend: str) -> None:
    annotations, results = random_set(**SETS[name])
    expected = reference(annotations, results)
    metrics = evaluate_coco(annotations, results, backend=backend)
    assert metrics.backend == backend
    np.testing.assert_array_equal(metrics.precision, expected.eval["precision"])
    np.testing.assert_array_equal(numbers(metrics), percent(expected.stats))
    names = {c["id"]: c["name"] for c in annotations["categories"]}
    assert metrics.class_names == tuple(names[i] for i in expected.params.catIds)
    for k, ap in enumerate(metrics.category_ap):
        precision = expected.eval["precision"][:, :, k, 0, 2]
        assert (
            ap == pytest.approx(100 * precision.mean())
            if (precision > -1).all()
            else math.isnan(ap)
        )


@pytest.mark.parametrize("limit", [10, 30, 250])
def test_other_numbers_of_detections(limit: int, backend: str) -> None:
    annotations, results = random_set(4, categories=1, noise=140, images=5)
    expected = reference(annotations, results, limits=(1, 10, limit))
    metrics = evaluate_coco(annotations, results, backend=backend, max_detections_per_image=limit)
    np.testing.assert_array_equal(metrics.precision, expected.eval["precision"])
    recall = expected.eval["recall"]
    assert pytest.approx(100 * recall[:, :, 0, 2].mean()) == metrics.AR100
    assert pytest.approx(100 * recall[:, :, 0, 0].mean()) == metrics.AR1


def test_fewer_than_ten_detections(backend: str) -> None:
    annotations, results = random_set(0)
    expected = reference(annotations, results, limits=(1, 3, 3))
    metrics = evaluate_coco(annotations, results, backend=backend, max_detections_per_image=3)
    np.testing.assert_array_equal(metrics.precision, expected.eval["precision"])
    assert metrics.AR10 == metrics.AR100


def test_some_images(backend: str) -> None:
    annotations, results = random_set(0)
    chosen = [image["id"] for image in annotations["images"][3:8]]
    expected = reference(annotations, results, image_ids=chosen)
    metrics = evaluate_coco(annotations, results, backend=backend, image_ids=chosen)
    np.testing.assert_array_equal(metrics.precision, expected.eval["precision"])
    np.testing.assert_array_equal(numbers(metrics), percent(expected.stats))


def test_ids_may_be_strings(backend: str) -> None:
    annotations, results = random_set(0)
    for entry in annotations["images"]:
        entry["id"] = f"{entry['id']:04d}"
    for entry in annotations["annotations"] + results:
        entry["image_id"] = f"{entry['image_id']:04d}"
    expected = reference(annotations, results)
    metrics = evaluate_coco(annotations, results, backend=backend)
    np.testing.assert_array_equal(metrics.precision, expected.eval["precision"])


def test_an_annotation_of_id_0_counts_as_in_pycocotools(caplog: pytest.LogCaptureFixture) -> None:
    annotations, results = simple()
    annotations["annotations"][0]["id"] = 0
    metrics = evaluate_coco(annotations, results)
    assert metrics.backend == "numpy"
    assert metrics.AP == 0.0
    filled = json.loads(json.dumps(annotations))
    filled["annotations"][0].update(area=2000, iscrowd=0)
    assert reference(filled, results).stats[0] == 0.0
    assert "annotation id 0 as missed; number them from 1" in caplog.text
    with pytest.raises(
        ValueError, match="annotation with id 0, where hotcoco's numbers are not pycocotools'"
    ):
        evaluate_coco(annotations, results, backend="hotcoco")


def test_missing_area_and_iscrowd_are_filled_in(backend: str) -> None:
    annotations, results = random_set(6)
    for entry in annotations["annotations"]:
        entry.update(iscrowd=0, area=entry["bbox"][2] * entry["bbox"][3])
    expected = evaluate_coco(annotations, results, backend=backend)
    for entry in annotations["annotations"]:
        del entry["iscrowd"], entry["area"]
    before = json.dumps([annotations, results])
    metrics = evaluate_coco(annotations, results, backend=backend)
    np.testing.assert_array_equal(metrics.precision, expected.precision)
    assert json.dumps([annotations, results]) == before  # what was given stays as it was


def test_a_detector_that_finds_nothing_has_ap_0(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = evaluate_coco(simple()[0], [], backend=backend)
    assert [metrics.AP, metrics.AP50, metrics.APm, metrics.AR100, metrics.ARm] == [0.0] * 5
    assert [math.isnan(value) for value in (metrics.APs, metrics.APl)] == [True, True]
    assert metrics.category_ap[0] == 0.0
    assert math.isnan(metrics.category_ap[1])
    assert "There is no detection to evaluate: every AP is 0" in caplog.text


def test_without_an_object_every_number_is_nan(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    annotations, results = simple()
    metrics = evaluate_coco({**annotations, "annotations": []}, results, backend=backend)
    assert all(math.isnan(value) for value in numbers(metrics))
    assert "annotations: every number is nan, as it has no annotated object." in caplog.text


UNDEFINED: dict[str, tuple[Json, dict[str, Any], str]] = {
    "no image chosen": ({}, {"image_ids": []}, "image_ids is empty, which chooses no image"),
    "an image without objects": (
        {},
        {"image_ids": [8]},
        "its 1 annotated objects are all on other images than the 1 that image_ids chooses",
    ),
    "crowds": ({"iscrowd": 1}, {}, "its 1 annotations here are all crowds"),
    "area": ({"area": 2e10}, {}, "the area of every object is below 0 or above 1e+10"),
}


@pytest.mark.parametrize("name", UNDEFINED)
def test_it_is_said_why_every_number_is_nan(
    name: str, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    annotations, results = simple()
    values, arguments, reason = UNDEFINED[name]
    annotations["annotations"][0].update(values)
    metrics = evaluate_coco(annotations, results, backend=backend, **arguments)
    assert all(math.isnan(value) for value in [*numbers(metrics), *metrics.category_ap])
    assert metrics.precision.shape == (10, 101, 2, 4, 3)
    *of_areas, record = caplog.records
    assert len(of_areas) == (name == "area")  # which are those of something else
    assert record.getMessage().startswith(f"annotations: every number is nan, as {reason}")


def test_it_is_said_which_categories_have_no_object(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    annotations, results = simple()
    annotations["categories"].append({"id": 9, "name": "group"})
    annotations["annotations"].append({**annotations["annotations"][0], "id": 2, "iscrowd": 1})
    annotations["annotations"][1]["category_id"] = 9
    metrics = evaluate_coco(annotations, results, backend=backend)
    assert [math.isnan(ap) for ap in metrics.category_ap] == [False, True, True]
    assert (
        "annotations: no object of 2 of the 3 categories is there to be found, so their AP is nan "
        "and the means leave them out: platelet, group; of group there are crowds alone."
    ) in caplog.messages


def test_annotations_of_unknown_images_and_categories_are_left_out(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    annotations, results = random_set(0)
    expected = evaluate_coco(annotations, results, backend=backend)
    stray = {**annotations["annotations"][0], "id": 9001, "image_id": 9999}
    stray_class = {**annotations["annotations"][0], "id": 9002, "category_id": 9999}
    annotations["annotations"] += [stray, stray_class]
    metrics = evaluate_coco(annotations, results, backend=backend)
    np.testing.assert_array_equal(metrics.precision, expected.precision)
    np.testing.assert_array_equal(
        metrics.precision, reference(annotations, results).eval["precision"]
    )
    assert "2 of" in caplog.text
    assert "they are left out" in caplog.text


def test_nothing_is_printed(backend: str, capfd: pytest.CaptureFixture[str]) -> None:
    evaluate_coco(*simple(), backend=backend)
    assert capfd.readouterr() == ("", "")


def test_without_hotcoco_the_numbers_are_the_same_and_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    annotations, results = random_set(0)
    faster = evaluate_coco(annotations, results)
    assert faster.backend == ("hotcoco" if importlib.util.find_spec("hotcoco") else "numpy")
    monkeypatch.setattr(coco_backends, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    metrics = evaluate_coco(annotations, results)
    assert metrics.backend == "numpy"
    assert metrics.to_json() == faster.to_json()
    np.testing.assert_array_equal(metrics.precision, faster.precision)
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ValueError, match=r"'hotcoco' is not installed; write pip install 'resnext"):
        evaluate_coco(annotations, results, backend="hotcoco")


def test_files_give_what_their_contents_give(tmp_path: Path) -> None:
    annotations, results = random_set(0)
    (tmp_path / "annotations.json").write_text(json.dumps(annotations))
    (tmp_path / "results.json").write_text(json.dumps(results))
    metrics = evaluate_coco(tmp_path / "annotations.json", str(tmp_path / "results.json"))
    np.testing.assert_array_equal(metrics.precision, evaluate_coco(annotations, results).precision)


def test_the_dict_has_detectron2s_keys_and_the_json_no_nan() -> None:
    metrics = evaluate_coco(*simple())
    assert list(metrics.as_dict()) == [*NAMES[:6], "AP-cell", "AP-platelet"]
    assert list(metrics.as_dict(recalls=True)) == [*NAMES, "AP-cell", "AP-platelet"]
    text = metrics.to_json()
    assert "NaN" not in text
    assert json.loads(text)["AP-platelet"] is None
    assert json.loads(text)["AP-cell"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("limit", "recalls"),
    [
        (300, ["AR1", "AR10", "AR300"]),
        (10, ["AR1", "AR10"]),
        (3, ["AR1", "AR3"]),
        (1, ["AR1"]),
    ],
)
def test_a_limit_that_is_not_cocos_is_told(limit: int, recalls: list[str]) -> None:
    """The numbers of boxes bear detectron2's names, which are the same with every limit."""
    metrics = evaluate_coco(*simple(), max_detections_per_image=limit)
    names = [*NAMES[:6], *recalls, *NAMES[9:]]
    assert list(json.loads(metrics.to_json())) == [
        *names, "AP-cell", "AP-platelet", "max_detections",
    ]  # fmt: skip
    assert json.loads(metrics.to_json())["max_detections"] == limit
    words = f"at most {limit} detections an image, where COCO counts 100"
    assert metrics.summarize() == f"AP 100.0, AP50 100.0 ({words})"
    lines = metrics.format_table(per_category=False).splitlines()
    assert lines[0].replace("|", " ").split() == names
    assert lines[3:] == ["", words]
    assert list(metrics.as_dict()) == [*NAMES[:6], "AP-cell", "AP-platelet"]


def test_categories_may_be_named_as_numbers_are() -> None:
    """Or hold what separates the parts of a key; each has its own key and cell."""
    names = ["AP", "50", "AP50", "-", "AP-50", "a-b", "nan", "APs", "max_detections"]
    annotations, results = random_set(1, categories=len(names), images=30)
    for entry, name in zip(annotations["categories"], names, strict=True):
        entry["name"] = name
    metrics = evaluate_coco(annotations, results)
    expected = dict(zip(metrics.class_names, metrics.category_ap))
    found = metrics.as_dict()
    assert len(found) == 6 + len(names)
    assert {name: found[f"AP-{name}"] for name in names} == expected
    head, cells = metrics.format_table().split("\n\n")
    assert head.splitlines()[0].replace("|", " ").split() == list(NAMES)
    rows = [line.strip("|").split("|") for line in cells.splitlines()[2:]]
    flat = [cell.strip() for row in rows for cell in row]
    assert dict(zip(flat[::2], flat[1::2])) == {name: f"{ap:.3f}" for name, ap in expected.items()}


def test_the_table_shows_the_numbers_and_the_categories() -> None:
    annotations, results = random_set(1, categories=30, images=8)
    metrics = evaluate_coco(annotations, results)
    lines = metrics.format_table().splitlines()
    assert lines[0].replace("|", " ").split() == list(NAMES)
    assert [float(cell) for cell in lines[2].replace("|", " ").split()] == pytest.approx(
        numbers(metrics), abs=1e-3
    )
    assert lines[4].count("category") == 3
    for name, ap in zip(metrics.class_names, metrics.category_ap):
        assert f"{name} " in metrics.format_table()
        assert f"{ap:.3f}" in metrics.format_table()
    assert metrics.format_table(per_category=False) == "\n".join(lines[:3])


def test_the_table_shows_control_characters_as_escapes() -> None:
    annotations, results = simple()
    annotations["categories"][0]["name"] = "cell\x1b[31m\x07!"
    metrics = evaluate_coco(annotations, results)
    assert r"| cell\x1b[31m\x07! | 100.000 |" in metrics.format_table()
    assert metrics.class_names[0] == "cell\x1b[31m\x07!"


def change(entry: Json, **values: Any) -> Json:
    return {key: value for key, value in {**entry, **values}.items() if value is not ...}


FROM_ZERO = "results seem to count classes from 0: write the ids of the annotation file"
BAD_RESULTS: dict[str, tuple[dict[str, Any], str]] = {
    "nan score": (
        {"score": math.nan},
        "entry 1 of results has score nan; it has to be a finite number",
    ),
    "no number": (
        {"score": "high"},
        "entry 1 of results has score 'high'; it has to be a finite number",
    ),
    "nan box": (
        {"bbox": [0, math.nan, 1, 1]},
        r"entry 1 of results has bbox \[0, nan, 1, 1\]; .* four",
    ),
    "infinite box": (
        {"bbox": [0, math.inf, 1, 1]},
        "entry 1 of results has bbox .* four finite numbers",
    ),
    "three numbers": (
        {"bbox": [0, 1, 1]},
        r"entry 1 of results has bbox \[0, 1, 1\]; .* x, y, width",
    ),
    "no box": (
        {"bbox": ...},
        "entry 1 of results lacks 'bbox'; it has image_id, category_id, score",
    ),
    "no score": ({"score": ...}, "entry 1 of results lacks 'score'"),
    "no image": ({"image_id": ...}, "entry 1 of results lacks 'image_id'"),
    "no class": ({"category_id": ...}, "entry 1 of results lacks 'category_id'"),
    "class from 0": (
        {"category_id": 0},
        rf"category_id 0, .*\(it lists 2, such as 3, 5\); the {FROM_ZERO}",
    ),
    "unknown class": ({"category_id": 90}, "category_id 90, which annotations does not list"),
    "other image": (
        {"image_id": 9},
        r"image id 9 is not in annotations \(it lists 2, such as 7, 8\); so it is for 1 of 2 "
        "results; the annotations seem to be a part of the set",
    ),
    "string id": (
        {"image_id": "7"},
        "image id '7' is not in annotations .* write image ids as int, as the",
    ),
}


@pytest.mark.parametrize("name", BAD_RESULTS)
def test_a_bad_result_is_named(name: str, backend: str) -> None:
    annotations, results = simple()
    values, message = BAD_RESULTS[name]
    with pytest.raises(ValueError, match=message):
        evaluate_coco(annotations, [*results, change(results[0], **values)], backend=backend)


def test_results_of_another_set_are_recognized() -> None:
    annotations, results = simple()
    with pytest.raises(
        ValueError, match="the two files are of different data sets: give the annotations of"
    ):
        evaluate_coco(annotations, [change(results[0], image_id=100 + i) for i in range(3)])


BAD_ANNOTATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "no list": (
        {"annotations": ...},
        "annotations: it is not in COCO's format: it has images, categories; give lists named",
    ),
    "no images": ({"images": None}, "'images' is no list of objects; give lists named"),
    "no categories": ({"categories": []}, "'categories' is empty; list the categories in it"),
    "image twice": (
        {"images": [{"id": 7}, {"id": 7}]},
        "image id 7 occurs twice; give each image its own id",
    ),
    "mixed ids": (
        {"images": [{"id": 7}, {"id": "8"}]},
        "mixes image ids of several types, such as '8' and 7; write integers",
    ),
    "image without id": (
        {"images": [{"file_name": "a"}]},
        r"entry 0 of 'images' lacks 'id' \(it has file_name\); write an integer",
    ),
    "no dict": (
        {"annotations": [3]},
        "entry 0 of 'annotations' is 3; it has to be an object",
    ),
    "no box": (
        {"annotations": [{"id": 1, "image_id": 7, "category_id": 3}]},
        r"annotation 1: bbox is None; write \[x, y, width, height\], four numbers in pixels",
    ),
    "id twice": (
        {"annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [0, 0, 1, 1]}] * 2},
        "annotation 1: its id occurs twice, and 1 of 2 annotations repeat an id; number them from",
    ),
}


@pytest.mark.parametrize("name", BAD_ANNOTATIONS)
def test_bad_annotations_are_named(name: str) -> None:
    annotations, results = simple()
    values, message = BAD_ANNOTATIONS[name]
    with pytest.raises(ValueError, match=message):
        evaluate_coco(change(annotations, **values), results)


def test_bad_files_are_named(tmp_path: Path) -> None:
    annotations, results = simple()
    good, found, bad = (
        tmp_path / name for name in ("annotations.json", "results.json", "bad.json")
    )
    good.write_text(json.dumps(annotations))
    found.write_text(json.dumps(results))
    bad.write_text('[{"image_id": 7},\n {"image_id": ')
    with pytest.raises(
        ValueError,
        match=r"result file .*bad\.json is not JSON: the text ends too early at line 2 column 15",
    ):
        evaluate_coco(good, bad)
    with pytest.raises(ValueError, match=r"annotation file .*bad\.json is not JSON: .* at line 2"):
        evaluate_coco(bad, found)
    with pytest.raises(
        ValueError,
        match=r"results\.json is a file of results \(detections\); give the annotations of the",
    ):
        evaluate_coco(found, good)
    with pytest.raises(
        ValueError, match=r"annotations\.json holds a dict .*; that is an annotation file"
    ):
        evaluate_coco(good, good)
    with pytest.raises(FileNotFoundError, match=r"annotation file .*none\.json does not exist"):
        evaluate_coco(tmp_path / "none.json", found)
    with pytest.raises(
        ValueError,
        match=r"is a folder; give one COCO file in it: annotations\.json, bad\.json, results",
    ):
        evaluate_coco(tmp_path, found)
    bad.write_bytes(b"\x89PNG\r\n\xff")
    with pytest.raises(ValueError, match=r"is not text in UTF-8: .*; save it as JSON in UTF-8"):
        evaluate_coco(good, bad)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"backend": "cocoapi"},
            "no backend 'cocoapi'; write one of auto, pycocotools, numpy, hotcoco",
        ),
        ({"max_detections_per_image": 0}, "max_detections_per_image is 0; .*such as 100"),
        ({"max_detections_per_image": [1, 10]}, r"max_detections_per_image is \[1, 10\]"),
        (
            {"image_ids": [7, 99]},
            r"image_ids holds 99, which annotations does not list \(it lists 2, such as 7, 8\)",
        ),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_coco(*simple(), **arguments)


def some_instances() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    corners = torch.rand(20, 4, generator=torch.Generator().manual_seed(0)) * 300
    corners[:, 2:] += corners[:, :2]
    return corners, torch.linspace(0, 1, 20), torch.arange(20) % 3


def test_results_of_an_image() -> None:
    corners, scores, classes = some_instances()
    instances = Instances(
        (600, 600), pred_boxes=Boxes(corners), scores=scores, pred_classes=classes
    )
    entries = make_coco_results(11, instances, category_ids=[4, 9, 2])
    assert json.loads(json.dumps(entries)) == entries
    assert [entry["category_id"] for entry in entries] == [[4, 9, 2][i] for i in classes.tolist()]
    assert {entry["image_id"] for entry in entries} == {11}
    x, y, w, h = entries[3]["bbox"]
    assert [x, y, x + w, y + h] == pytest.approx(corners[3].tolist())
    assert instances.pred_boxes.tensor is corners
    assert torch.equal(corners, some_instances()[0])  # the boxes stay as they were
    assert make_coco_results(11, instances[:0], category_ids=[4, 9, 2]) == []


@pytest.mark.detectron2
def test_results_of_an_image_are_detectron2s() -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.evaluation.coco_evaluation import instances_to_coco_json
    from detectron2.structures import Boxes as TheirBoxes
    from detectron2.structures import Instances as TheirInstances

    corners, scores, classes = some_instances()
    theirs = TheirInstances(
        (600, 600), pred_boxes=TheirBoxes(corners), scores=scores, pred_classes=classes
    )
    ours = Instances((600, 600), pred_boxes=Boxes(corners), scores=scores, pred_classes=classes)
    assert make_coco_results(5, ours, [0, 1, 2]) == instances_to_coco_json(theirs, 5)


@pytest.mark.detectron2
@pytest.mark.parametrize(
    "name", ["plain", "many categories", "one category", "more than 100 an image"]
)
@pytest.mark.parametrize("limit", [100, 50])
def test_the_numbers_are_detectron2s(
    name: str, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.evaluation import COCOEvaluator
    from detectron2.structures import Boxes as TheirBoxes
    from detectron2.structures import Instances as TheirInstances

    monkeypatch.setattr(
        logging.getLogger("detectron2.evaluation.coco_evaluation"), "disabled", True
    )
    annotations, results = random_set(**SETS[name])
    (tmp_path / "annotations.json").write_text(json.dumps(annotations))
    ids = sorted(c["id"] for c in annotations["categories"])
    names = {c["id"]: c["name"] for c in annotations["categories"]}
    MetadataCatalog.get("ours").set(
        json_file=str(tmp_path / "annotations.json"),
        thing_classes=[names[i] for i in ids],
        thing_dataset_id_to_contiguous_id={category: k for k, category in enumerate(ids)},
    )
    try:
        evaluator = COCOEvaluator(
            "ours",
            tasks=("bbox",),
            distributed=False,
            use_fast_impl=False,
            max_dets_per_image=limit,
        )
        evaluator.reset()
        for image in annotations["images"]:
            mine = [r for r in results if r["image_id"] == image["id"]]
            boxes = torch.tensor([r["bbox"] for r in mine], dtype=torch.float32).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            instances = TheirInstances((500, 500), pred_boxes=TheirBoxes(boxes))
            instances.scores = torch.tensor([r["score"] for r in mine])
            instances.pred_classes = torch.tensor(
                [ids.index(r["category_id"]) for r in mine], dtype=torch.int64
            )
            evaluator.process([{"image_id": image["id"]}], [{"instances": instances}])
        results = [dict(entry) for p in evaluator._predictions for entry in p["instances"]]
        theirs = evaluator.evaluate()["bbox"]
    finally:
        MetadataCatalog.remove("ours")
        DatasetCatalog.pop("ours", None)
    for entry in results:
        entry["category_id"] = ids[entry["category_id"]]
    for backend in BACKENDS if importlib.util.find_spec("hotcoco") else BACKENDS[:-1]:
        ours = evaluate_coco(
            annotations, results, backend=backend, max_detections_per_image=limit
        ).as_dict()
        assert list(ours) == list(theirs)
        np.testing.assert_array_equal(list(ours.values()), list(theirs.values()))


def test_repeated_ids_of_cocos_minival_files_are_evaluated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """COCO's own instances_minival2014.json repeats ids; numbered anew it gives the same."""
    boxes = [[10.0, 10.0, 50.0, 40.0], [100.0, 20.0, 30.0, 60.0]]
    annotations = [
        {
            "id": 5,
            "image_id": 1,
            "category_id": 1,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for box in boxes
    ]
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": annotations,
    }
    results = [{"image_id": 1, "category_id": 1, "bbox": boxes[0], "score": 0.9}]
    path = tmp_path / "instances_minival2014.json"
    path.write_text(json.dumps(truth))
    repeated = evaluate_coco(path, results)
    assert "1 annotations repeat an id; they are kept" in caplog.text
    renumbered = {
        **truth,
        "annotations": [{**entry, "id": n} for n, entry in enumerate(annotations, 1)],
    }
    assert repeated.to_json() == evaluate_coco(renumbered, results).to_json()
    assert 0 < repeated.AP < 100
