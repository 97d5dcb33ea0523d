"""Masks of results: pycocotools' numbers to the last bit, and a sentence for every mistake."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.mask import frPyObjects

from resnext_det.evaluation.analysis import analyze_detections, compare_detections
from resnext_det.evaluation.coco import CocoMetrics, evaluate_coco, make_coco_results
from resnext_det.instances import Boxes, Instances
from tests.evaluation.helpers import Json, add_masks, encode_polygons, random_set, reference
from tests.evaluation.test_coco import backend, numbers, percent  # noqa: F401


def get_masks(metrics: CocoMetrics) -> CocoMetrics:
    assert metrics.segm is not None
    return metrics.segm


@pytest.fixture(scope="module")
def masked() -> tuple[Json, list[Json]]:
    annotations, results = random_set(0, images=8)
    add_masks(annotations, results)
    return annotations, results


@pytest.mark.parametrize("seed", [0, 1])
def test_every_number_is_that_of_pycocotools(seed: int, backend: str) -> None:  # noqa: F811
    annotations, results = random_set(seed, images=8, distinct_scores=6)
    add_masks(annotations, results, seed)
    boxes = evaluate_coco(
        annotations, [{**entry, "segmentation": None} for entry in results], backend=backend
    )
    expected = reference(annotations, results, task="segm")
    metrics = evaluate_coco(annotations, results, backend=backend)
    np.testing.assert_array_equal(metrics.precision, boxes.precision)
    assert boxes.segm is None and numbers(boxes) == pytest.approx(numbers(metrics), abs=0)
    masks = get_masks(metrics)
    np.testing.assert_array_equal(masks.precision, expected.eval["precision"])
    np.testing.assert_array_equal(numbers(masks), percent(expected.stats))
    assert 5 < masks.AP < 95 and masks.AP != metrics.AP
    assert metrics.as_dict()["segm-APm"] == masks.APm
    few = evaluate_coco(annotations, results, backend=backend, max_detections_per_image=3)
    other = reference(annotations, results, task="segm", limits=(1, 3, 3)).eval["precision"][
        ..., -1
    ]
    np.testing.assert_array_equal(get_masks(few).precision[..., -1], other)


def test_detectron2_says_the_same(masked: tuple[Json, list[Json]], tmp_path: Path) -> None:
    module = pytest.importorskip("detectron2.evaluation.coco_evaluation")
    annotations, results = masked
    (tmp_path / "annotations.json").write_text(json.dumps(annotations))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(tmp_path / "annotations.json")
        found = module._evaluate_predictions_on_coco(truth, results, "segm")
    masks = get_masks(evaluate_coco(tmp_path / "annotations.json", results))
    np.testing.assert_array_equal(numbers(masks), percent(found.stats))


def test_files_without_boxes(masked: tuple[Json, list[Json]], tmp_path: Path) -> None:
    annotations, results = masked
    bare = [{k: v for k, v in entry.items() if k != "bbox"} for entry in results]
    (tmp_path / "results.json").write_text(json.dumps(bare))
    expected = evaluate_coco(annotations, results)
    metrics = evaluate_coco(annotations, tmp_path / "results.json")
    np.testing.assert_array_equal(get_masks(metrics).precision, get_masks(expected).precision)
    assert pytest.approx(expected.AP, abs=10) == metrics.AP
    assert evaluate_coco(annotations, bare).to_json() == metrics.to_json()


def test_the_tables_and_the_line_tell_both(masked: tuple[Json, list[Json]]) -> None:
    metrics = evaluate_coco(*masked)
    masks = get_masks(metrics)
    table = metrics.format_table()
    assert table.startswith("bbox:\n|") and "\n\nsegm:\n|" in table
    assert f"{masks.AP:.3f}" in table.partition("segm:")[2]
    assert metrics.summarize() == (
        f"AP {metrics.AP:.1f}, AP50 {metrics.AP50:.1f}, segm AP {masks.AP:.1f}"
    )
    assert json.loads(metrics.to_json())["segm-AR100"] == masks.AR100


def test_where_annotations_have_no_masks_boxes_alone_are_evaluated(
    masked: tuple[Json, list[Json]], caplog: pytest.LogCaptureFixture
) -> None:
    annotations, results = copy.deepcopy(masked)
    for number, entry in enumerate(annotations["annotations"][:5]):
        entry["segmentation"] = None if number else []
    metrics = evaluate_coco(annotations, results)
    assert metrics.segm is None and metrics.AP == evaluate_coco(*masked).AP
    first = annotations["annotations"][0]["id"]
    assert f"have no segmentation (id {first}, " in caplog.text
    assert "5 of " in caplog.text and "so that masks are not evaluated" in caplog.text


def test_a_detector_of_masks_that_finds_nothing_has_no_ap_of_masks_either(
    masked: tuple[Json, list[Json]],
) -> None:
    annotations, results = masked
    assert evaluate_coco(annotations, []).segm is None
    assert evaluate_coco(annotations, results, with_masks=True).AP > 0
    found = get_masks(evaluate_coco(annotations, [], with_masks=True))
    worst = [{**each, "score": 0.5} for each in results[:1]]
    worst[0]["segmentation"] = encode_polygons([[0.0, 0.0, 0.5, 0.0, 0.5, 0.5]])  # covers no pixel
    assert numbers(found) == numbers(get_masks(evaluate_coco(annotations, worst)))
    assert found.AP == found.AR100 == 0


RIGHT = {"size": [8, 6], "counts": "T1L"}
WRONG: dict[str, tuple[Any, str]] = {
    "broken": ({"size": [8, 6], "counts": "abc"}, "the counts 'abc', which encode no mask of 8"),
    "too short": ({"size": [8, 6], "counts": "43"}, "which encode no mask of 8 x 6 pixels; write"),
    "huge": ({"size": [10**6, 10**6], "counts": "0"}, r"and its image is \[8, 6\], height and"),
    "swapped": ({"size": [6, 8], "counts": "`1"}, "write the height first, and encode"),
    "negative": ({"size": [-8, -6], "counts": "`1"}, r"of size \[-8, -6\]"),
    "polygons": ([[1, 1, 5, 1, 5, 5]], r"entry 1 of results has segmentation \[\[1, 1, 5"),
    "missing": (None, "has segmentation None; it has to be a compressed run-length encoding"),
    "a list of runs": ({"size": [8, 6], "counts": [48]}, "has to be a compressed run-length"),
    "other types": ({"size": "86", "counts": 5}, "has to be a compressed run-length encoding"),
}


def make_small() -> tuple[Json, Json]:
    box = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 8]}
    content = {
        "images": [{"id": 1, "height": 8, "width": 6}, {"id": 2}],
        "annotations": [{"id": 1, **box, "segmentation": {"size": [8, 6], "counts": [0, 32, 16]}}],
        "categories": [{"id": 1, "name": "cell"}],
    }
    right = frPyObjects({"size": [8, 6], "counts": [0, 30, 18]}, 8, 6)
    return content, {**box, "score": 0.9, "segmentation": right}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_mask_is_told_before_pycocotools_sees_it(name: str, tmp_path: Path) -> None:
    content, result = make_small()
    segmentation, words = WRONG[name]
    with pytest.raises(ValueError, match=words) as told:
        evaluate_coco(content, [result, {**result, "segmentation": segmentation}])
    result["segmentation"]["counts"] = result["segmentation"]["counts"].decode()
    path = tmp_path / "r.json"
    path.write_text(json.dumps([result, {**result, "segmentation": segmentation}]))
    with pytest.raises(ValueError) as of_file:
        evaluate_coco(content, path)
    assert str(of_file.value).replace(f"result file {path}", "results") == str(told.value)


def test_an_image_without_a_size_is_told() -> None:
    content, result = make_small()
    assert pytest.approx(100) == get_masks(evaluate_coco(content, [result])).AP50
    with pytest.raises(ValueError, match="do not tell the size of its image; write its height"):
        evaluate_coco(content, [{**result, "image_id": 2}])


def test_results_of_a_model_are_those_of_detectron2() -> None:
    rng = np.random.default_rng(0)
    masks = torch.from_numpy(rng.random((3, 20, 30)) < 0.4)
    fields = {
        "scores": torch.rand(3),
        "pred_classes": torch.tensor([1, 0, 1]),
        "pred_masks": masks,
    }
    boxes = torch.rand(3, 4) + torch.tensor([0, 0, 5, 5])
    rows = make_coco_results(7, Instances((20, 30), pred_boxes=Boxes(boxes), **fields), (0, 1))
    structures = pytest.importorskip("detectron2.structures")
    from detectron2.evaluation.coco_evaluation import instances_to_coco_json

    theirs = structures.Instances((20, 30), pred_boxes=structures.Boxes(boxes), **fields)
    assert json.dumps(rows) == json.dumps(instances_to_coco_json(theirs, 7))
    none = Instances((20, 30), pred_boxes=Boxes(boxes), **fields)[torch.zeros(3, dtype=torch.bool)]
    assert make_coco_results(7, none, (0, 1)) == []


def test_the_analysis_has_the_numbers_of_masks(masked: tuple[Json, list[Json]]) -> None:
    annotations, results = masked
    expected = evaluate_coco(annotations, results)
    analysis = analyze_detections(annotations, results, resamples=3)
    assert analysis.metrics.as_dict() == expected.as_dict()
    boxes = [{**entry, "segmentation": None} for entry in results]
    comparison = compare_detections(annotations, boxes, results, resamples=3)
    assert comparison.first.metrics.segm is None
    assert comparison.second.metrics.as_dict() == expected.as_dict()


def test_hotcoco_is_what_computes_where_it_is_installed(masked: tuple[Json, list[Json]]) -> None:
    chosen = "hotcoco" if importlib.util.find_spec("hotcoco") else "numpy"
    assert get_masks(evaluate_coco(*masked)).backend == chosen
