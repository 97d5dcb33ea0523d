"""Results that are likely a mistake are told, each in its own words, and right ones are not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from resnext_det.evaluation.coco import evaluate_coco
from resnext_det.evaluation.coco_checks import check_results
from resnext_det.evaluation.coco_files import Detections, GroundTruth
from tests.evaluation.helpers import Json, random_set

Change = Callable[[Json], dict[str, Any]]


def make_set(images: int = 8, categories: int = 3) -> tuple[Json, list[Json]]:
    """Make images with an object each, away from the upper left corner, and exact results."""
    random = np.random.default_rng(0)
    annotations = [
        {
            "id": i,
            "image_id": i,
            "category_id": 1 + i % categories,
            "bbox": random.integers([30, 20, 10, 10], [60, 50, 30, 30]).tolist(),
        }
        for i in range(1, images + 1)
    ]
    content: Json = {
        "images": [{"id": i, "width": 96, "height": 80} for i in range(1, images + 1)],
        "categories": [{"id": c, "name": f"class {c}"} for c in range(1, categories + 1)],
        "annotations": annotations,
    }
    keys = ("image_id", "category_id", "bbox")
    results = [
        {**{key: entry[key] for key in keys}, "score": 0.95 - 0.01 * n}
        for n, entry in enumerate(annotations)
    ]
    return content, results


def change_box(convert: Callable[[float, float, float, float], list[float]]) -> Change:
    return lambda entry: {"bbox": convert(*entry["bbox"])}


LIKELY_MISTAKES: dict[str, tuple[Change, str]] = {
    "corners": (
        change_box(lambda x, y, w, h: [x, y, x + w, y + h]),
        "0 of the 8 best boxes cover an object (IoU 0.5), and 8 would if they were corners (x0, "
        "y0, x1, y1)",
    ),
    "corners, y first": (
        change_box(lambda x, y, w, h: [y, x, y + h, x + w]),
        "8 would if they were corners (y0, x0, y1, x1)",
    ),
    "centers": (
        change_box(lambda x, y, w, h: [x + w / 2, y + h / 2, w, h]),
        "8 would if they were center, width and height",
    ),
    "y first": (
        change_box(lambda x, y, w, h: [y, x, h, w]),
        "8 would if they were y, x, height, w",
    ),
    "centers, y first": (
        change_box(lambda x, y, w, h: [y + h / 2, x + w / 2, h, w]),
        "8 would if they were center y, center x, height, width",
    ),
    "mirrored": (
        change_box(lambda x, y, w, h: [96 - x - w, y, w, h]),
        "8 would if they were mirrored left to right",
    ),
    "pixels of a smaller image": (
        change_box(lambda x, y, w, h: [x / 2, y / 4, w / 2, h / 4]),
        "8 would if they were scaled, about 2 times in x and 4 times in y",
    ),
    "thousandths of the image": (
        change_box(lambda x, y, w, h: [x / 0.096, y / 0.08, w / 0.096, h / 0.08]),
        "8 would if they were scaled, about 0.096 times in x and 0.08 times in y",
    ),
    "no size": (
        change_box(lambda x, y, w, h: [x, y, w, 0]),
        "8 of 8 boxes have the width or height 0",
    ),
    "image ids from 0": (
        lambda entry: {"image_id": max(1, entry["image_id"] - 1)},
        "7 would if they were of the next image in the order of the ids",
    ),
    "categories from 0": (
        lambda entry: {"category_id": entry["category_id"] - 1 or 3},
        "0 of the 8 best boxes that cover an object have its category; the others lie on another "
        "one, and always the same (class 1 on class 2, class 2 on class 3, class 3 on class 1)",
    ),
    "one category for another": (
        lambda entry: {"category_id": 1 + entry["category_id"] % 3},
        "they seem to be of another list",
    ),
    "percent": (
        lambda entry: {"score": 100 * entry["score"]},
        "scores lie within 88 to 95 and not 0 to 1: they are percent",
    ),
    "logits": (
        lambda entry: {"score": 4 * entry["score"] - 3.6},
        "scores lie within -0.08 to 0.2 and not 0 to 1: they are no probabilities",
    ),
    "no scores": (lambda entry: {"score": 1}, "every score is 1, so which detection counts first"),
}


@pytest.mark.parametrize("name", LIKELY_MISTAKES)
def test_a_likely_mistake_is_told(name: str, caplog: pytest.LogCaptureFixture) -> None:
    content, results = make_set()
    alter, message = LIKELY_MISTAKES[name]
    evaluate_coco(content, [{**entry, **alter(entry)} for entry in results])
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("results: ") and message in caplog.messages[0]


def test_boxes_of_padded_images_are_told(caplog: pytest.LogCaptureFixture) -> None:
    content, results = make_set()
    for image in content["images"]:
        image["width"] = 200
    moved = change_box(lambda x, y, w, h: [x, y + 60, w, h])
    evaluate_coco(content, [{**entry, **moved(entry)} for entry in results])
    assert "8 would if they were moved by the padding that makes a square" in caplog.text


def test_categories_that_are_one_too_low_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """Warn of categories counted from 0, where the first class is not detected."""
    content, results = make_set(images=12, categories=4)
    shifted = [{**r, "category_id": r["category_id"] - 1} for r in results if r["category_id"] > 1]
    evaluate_coco(content, shifted)
    assert "check the category ids: they are one too low" in caplog.text


def test_negative_and_normalized_boxes_are_refused() -> None:
    content, results = make_set()
    negative = [{**entry, "bbox": [50, 50, -5, 8]} for entry in results[2:4]]
    with pytest.raises(
        ValueError,
        match=r"entry 2 of results has bbox \[50.0, 50.0, -5.0, 8.0\], whose width or height is "
        "negative, as it is for 2 of 8 results; .*write x1 - x0 and y1 - y0",
    ):
        evaluate_coco(content, [*results[:2], *negative, *results[4:]])
    for entry in results:
        entry["bbox"] = [value / size for value, size in zip(entry["bbox"], (96, 80) * 2)]
    with pytest.raises(ValueError, match=r"no number of its 8 boxes is above 0\.\d+, so they are"):
        evaluate_coco(content, results)


@pytest.mark.parametrize(
    ("box", "hint"),
    [
        ([20, 15, 95, 79], "as corners (x0, y0, x1, y1) they would fit"),
        ([900, 200, 60, 60], "write pixels of the original image"),
        ([-40, 0, 60, 60], "write pixels of the original image"),
    ],
)
def test_boxes_that_reach_out_of_their_images_are_told(
    box: list[float], hint: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where no object helps to see what they are."""
    content, results = make_set()
    beyond = [{**entry, "bbox": box} for entry in results[:3]]
    scores = {"annotations": [entry for entry in content["annotations"] if entry["id"] > 6]}
    evaluate_coco({**content, **scores}, beyond)
    assert f"3 of 3 boxes reach out of their image by a tenth or more; {hint}" in caplog.text
    caplog.clear()
    without = [{"id": entry["id"]} for entry in content["images"]]
    evaluate_coco({**content, "images": without}, beyond)
    assert "reach out" not in caplog.text


def test_every_detection_twice_is_told(caplog: pytest.LogCaptureFixture) -> None:
    content, results = make_set()
    evaluate_coco(content, results + results[::-1])
    assert "results: 8 of 16 results repeat another one" in caplog.text
    caplog.clear()
    evaluate_coco(content, [*results, *({**r, "score": r["score"] / 2} for r in results)])
    assert "8 of 16 results have the same image, category and box as another one" in caplog.text
    caplog.clear()
    content, results = random_set(0)
    evaluate_coco(content, results)  # with many equal scores
    evaluate_coco(content, [*results, {**results[0], "score": results[0]["score"] / 2}])
    assert caplog.messages == []


def test_results_of_few_images_are_told(caplog: pytest.LogCaptureFixture) -> None:
    content, results = make_set(images=30)
    evaluate_coco(content, results[:2])
    assert "there are detections on 2 of the 30 images with objects of annotations" in caplog.text
    caplog.clear()
    evaluate_coco(content, results[:3], image_ids=[1, 2, 3])
    assert caplog.messages == []


def test_detections_beyond_cocos_hundred_are_told(caplog: pytest.LogCaptureFixture) -> None:
    content, results = make_set()
    more = [{**results[0], "bbox": [0, 0, 9, 9 + k / 9], "score": 0.1} for k in range(150)]
    evaluate_coco(content, results + more)
    assert "51 of 158 results do not count, as COCO counts the best 100 " in caplog.text
    assert "write max_detections_per_image=151 (--max-detections 151)" in caplog.text
    caplog.clear()
    evaluate_coco(content, results + more, max_detections_per_image=151)
    assert caplog.messages == []


@pytest.mark.parametrize("seed", range(5))
def test_right_results_and_those_of_a_poor_detector_pass(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    content, results = random_set(seed)
    evaluate_coco(content, results)
    evaluate_coco(content, [entry for entry in results if entry["score"] < 0.5])
    evaluate_coco(content, random_set(seed + 100)[1])  # of other objects: boxes anywhere
    assert caplog.messages == []


def test_half_a_million_detections_take_a_moment(caplog: pytest.LogCaptureFixture) -> None:
    random = np.random.default_rng(0)

    def make_boxes(number: int) -> np.ndarray:
        return random.uniform([0, 0, 5, 5], [400, 400, 200, 200], (number, 4))

    images, objects, number = 5_000, 36_000, 500_000
    truth = GroundTruth(
        name="annotations",
        image_ids=list(range(images)),
        category_ids=list(range(80)),
        class_names=tuple(map(str, range(80))),
        id_is_zero=np.zeros(objects, bool),
        images=random.integers(0, images, objects),
        categories=random.integers(0, 80, objects),
        boxes=make_boxes(objects),
        areas=np.ones(objects),
        crowd=np.zeros(objects, np.int64),
        sizes=np.full((images, 2), 600),
    )
    found = Detections(
        images=np.repeat(np.arange(images), number // images),
        categories=random.integers(0, 80, number),
        boxes=make_boxes(number),
        scores=random.uniform(0, 1, number),
    )
    began = time.process_time()
    check_results(found, truth, np.arange(images), "results", 100)
    assert time.process_time() - began < 1
    assert caplog.messages == []
