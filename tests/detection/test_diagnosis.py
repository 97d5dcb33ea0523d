"""What an evaluation in training shows to be wrong, on made-up detections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fvcore.common.config import CfgNode

from resnext_det.config import get_cfg
from resnext_det.data.coco import CocoDataset
from resnext_det.detection.diagnosis import (
    EvaluationWatch,
    compare_places,
    explain_zero_ap,
    find_undetected,
)

SIDE = 64.0  # of the objects, in pixels


def make_set(images: int = 20, objects: int = 3) -> CocoDataset:
    """Make a set of three classes with the ids 7, 8, 9; each image has objects in a row."""
    records: list[dict[str, Any]] = []
    for number in range(images):
        entries = [
            {"bbox": [100.0 * k, 10.0, SIDE, SIDE], "bbox_mode": 1, "category_id": k % 2}
            for k in range(objects)
        ]
        crowd = {"bbox": [0.0, 200.0, 9.0, 9.0], "category_id": 2, "iscrowd": 1}
        entries.append({**entries[0], **crowd})
        names = {"file_name": f"{number}.jpg", "image_id": number, "height": 480, "width": 640}
        records.append({**names, "annotations": entries})
    return CocoDataset("made", Path("made.json"), Path(), ("a", "b\x1b", "c"), (7, 8, 9), records)


def detect(dataset: CocoDataset, *, shift: float = 0.0, swap: bool = False) -> list[dict[str, Any]]:
    """Detect every object that is no crowd, moved to the right, or as the other class."""
    return [
        {
            "image_id": record["image_id"],
            "category_id": (8 - entry["category_id"]) if swap else (7 + entry["category_id"]),
            "bbox": [entry["bbox"][0] + shift, *entry["bbox"][1:]],
            "score": 0.9,
        }
        for record in dataset.records
        for entry in record["annotations"]
        if not entry.get("iscrowd")
    ]


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.MAX_ITER = 10, 100
    cfg.MODEL.WEIGHTS = "some.pth"
    return cfg


def test_places_and_classes_are_compared() -> None:
    dataset = make_set()
    assert compare_places(dataset, detect(dataset)) == (60, 60, 60)
    assert compare_places(dataset, detect(dataset, shift=20)) == (60, 60, 60)  # IoU 0.52
    assert compare_places(dataset, detect(dataset, shift=22)) == (60, 0, 0)  # IoU 0.49
    assert compare_places(dataset, detect(dataset, swap=True)) == (60, 60, 0)
    assert compare_places(dataset, []) == (0, 0, 0)


@pytest.mark.parametrize(
    ("rows", "settings", "words"),
    [
        ({}, {}, "60 lie on an object (IoU 0.5 or more), 60 of them with its class"),
        ({"shift": 50}, {}, "of 60 best detections 0 lie on an object"),
        (
            {"swap": True},
            {},
            "0 of these have its class; if that stays so, look whether",
        ),
        (None, {}, "no detection has a score of 0.05 or more (MODEL.ROI_HEADS.SCORE_THRESH_TEST)"),
        ({}, {"SOLVER.WARMUP_ITERS": 51}, "still rises until SOLVER.WARMUP_ITERS 51"),
        ({}, {"MODEL.WEIGHTS": ""}, "began with random weights"),
        (
            {},
            {"MODEL.ANCHOR_GENERATOR.SIZES": [[256], [512]]},
            "under 107 pixels at the test's size, and the smallest anchor is 256",
        ),
    ],
)
def test_causes_are_named_from_what_is_measured(
    cfg: CfgNode, rows: dict[str, Any] | None, settings: dict[str, Any], words: str
) -> None:
    """Images of 640x480 are tested at 1067x800: objects of 64 pixels have 107 there."""
    dataset = make_set()
    found = [] if rows is None else detect(dataset, **rows)
    cfg.merge_from_list([word for pair in settings.items() for word in pair])
    told = explain_zero_ap(cfg, dataset, found, 50)
    assert words in told
    others = ("still rises", "random weights", "smallest anchor")
    assert sum(other in told for other in others) == len(settings)


def test_ap_0_is_told_at_first_and_at_the_end(
    cfg: CfgNode, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, watch = make_set(), EvaluationWatch(cfg)
    for done, told in ((20, 1), (40, 1), (60, 1), (100, 2)):
        watch.look(dataset, detect(dataset, shift=50), 0.0, done)
        assert caplog.text.count("AP on made is 0.0 after") == told
    caplog.clear()
    EvaluationWatch(cfg).look(dataset, detect(dataset), 55.0, 20)
    EvaluationWatch(cfg).look(dataset, detect(dataset), float("nan"), 100)
    assert not caplog.records


def test_classes_without_a_detection_are_told_once(
    cfg: CfgNode, caplog: pytest.LogCaptureFixture
) -> None:
    """The class of crowds alone is none that could be found."""
    dataset, watch = make_set(), EvaluationWatch(cfg)
    rows = [row for row in detect(dataset) if row["category_id"] == 7]
    assert find_undetected(dataset, rows) == ["b\\x1b (20)"]
    for done, told in ((40, 0), (60, 1), (80, 1), (100, 1)):
        watch.look(dataset, rows, 30.0, done)
        assert caplog.text.count("there is no detection of 1 of 3 classes: b\\x1b (20)") == told
    assert find_undetected(dataset, detect(dataset)) == []
