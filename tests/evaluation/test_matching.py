"""Detections find the objects that pycocotools says, at every threshold and size."""

from __future__ import annotations

import numpy as np
import pytest

from resnext_det.evaluation.coco_files import read_ground_truth
from resnext_det.evaluation.matching import AREA_RANGES, THRESHOLDS, match_detections
from resnext_det.evaluation.result_files import read_detections
from tests.evaluation.helpers import random_set, reference
from tests.evaluation.plain import make_case


def check_matches(seed: int, limit: int = 100) -> None:
    """Compare the correct and the ignored detections of every category with pycocotools'."""
    content, results = make_case(seed)
    if seed % 4 == 0:
        content["annotations"][0]["id"] = 0  # which pycocotools takes for no match
    expected = reference(content, results, limits=(1, 5, limit))
    truth = read_ground_truth(content)
    matches = match_detections(truth, read_detections(results, truth), limit)
    cells = iter(expected.evalImgs)
    for category in range(len(truth.class_names)):
        for area in range(len(AREA_RANGES)):
            these = [next(cells) for _ in truth.image_ids]
            these = [cell for cell in these if cell is not None]
            chosen = np.flatnonzero(matches.found.categories == category)
            objects = np.full((len(THRESHOLDS), len(matches.ranks)), -1)
            objects[:, matches.candidates] = matches.objects[:, area]
            ignored = np.where(objects >= 0, matches.ignored[area][objects], matches.outside[area])[
                :, chosen
            ]
            if not these:
                assert len(chosen) == 0
                continue
            scores = np.concatenate([cell["dtScores"] for cell in these])
            order = np.argsort(-scores, kind="mergesort")
            np.testing.assert_array_equal(matches.found.scores[chosen], scores[order])
            of_them = np.concatenate([cell["dtIgnore"] for cell in these], axis=1)[:, order]
            np.testing.assert_array_equal(ignored, of_them)
            found = np.concatenate([cell["dtMatches"] for cell in these], axis=1)[:, order] > 0
            np.testing.assert_array_equal((objects[:, chosen] >= 0) & ~ignored, found & ~of_them)
            counting = truth.categories == category
            assert (~matches.ignored[area][counting]).sum() == sum(
                (cell["gtIgnore"] == 0).sum() for cell in these
            )


@pytest.mark.parametrize("seed", range(10))
def test_matches_are_those_of_pycocotools(seed: int) -> None:
    check_matches(seed)


def test_a_limit_leaves_out_the_detections_of_lowest_score() -> None:
    check_matches(2, limit=5)


@pytest.mark.slow
def test_matches_of_200_sets_are_those_of_pycocotools() -> None:
    for seed in range(200):
        check_matches(1000 + seed, limit=(100, 7)[seed % 2])


def test_sets_without_objects_or_detections() -> None:
    content, results = random_set(0)
    for objects, found in (([], results), (content["annotations"], []), ([], [])):
        truth = read_ground_truth({**content, "annotations": objects})
        matches = match_detections(truth, read_detections(found, truth), 100)
        assert matches.objects.shape == (10, 4, 0)
        finds, ignored = matches.find_objects()
        assert len(finds) == len(ignored) == len(found)
        assert (finds == -1).all()
