"""Names exchanged and boxes displaced by hand are found, and what that costs, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from resnext_det.evaluation.coco import evaluate_coco
from resnext_det.evaluation.coco_files import read_ground_truth
from resnext_det.evaluation.result_files import read_detections
from resnext_det.evaluation.systematic import (
    find_displacement,
    find_renaming,
    measure_nearness,
)

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def case() -> tuple[dict[str, Any], Rows]:
    """Annotations of 40 images, a crowd among them, and detections near them and anywhere."""
    draw = np.random.RandomState(3)
    annotations: Rows = []
    results: Rows = []
    for image in range(1, 41):
        for _ in range(draw.randint(0, 6)):
            box = [*draw.uniform(0, 150, 2), *draw.uniform(15, 60, 2)]
            kind = int(draw.randint(1, 5))
            entry = {"image_id": image, "category_id": kind, "bbox": box, "iscrowd": 0}
            annotations.append({**entry, "id": len(annotations) + 1, "area": box[2] * box[3]})
            near = (np.array(box) + draw.normal(0, 1.5, 4)).tolist()
            results.append(_detect(image, kind, near, draw.uniform(0.5, 1)))
            if draw.uniform() < 0.5:
                results.append(_detect(image, kind % 4 + 1, near, draw.uniform(0, 0.5)))
    annotations[7]["iscrowd"] = 1
    images = [{"id": i, "width": 220, "height": 220, "file_name": f"{i}.jpg"} for i in range(1, 41)]
    categories = [{"id": k, "name": name} for k, name in enumerate("abcd", 1)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def _detect(image: int, kind: int, box: list[float], score: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": kind, "bbox": box, "score": float(score)}


def _change(results: Rows, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Rows:
    return [{**row, **change(row)} for row in results]


def _find(case: dict[str, Any], results: Rows) -> tuple[Any, Any]:
    truth = read_ground_truth(case)
    found = read_detections(results, truth)
    nearness = measure_nearness(truth, found)
    return find_renaming(truth, found, nearness), find_displacement(truth, found, nearness)


def test_good_detections_have_neither(case: tuple[dict[str, Any], Rows]) -> None:
    assert _find(*case) == (None, None)
    assert _find(case[0], []) == (None, None)


def test_nearness_is_that_of_a_plain_loop(case: tuple[dict[str, Any], Rows]) -> None:
    truth = read_ground_truth(case[0])
    found = read_detections(case[1], truth)
    nearness = measure_nearness(truth, found)
    for index, entry in enumerate(case[0]["annotations"]):
        rows = [row for row in case[1] if row["image_id"] == entry["image_id"]]
        ious = [_compute_iou(entry, row) for row in rows]
        same = [iou * (row["category_id"] == entry["category_id"]) for iou, row in zip(ious, rows)]
        assert nearness.touched[index] == pytest.approx(max(ious), abs=1e-9)
        assert nearness.reached[index] == pytest.approx(max(same), abs=1e-9)
    for index, row in enumerate(case[1]):
        entries = [e for e in case[0]["annotations"] if e["image_id"] == row["image_id"]]
        best = max(_compute_iou(entry, row) for entry in entries)
        assert nearness.nearest[index] == pytest.approx(best, abs=1e-9)
    assert not truth.crowd[nearness.pairs[:, 0]].any()
    assert len(np.unique(nearness.pairs[:, 0])) == len(nearness.pairs)
    assert len(np.unique(nearness.pairs[:, 1])) == len(nearness.pairs) > 80


def _compute_iou(entry: dict[str, Any], row: dict[str, Any]) -> float:
    (x, y, w, h), (a, b, c, d) = entry["bbox"], row["bbox"]
    shared = max(min(x + w, a + c) - max(x, a), 0) * max(min(y + h, b + d) - max(y, b), 0)
    iou = shared / (c * d if entry["iscrowd"] else w * h + c * d - shared)
    return iou if iou >= 0.1 else 0.0


def test_exchanged_names_are_found_with_what_they_cost(case: tuple[dict[str, Any], Rows]) -> None:
    names = {1: 3, 3: 4, 4: 1}
    wrong = _change(case[1], lambda row: {"category_id": names.get(row["category_id"], 2)})
    renaming, displacement = _find(case[0], wrong)
    assert renaming.names == (("a", "c"), ("c", "d"), ("d", "a")) and displacement is None
    assert renaming.ap == pytest.approx(evaluate_coco(case[0], wrong).AP)
    assert renaming.mended_ap == pytest.approx(evaluate_coco(*case).AP)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("pixels", lambda x, y, w, h: [x + 9, y - 7, w, h]),
        ("shift", lambda x, y, w, h: [x + 0.3 * w, y, w, h]),
        ("shift", lambda x, y, w, h: [x - 0.2 * w, y - 0.2 * h, 1.4 * w, 1.4 * h]),
        ("scale", lambda x, y, w, h: [1.1 * x, 1.1 * y, 1.1 * w, 1.1 * h]),
        ("corners", lambda x, y, w, h: [x, y, x / 2 + w, y / 2 + h]),
    ],
)
def test_displaced_boxes_are_found(
    case: tuple[dict[str, Any], Rows], kind: str, change: Callable[..., list[float]]
) -> None:
    wrong = _change(case[1], lambda row: {"bbox": change(*row["bbox"])})
    renaming, found = _find(case[0], wrong)
    assert renaming is None and found is not None
    assert found.ap == pytest.approx(evaluate_coco(case[0], wrong).AP)
    assert found.mended_ap > found.ap + 5
    if kind != "corners":  # half of a corner is not one; the nearest of the kinds is taken
        assert found.kind == kind
        assert found.mended_ap > 0.8 * evaluate_coco(*case).AP


def test_what_an_evaluation_warns_of_is_not_told_again(
    case: tuple[dict[str, Any], Rows], caplog: pytest.LogCaptureFixture
) -> None:
    content = {**case[0], "annotations": [{**a, "id": a["id"] - 1} for a in case[0]["annotations"]]}
    wrong = _change(case[1], lambda row: {"bbox": [row["bbox"][0] + 9, *row["bbox"][1:]]})
    _, found = _find(content, wrong)
    assert found is not None and caplog.records == []
    evaluate_coco(content, wrong)
    assert "annotation id 0" in caplog.text
