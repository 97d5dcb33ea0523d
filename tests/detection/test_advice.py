"""The schedule that is chosen for sets and machines, and schedules that are mistakes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resnext_det.config import config_file, load_config
from resnext_det.config.rules import get_value
from resnext_det.detection.advice import (
    CHOSEN_KEYS,
    Facts,
    choose_schedule,
    find_mistakes,
    find_rate_mistake,
)

COCO = Facts(118_287, 860_001, side=480, box_side=60, gpu_memory=80, cores=16)
PHOTOS = Facts(160, 1_600, side=480, box_side=60)
SMALL_PHOTOS = Facts(364, 4_888, side=240, box_side=40)
GPU = Facts(5_000, 30_000, side=1080, box_side=60, gpu_memory=8, cores=8)
DEFAULT = "modern/faster_rcnn_X50_32x4d_FPN_1x.yaml"


def choose(facts: Facts, given: dict[str, Any] | None = None) -> dict[str, Any]:
    """Choose a schedule, as a dict without the names of nodes."""
    settings = [choice.settings for choice in choose_schedule(facts, given)]
    return {key.split(".")[1]: value for each in settings for key, value in each.items()}


def count_epochs(facts: Facts, chosen: dict[str, Any]) -> float:
    return chosen["MAX_ITER"] * chosen["IMS_PER_BATCH"] / facts.images


def test_coco_gets_the_usual_schedule() -> None:
    """Choose what the shipped 1x configuration says, but evaluate on the way too."""
    shipped = load_config(DEFAULT)
    chosen = {}
    for choice in choose_schedule(COCO):
        chosen.update(choice.settings)
    assert set(chosen) == set(CHOSEN_KEYS)
    assert {key for key in chosen if get_value(shipped, key) != chosen[key]} == {"TEST.EVAL_PERIOD"}
    assert chosen["SOLVER.STEPS"] == (60000, 80000) and chosen["SOLVER.IMS_PER_BATCH"] == 16


def test_photographs_on_a_cpu() -> None:
    """Small images and as many epochs as some hours allow; the rate goes with the batch."""
    for facts, epochs in ((PHOTOS, 32), (SMALL_PHOTOS, 14)):
        chosen = choose(facts)
        assert count_epochs(facts, chosen) == pytest.approx(epochs, abs=1)
        assert chosen["MIN_SIZE_TRAIN"] == (256, 288, 320) and chosen["MIN_SIZE_TEST"] == 320
        assert chosen["BASE_LR"] == 0.02 * chosen["IMS_PER_BATCH"] / 16
        assert chosen["WARMUP_ITERS"] < chosen["STEPS"][0] < chosen["STEPS"][1] < chosen["MAX_ITER"]
        assert chosen["EVAL_PERIOD"] == chosen["CHECKPOINT_PERIOD"] == chosen["MAX_ITER"] // 5
    many = choose(replace(PHOTOS, cores=16))
    assert count_epochs(PHOTOS, many) == pytest.approx(100, rel=0.05)
    reasons = "\n".join(map(str, choose_schedule(PHOTOS)))
    assert "32 epochs of 160 images with 1,600 boxes: some 3 hours on 2 cores" in reasons
    assert "100 epochs would be usual" in reasons and "for a CPU" in reasons


def test_a_gpu_of_8_gib() -> None:
    """Two images of 800x1333 fit; VOC's 17 epochs of 16,551 images and COCO's 12 are near."""
    chosen = choose(GPU)
    assert (chosen["IMS_PER_BATCH"], chosen["BASE_LR"], chosen["MIN_SIZE_TEST"]) == (2, 0.0025, 800)
    assert count_epochs(GPU, chosen) == pytest.approx(35, abs=1)
    assert "what 8 GiB of GPU memory are sure to hold" in str(choose_schedule(GPU)[1])
    assert choose(replace(GPU, gpu_memory=24))["IMS_PER_BATCH"] == 8
    assert choose(replace(GPU, processes=4))["IMS_PER_BATCH"] == 8
    assert choose(replace(GPU, gpu_memory=24, network=1.9))["IMS_PER_BATCH"] == 4
    assert choose(replace(GPU, gpu_memory=3))["MIN_SIZE_TEST"] < 800
    assert choose(replace(GPU, side=240, gpu_memory=24))["MIN_SIZE_TRAIN"] == (384, 416, 448, 480)


@pytest.mark.parametrize(
    "facts",
    [
        PHOTOS,
        GPU,
        replace(PHOTOS, images=1, boxes=1),
        replace(PHOTOS, images=7, pretrained=False, processes=3, cores=64),
        replace(COCO, gpu_memory=3, network=4.0, c4=True, processes=8),
        replace(COCO, images=1_170_301),
        replace(COCO, gpu_memory=0),
        replace(PHOTOS, side=3, network=0.01, boxes=0, box_side=0),
    ],
)  # fmt: skip
def test_whatever_is_chosen_can_be_trained(facts: Facts) -> None:
    chosen = {k: v for choice in choose_schedule(facts) for k, v in choice.settings.items()}
    words = [word for key, value in chosen.items() for word in (key, str(value))]
    cfg = load_config(DEFAULT, words)  # and is held to its checks
    assert cfg.SOLVER.IMS_PER_BATCH % facts.processes == 0 < cfg.SOLVER.IMS_PER_BATCH
    told = list(find_mistakes(cfg, facts.images))
    assert not any("as if the set were a larger one" in text for text in told)


def test_what_is_given_is_kept_and_followed() -> None:
    given = {"SOLVER.MAX_ITER": 60, "SOLVER.IMS_PER_BATCH": 8, "INPUT.MIN_SIZE_TRAIN": (600,)}
    chosen = choose(PHOTOS, given)
    assert not {key.split(".")[1] for key in given} & set(chosen)
    assert (chosen["BASE_LR"], chosen["STEPS"], chosen["WARMUP_ITERS"]) == (0.01, (40, 53), 6)
    assert (chosen["MAX_SIZE_TRAIN"], chosen["MIN_SIZE_TEST"]) == (1000, 320)
    for length, steps in ((1, ()), (4, ()), (5, (3, 4)), (9, (6, 8))):
        assert choose(PHOTOS, {"SOLVER.MAX_ITER": length})["STEPS"] == steps
    assert choose(PHOTOS, {"SOLVER.MAX_ITER": 8})["EVAL_PERIOD"] == 40  # no more than every epoch
    assert "in proportion to the sizes that are given" in str(choose_schedule(PHOTOS, given)[0])
    assert "SOLVER.MAX_ITER" not in "\n".join(map(str, choose_schedule(PHOTOS, given)))


def test_small_objects_are_told() -> None:
    (sizes, *_) = choose_schedule(replace(PHOTOS, side=1000, box_side=10))
    assert "half of the objects have 3 pixels or less then" in sizes.reason


# fmt: off
MISTAKES: dict[str, tuple[list[Any], int, list[str]]] = {
    "a schedule of COCO": ([], 160, ["9,000 epochs of 160 training images", "--schedule auto"]),
    "too short": ([], 5_000_000, ["0.29 epochs of 5,000,000", "never seen"]),
    "batch": (["SOLVER.MAX_ITER", "20"], 10, ["more than the 10 training images", "lower it"]),
    "COCO itself": ([], 118_287, []),
    "a trial": (["SOLVER.MAX_ITER", "20"], 118_287, []),
}
# fmt: on


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name: str) -> None:
    overrides, images, words = MISTAKES[name]
    found = list(find_mistakes(load_config(DEFAULT, overrides), images))
    assert len(found) == bool(words)
    assert [word for word in words if word not in found[0]] == []


SETS = {
    "coco_2017_train": 118_287,
    "openimages_mlperf_train": 1_170_301,
    "shapes_train": 1200,
}


@pytest.mark.parametrize(
    "path", sorted(config_file("base/fpn.yaml").parents[1].rglob("*.yaml")), ids=lambda p: p.name
)
def test_shipped_configurations_are_no_mistakes(path: Path) -> None:
    if {"classification", "base", "lazy"} & set(path.parts) or path.name.startswith("classifier"):
        return
    cfg = load_config(path)
    (name,) = cfg.DATASETS.TRAIN
    assert list(find_mistakes(cfg, SETS[name])) == []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], []),
        (["SOLVER.IMS_PER_BATCH", "8"], []),
        (["SOLVER.IMS_PER_BATCH", "2"], ["replaces 16", "write SOLVER.BASE_LR 0.0025"]),
        (["SOLVER.IMS_PER_BATCH", "64"], ["write SOLVER.BASE_LR 0.08"]),
        (["SOLVER.IMS_PER_BATCH", "2", "SOLVER.BASE_LR", "0.00025"], []),
    ],
)
def test_a_batch_without_its_rate(overrides: list[str], words: list[str]) -> None:
    found = list(find_rate_mistake(load_config(DEFAULT, overrides), load_config(DEFAULT)))
    assert len(found) == bool(words)
    assert [word for word in words if word not in found[0]] == []
