"""Test what TensorBoard shows: always the same images, the truth on the left, a true curve."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnext_det.data.coco import load_coco
from resnext_det.detection.tensorboard import choose_samples, count_by_score, draw_samples
from resnext_det.rle import encode_segmentation


def make_records(objects: list[int]) -> list[dict[str, Any]]:
    return [{"image_id": i, "annotations": [{}] * count} for i, count in enumerate(objects)]


@pytest.mark.parametrize(
    ("objects", "chosen"),
    [
        ([1] * 10, [0, 3, 6, 9]),
        ([0, 1, 1, 0, 0, 1, 1, 0, 0, 0], [1, 5, 6, 2]),
        ([0, 2, 0], [1]),
        ([], []),
    ],
)
def test_four_images_with_objects_are_spread_over_the_set(
    objects: list[int], chosen: list[int]
) -> None:
    assert [record["image_id"] for record in choose_samples(make_records(objects))] == chosen


@pytest.mark.usefixtures("registered")
def test_pictures_have_the_truth_and_what_is_found(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = load_coco("tiny_val")
    first, last = (dataset.records[index] for index in (0, -1))
    row = {"image_id": first["image_id"], "category_id": dataset.category_ids[0]}
    rows = [{**row, "bbox": [5, 5, 30, 30], "score": score} for score in (0.9, 0.2)]
    empty, drawn, weak = (dict(draw_samples(dataset, found)) for found in ([], rows, rows[1:]))
    assert len(empty) == 4
    assert next(iter(empty)) == f"samples/tiny_val/{Path(first['file_name']).name}"
    for name, picture in drawn.items():
        assert picture.dtype == np.uint8 and picture.shape[1:] == (1280, 3)
        half = picture.shape[1] // 2 - 8
        assert np.array_equal(picture[:, :half], empty[name][:, :half])
        assert np.array_equal(picture, empty[name]) == (name != next(iter(drawn)))
        assert np.array_equal(empty[name], weak[name])
    Path(last["file_name"]).rename(last["file_name"] + "x")
    assert len(dict(draw_samples(dataset, rows))) == 3 and "no picture" in caplog.text
    Path(last["file_name"] + "x").rename(last["file_name"])


@pytest.mark.usefixtures("registered")
def test_masks_of_both_are_drawn() -> None:
    dataset = load_coco("tiny_val")
    record = dataset.records[0]
    x, y, w, h = record["annotations"][0]["bbox"]
    size = (record["height"], record["width"])
    corners = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    row = {"image_id": record["image_id"], "category_id": dataset.category_ids[0], "score": 0.9}
    row["bbox"] = [x, y, w, h]
    encoding = {"size": list(size), "counts": encode_segmentation(corners, *size)}
    plain = dict(draw_samples(dataset, [row]))
    name = next(iter(plain))
    masked = dict(draw_samples(dataset, [{**row, "segmentation": encoding}]))
    half = plain[name].shape[1] // 2
    assert np.array_equal(masked[name][:, :half], plain[name][:, :half])
    assert (masked[name] != plain[name])[:, half:].mean() > 0.01
    for entry in record["annotations"]:
        entry["segmentation"] = corners
    both = dict(draw_samples(replace(dataset, records=[record]), [row]))
    assert (both[name] != plain[name])[:, :half].mean() > 0.01


@pytest.mark.usefixtures("registered")
def test_a_curve_counts_what_is_found(tmp_path: Path) -> None:
    """All objects are found with scores of 0.8, one of them twice, and the background once."""
    dataset = load_coco("tiny_val")
    rows = [
        {
            "image_id": record["image_id"],
            "category_id": dataset.category_ids[entry["category_id"]],
            "bbox": entry["bbox"],
            "score": 0.8,
        }
        for record in dataset.records
        for entry in record["annotations"]
    ]
    extra = [{**rows[0], "score": 0.5}, {**rows[0], "bbox": [0, 0, 2, 2], "score": 0.9}]
    total = len(rows)
    counts = count_by_score(dataset, [*rows, *extra], 100)
    assert counts.shape == (6, 101)
    for score, correct, wrong in ((0, total, 2), (60, total, 1), (85, 0, 1), (95, 0, 0)):
        precision = correct / max(correct + wrong, 1)
        expected = [correct, wrong, 0, total - correct, precision, correct / total]
        assert counts[:, score].tolist() == pytest.approx(expected)
