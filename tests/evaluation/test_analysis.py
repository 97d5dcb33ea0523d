"""The analysis of detections is that of plain loops over results and annotations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from resnext_det.evaluation.analysis import (
    DetectionAnalysis,
    analyze_detections,
    compare_detections,
)
from resnext_det.evaluation.coco import evaluate_coco
from resnext_det.evaluation.coco_files import read_ground_truth
from resnext_det.evaluation.findings import ERROR_KINDS
from resnext_det.evaluation.matching import Task, match_detections
from resnext_det.evaluation.resampling import WeightedNumbers
from resnext_det.evaluation.result_files import read_detections
from tests.evaluation.helpers import Json
from tests.evaluation.plain import PlainAnalysis, compute_iou, make_case, repeat_images

NUMBERS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)


TASKS: tuple[Task, ...] = ("bbox", "segm")


def check_case(seed: int, task: Task) -> None:
    content, results = make_case(seed, task)
    analysis = analyze_detections(content, results, resamples=0)
    assert (analysis.segm is None) == (task == "bbox")
    analysis = analysis.segm or analysis
    plain = PlainAnalysis(content, results, task)
    check_errors(analysis, plain)
    check_confusion(analysis, plain)
    check_images(analysis, plain)
    check_curves(analysis, plain, content)


def check_errors(analysis: DetectionAnalysis, plain: PlainAnalysis) -> None:
    kinds = plain.classify()
    score = analysis.by_score.best_score
    shown = [kinds[n][0] for n in kinds if plain.results[n]["score"] >= score]
    targeted = {target["id"] for _, target in kinds.values() if target is not None}
    unfound = {thing["id"] for thing in plain.objects} - set(plain.count_found(-np.inf))
    counts = {kind: [name for name, _ in kinds.values()].count(kind) for kind in ERROR_KINDS}
    counts["missed"] = len(unfound - targeted)
    at_score = {kind: shown.count(kind) for kind in ERROR_KINDS}
    at_score["missed"] = len(plain.objects) - len(plain.count_found(score))
    assert [error.kind for error in analysis.errors] == list(ERROR_KINDS)
    assert {error.kind: error.count for error in analysis.errors} == counts
    assert {error.kind: error.count_at_score for error in analysis.errors} == at_score
    for error in analysis.errors:
        assert error.cost == pytest.approx(plain.compute_cost(error.kind), abs=1e-9)


def check_confusion(analysis: DetectionAnalysis, plain: PlainAnalysis) -> None:
    number = len(plain.categories)
    expected = np.zeros((number + 1, number + 1), int)
    score = analysis.by_score.best_score
    place = {category: index for index, category in enumerate(plain.categories)}
    free = {thing["id"]: thing for thing in plain.objects}
    wrong = []
    for n, thing in plain.finds.items():
        entry = plain.results[n]
        if entry["score"] >= score and isinstance(thing, dict):
            expected[place[thing["category_id"]], place[entry["category_id"]]] += 1
            del free[thing["id"]]
        elif entry["score"] >= score and thing is None:
            wrong.append(entry)
    for entry in sorted(wrong, key=lambda entry: -entry["score"]):
        best, chosen = 0.5, None
        for thing in free.values():
            if thing["image_id"] == entry["image_id"]:
                overlap = compute_iou(entry, thing, plain.task)
                if overlap > best or (overlap == best and chosen is None):
                    best, chosen = overlap, thing
        row = number if chosen is None else place[chosen["category_id"]]
        expected[row, place[entry["category_id"]]] += 1
        if chosen is not None:
            del free[chosen["id"]]
    for thing in free.values():
        expected[place[thing["category_id"]], number] += 1
    np.testing.assert_array_equal(analysis.confusion.counts, expected)


def check_images(analysis: DetectionAnalysis, plain: PlainAnalysis) -> None:
    kinds = plain.classify()
    score = analysis.by_score.best_score
    found = set(plain.count_found(score))
    assert [image.image_id for image in analysis.images] == plain.images
    for image in analysis.images:
        these = [
            n
            for n in plain.finds
            if plain.results[n]["image_id"] == image.image_id and plain.results[n]["score"] >= score
        ]
        these.sort(key=lambda n: -plain.results[n]["score"])
        words = [kinds[n][0] for n in these]
        assert list(image.found.kinds) == words
        assert image.true_positives == words.count("correct")
        assert image.wrong == len(words) - words.count("correct") - words.count("ignored")
        objects = [a for a in plain.objects if a["image_id"] == image.image_id]
        assert image.missed == len([a for a in objects if a["id"] not in found])
        assert image.truth.kinds.count("found") == image.true_positives
        assert len(image.truth.boxes) == len(objects) + image.truth.kinds.count("crowd")
        if these:
            x, y, w, h = plain.results[these[0]]["bbox"]
            np.testing.assert_allclose(image.found.boxes[0], [x, y, x + w, y + h])


def check_curves(analysis: DetectionAnalysis, every: PlainAnalysis, content: Json) -> None:
    """Compare with what the results that reach a score are when they stand alone."""
    curves = analysis.by_score
    for place in (0, 25, 50, 77):
        score = curves.scores[place]
        left = [entry for entry in every.results if entry["score"] >= score]
        plain = PlainAnalysis(content, left, every.task)
        found = [thing for thing in plain.finds.values() if thing != "ignored"]
        for number, of_class in enumerate([curves, *analysis.class_scores]):
            category = None if number == 0 else plain.categories[number - 1]
            correct = [a for a in found if a and category in (None, a["category_id"])]
            counted = [
                n
                for n, thing in plain.finds.items()
                if thing != "ignored" and category in (None, left[n]["category_id"])
            ]
            objects = [a for a in plain.objects if category in (None, a["category_id"])]
            expected = [
                len(correct) / len(counted) if counted else math.nan,
                len(correct) / len(objects) if objects else math.nan,
                2 * len(correct) / (len(counted) + len(objects)) if objects else math.nan,
            ]
            values = [of_class.precision[place], of_class.recall[place], of_class.f1[place]]
            np.testing.assert_allclose(values, expected, rtol=1e-12)
    assert curves.best_score in curves.scores


@pytest.mark.parametrize("seed", range(10))
def test_errors_confusion_images_and_curves_are_those_of_plain_loops(seed: int) -> None:
    check_case(seed, "bbox")


@pytest.mark.parametrize("seed", (0, 1, 3, 4))
def test_those_of_masks_are_those_of_plain_loops_over_masks(seed: int) -> None:
    check_case(seed, "segm")


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_200_cases_are_those_of_plain_loops(task: Task) -> None:
    for seed in range(200):
        check_case(1000 + seed, task)


def make_apart(seed: int, task: Task = "bbox") -> tuple[Json, list[Json]]:
    """Make a case where scores are equal in different images alone.

    Equal ones of an image stand in another order in a set that holds the image twice.
    """
    content, results = make_case(seed, task)
    for image in content["images"]:
        these = [entry for entry in results if entry["image_id"] == image["id"]]
        for place, entry in enumerate(these):
            entry["score"] = round(1 - place / 200, 3)
    return content, results


def check_draw(seed: int, draws: np.ndarray, task: Task = "bbox") -> None:
    """Compare weighted numbers with pycocotools' on a set that holds the images again and again."""
    content, results = make_apart(seed, task)
    truth = read_ground_truth(content, with_masks=task == "segm")
    matches = match_detections(truth, read_detections(results, truth), 100, task)
    weights = np.bincount(draws, minlength=len(truth.image_ids))
    numbers = WeightedNumbers(matches, 100).compute(weights)
    expected = repeat_images(content, results, draws, task)
    stats = np.where(expected.stats > -1, 100 * expected.stats, np.nan)
    np.testing.assert_allclose(numbers[:12], stats, rtol=1e-9)
    precision = expected.eval["precision"][:, :, :, 0, 2]
    for category, ap in enumerate(numbers[12:]):
        values = precision[:, :, category]
        assert ap == pytest.approx(
            100 * values.mean() if values.max() > -1 else math.nan, nan_ok=True
        )


@pytest.mark.parametrize("seed", range(2))
def test_a_draw_of_masks_has_the_numbers_of_the_images_that_it_holds(seed: int) -> None:
    number = len(make_case(seed)[0]["images"])
    check_draw(seed, np.random.default_rng(seed).integers(0, number, number), "segm")


@pytest.mark.parametrize("seed", range(5))
def test_a_draw_has_the_numbers_of_the_images_that_it_holds(seed: int) -> None:
    number = len(make_case(seed)[0]["images"])
    check_draw(seed, np.random.default_rng(seed).integers(0, number, number))


@pytest.mark.slow
def test_200_draws_have_the_numbers_of_the_images_that_they_hold() -> None:
    for seed in range(200):
        number = len(make_case(seed)[0]["images"])
        check_draw(seed, np.random.default_rng(seed).integers(0, number, number))


def test_all_images_drawn_once_have_the_numbers_of_the_set() -> None:
    content, results = make_case(6)
    metrics = evaluate_coco(content, results)
    truth = read_ground_truth(content)
    matches = match_detections(truth, read_detections(results, truth), 100)
    numbers = WeightedNumbers(matches, 100).compute(np.ones(len(truth.image_ids), np.int64))
    expected = [*(getattr(metrics, name) for name in NUMBERS), *metrics.category_ap]
    np.testing.assert_allclose(numbers, expected, rtol=1e-9)


def test_intervals_are_as_wide_as_those_over_images_drawn_anew() -> None:
    content, results = make_apart(3)
    analysis = analyze_detections(content, results, resamples=8)
    random = np.random.default_rng(0)
    number = len(content["images"])
    draws = [random.integers(0, number, number) for _ in range(8)]
    values = 100 * np.array([repeat_images(content, results, draw).stats for draw in draws])
    for name, column in zip(NUMBERS, values.T, strict=True):
        defined = column[column >= 0]
        moved = np.clip(defined - defined.mean() + getattr(analysis.metrics, name), 0, 100)
        expected = tuple(np.percentile(moved, (2.5, 97.5)))
        assert analysis.intervals[name] == pytest.approx(expected)
    assert analysis.metrics == evaluate_coco(content, results, backend="numpy")
    names = {f"AP-{name}" for name in analysis.metrics.class_names}
    assert set(analysis.intervals) == {*NUMBERS, *names}


def test_two_results_are_compared_on_the_same_draws() -> None:
    content, results = make_case(0)
    better = [entry for number, entry in enumerate(results) if number % 4]
    comparison = compare_detections(content, results, better, resamples=50)
    alone = analyze_detections(content, better, resamples=50)
    assert comparison.second.intervals == alone.intervals
    number = comparison.numbers["AP"]
    assert number.difference == alone.metrics.AP - comparison.first.metrics.AP
    assert number.interval[0] <= number.difference <= number.interval[1]
    assert 0 <= number.second_is_better <= 1
    differences = [image.difference for image in comparison.images]
    assert differences == sorted(differences, key=lambda value: -abs(value))
    for image in comparison.images:
        assert image.first.image_id == image.second.image_id
        assert image.difference == image.first.mistakes - image.second.mistakes
    same = compare_detections(content, results, results, resamples=10).numbers["AP50"]
    assert (same.difference, same.interval, same.second_is_better) == (0.0, (0.0, 0.0), 0.5)


def test_masks_are_compared_on_the_same_draws() -> None:
    content, results = make_apart(0, "segm")
    fewer = [entry for number, entry in enumerate(results) if number % 4]
    comparison = compare_detections(content, results, fewer, resamples=8)
    alone = analyze_detections(content, fewer, resamples=8)
    assert comparison.segm is not None and alone.segm is not None
    assert comparison.second.segm is comparison.segm.second
    assert comparison.segm.second.intervals == alone.segm.intervals
    random, number = np.random.default_rng(0), len(content["images"])
    draws = [random.integers(0, number, number) for _ in range(8)]
    of_both = [
        [repeat_images(content, each, draw, "segm").stats for draw in draws]
        for each in (results, fewer)
    ]
    differences = 100 * np.subtract(of_both[1], of_both[0])
    for name, column in zip(NUMBERS[:3], differences.T):
        found = comparison.segm.numbers[name]
        moved = column - column.mean() + found.difference
        assert found.interval == pytest.approx(np.percentile(moved, (2.5, 97.5)))
    assert comparison.segm.numbers["AP"] != comparison.numbers["AP"]
    bare = [{**entry, "segmentation": None} for entry in fewer]
    compared = compare_detections(content, results, bare, resamples=8)
    assert compared.segm is None and compared.second.segm is None
    assert compared.first.segm is not None and compared.first.segm.intervals


def test_worst_images_have_the_most_mistakes_and_the_best_the_fewest() -> None:
    analysis = analyze_detections(*make_case(0), resamples=0)
    mistakes = sorted((image.mistakes for image in analysis.images), reverse=True)
    assert [image.mistakes for image in analysis.choose_worst(3)] == mistakes[:3]
    assert [image.mistakes for image in analysis.choose_best(3)] == mistakes[::-1][:3]


def test_without_a_correct_detection_as_many_are_shown_as_there_are_objects() -> None:
    content, _ = make_case(0)
    results = [
        {
            "image_id": image["id"],
            "category_id": content["categories"][0]["id"],
            "bbox": [490, 490, 3, 3],
            "score": (10 + place) / 100,
        }
        for image in content["images"]
        for place in range(20)
    ]
    analysis = analyze_detections(content, results, resamples=2)
    assert analysis.metrics.AP == 0
    shown = sum(len(image.found.boxes) for image in analysis.images)
    assert analysis.objects <= shown <= analysis.objects + len(content["images"])
    assert analysis.intervals["AP"] == (0.0, 0.0)


def test_without_detections_or_objects_nothing_is_shown() -> None:
    content, results = make_case(0)
    empty = analyze_detections(content, [], resamples=2)
    assert math.isnan(empty.by_score.best_score)
    assert empty.intervals["AP"] == (0.0, 0.0)
    assert [error.count for error in empty.errors] == [0, 0, 0, 0, 0, empty.objects]
    assert empty.errors[-1].cost == pytest.approx(100)
    assert empty.confusion.counts[:-1, -1].sum() == empty.objects
    assert all(image.missed == image.truth.kinds.count("missed") for image in empty.images)
    nothing = analyze_detections({**content, "annotations": []}, results, resamples=2)
    assert math.isnan(nothing.metrics.AP)
    assert math.isnan(nothing.intervals["AP"][0])
    assert nothing.objects == 0
    assert sum(len(image.found.boxes) for image in nothing.images) == 0
    assert math.isnan(nothing.errors[0].cost)


def test_one_image_has_no_interval() -> None:
    """Drawn anew, it would be the same image every time."""
    content, results = make_case(0)
    one = {**content, "images": content["images"][:1]}
    image = one["images"][0]["id"]
    one["annotations"] = [a for a in content["annotations"] if a["image_id"] == image]
    found = [each for each in results if each["image_id"] == image]
    assert not analyze_detections(one, found).intervals
    assert all(math.isnan(x) for x in compare_detections(one, found, []).numbers["AP"].interval)


def test_a_wrong_limit_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ValueError, match="max_detections is 0; write an integer from 1 up"):
        analyze_detections("no such file", "none", max_detections=0)
