"""Result files: what is taken from a file as from a list, and a sentence for everything else."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnext_det.evaluation.coco_files import GroundTruth, read_ground_truth
from resnext_det.evaluation.result_files import read_detections
from tests.evaluation.helpers import random_set

RESULT = {"image_id": 7, "category_id": 3, "bbox": [10, 10, 50, 40], "score": 0.9}


def make_truth() -> GroundTruth:
    return read_ground_truth(
        {
            "images": [{"id": 7}, {"id": 8}],
            "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 10, 50, 40]}],
            "categories": [{"id": 3, "name": "cell"}, {"id": 5, "name": "platelet"}],
        }
    )


def refuse(path: Path, results: Any) -> str:
    """Get the sentence that refuses results, the same in a file as in a list; "" for none."""
    path.write_text(json.dumps(results))
    texts = []
    for source, name in ((path, f"result file {path}"), (results, "results")):
        try:
            read_detections(source, make_truth())
        except ValueError as error:
            assert type(error) is ValueError
            assert str(error).isprintable()
            assert len(str(error)) < 600
            texts.append(str(error).replace(f"of {name} ", "of X ").replace(f"{name}:", "X:"))
        else:
            texts.append("")
    assert texts[0] == texts[1]
    return texts[0]


def test_a_file_holds_what_its_list_holds(tmp_path: Path) -> None:
    annotations, results = random_set(0)
    truth = read_ground_truth(annotations)
    path = tmp_path / "results.json"
    expected = read_detections(results, truth)
    numbers = [[*r["bbox"], r["score"]] for r in results]
    np.testing.assert_array_equal(np.c_[expected.boxes, expected.scores], numbers)
    assert [truth.image_ids[i] for i in expected.images] == [r["image_id"] for r in results]
    more = [{**result, "segmentation": {"counts": "x"}, "note": [None]} for result in results]
    as_arrays = [
        {**result, "bbox": np.array(result["bbox"]), "score": np.float64(result["score"])}
        for result in results
    ]
    path.write_text(json.dumps(more), encoding="utf-16")
    for source in (path, str(path), more, as_arrays):
        found = read_detections(source, truth)
        for name in ("images", "categories", "boxes", "scores"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_whole_floats_are_ids_and_extra_keys_are_passed_over(tmp_path: Path) -> None:
    result = {**RESULT, "image_id": 7.0, "category_id": np.int64(3), "score": 1, "id": {}}
    assert read_detections([result], make_truth()).scores.tolist() == [1.0]
    assert refuse(tmp_path / "r.json", [{**result, "category_id": 3.0}]) == ""
    assert refuse(tmp_path / "r.json", []) == ""


@pytest.mark.parametrize(
    "values, message",
    [
        ({"score": "0.9"}, "entry 1 of X has score '0.9'; it has to be a finite number"),
        ({"score": True}, "entry 1 of X has score True; it has to be a finite number"),
        ({"score": None}, "entry 1 of X has score None; it has to be"),
        ({"score": [0.9]}, "entry 1 of X has score [0.9]; it has to be"),
        ({"score": math.nan}, "entry 1 of X has score nan; it has to be a finite number"),
        ({"score": 10**400}, "entry 1 of X has score 1000"),
        ({"bbox": None}, "entry 1 of X has bbox None; it has to be four finite numbers: x, y, w"),
        ({"bbox": [0, 1, 2, -math.inf]}, "entry 1 of X has bbox [0, 1, 2, -inf]; it has to be fou"),
        ({"bbox": {"x": 1}}, "entry 1 of X has bbox {'x': 1}; it has to be four finite numbers"),
        ({"bbox": [[0, 1, 2, 3]]}, "entry 1 of X has bbox [[0, 1, 2, 3]]; it has to be four"),
        ({"image_id": [7]}, "entry 1 of X has image_id [7]; it has to be an integer"),
        ({"image_id": {"a": 7}}, "entry 1 of X has image_id {'a': 7}; it has to be an integer"),
        ({"image_id": True}, "entry 1 of X has image_id True; it has to be an integer"),
        ({"image_id": "a\x1b[31m"}, r"X: image id 'a\x1b[31m' is not in annotations (it lists"),
        ({"category_id": 1.5}, "entry 1 of X has category_id 1.5; it has to be an integer"),
        ({"category_id": "3"}, "entry 1 of X has category_id '3', which annotations does not"),
        ({"category_id": None}, "entry 1 of X has category_id None; it has to be an integer"),
    ],
)
def test_a_wrong_value_is_named(values: Any, message: str, tmp_path: Path) -> None:
    assert refuse(tmp_path / "r.json", [RESULT, {**RESULT, **values}]).startswith(message)


@pytest.mark.parametrize(
    "results, message",
    [
        ([RESULT, 3], "X: entry 1 of the list is 3; it has to be an object"),
        ([[1, 2]], "X: entry 0 of the list is [1, 2]; it has to be an object"),
        ([None], "X: entry 0 of the list is None; it has to be an object"),
        ({"results": []}, "X holds a dict where COCO results are a list of dicts; give a list of"),
        ("7", "X holds a str where"),
    ],
)
def test_what_is_no_list_of_results_is_told(results: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    if isinstance(results, list):
        assert refuse(path, results).startswith(message)
        return
    path.write_text(json.dumps(results))
    with pytest.raises(ValueError) as error:
        read_detections(path, make_truth())
    assert str(error.value).replace(f"result file {path}", "X").startswith(message)


def test_results_of_other_files_under_the_same_ids() -> None:
    """resnext-det predict counts images from 1 where it is not given the annotations."""
    names = ("a.jpg", "b.jpg", "c.jpg")
    truth = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names, 1)],
        "annotations": [],
        "categories": [{"id": 0, "name": "cell"}],
    }
    box = {"category_id": 0, "bbox": [1, 1, 5, 5], "score": 0.5}
    results = [
        {"image_id": i, "file_name": f"few/{n}", **box} for i, n in ((1, "b.jpg"), (2, "c.png"))
    ]
    with pytest.raises(ValueError, match=r"file few/b.jpg, but its image_id is that of a.jpg"):
        read_detections(results, read_ground_truth(truth))
    right = [{**entry, "image_id": entry["image_id"] + 1} for entry in results]
    for taken in (right, [*right, right[0], {**results[0], "file_name": 7}]):
        assert len(read_detections(taken, read_ground_truth(truth)).scores) == len(taken)
