"""Every rule names its fault in made-up measurements, with the number, and nothing when sound."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from resnext_det.config import load_config
from resnext_det.config.detection import add_own_keys
from resnext_det.data.records import XYWH_ABS, Record
from resnext_det.data.statistics import SetStatistics, summarize_boxes
from resnext_det.detection.datasets import describe_view
from resnext_det.evaluation.systematic import Displacement, Renaming
from resnext_det.report.causes import RULES, list_causes
from resnext_det.report.faults.measurements import Difference, Found, Measurements

NAMES = ("bolt", "nut", "washer")
QUICKSTART = "quickstart/faster_rcnn_X26_8x4d_FPN_shapes.yaml"


def configure(**changes: Any) -> Any:
    """Configure the quickstart with other values, of which a double underscore stands for a dot."""
    pairs = {key.replace("__", "."): str(value) for key, value in changes.items()}
    return load_config(QUICKSTART, [word for pair in pairs.items() for word in pair])


def make_set(
    *,
    images: int = 400,
    objects: int = 4,
    side: float = 40,
    size: int = 256,
    classes: tuple[float, ...] = (1 / 3, 1 / 3, 1 / 3),
    doubled: float = 0,
    corners: bool = False,
    within: float = 1.0,
    cfg: Any = None,
    prefix: str = "train",
) -> SetStatistics:
    """Make the statistics of square images with square boxes, drawn at random."""
    draw = np.random.RandomState(0)
    records: list[Record] = []
    for number in range(images):
        entries = []
        for _ in range(objects):
            length = side * draw.uniform(0.8, 1.2)
            corner = draw.uniform(0, size * within - length, 2).tolist()
            end = [min(x + length, size - x) for x in corner] if corners else [length] * 2
            kind = int(draw.choice(len(classes), p=classes))
            entry = {"bbox_mode": XYWH_ABS, "iscrowd": 0, "bbox": [*corner, *end]}
            entries.append({**entry, "category_id": kind})
            if draw.uniform() < doubled:
                entries.append({**entry, "category_id": (kind + 1) % len(classes)})
        name = f"{prefix}/{number}.jpg"
        record = {"file_name": name, "height": size, "width": size, "image_id": number}
        records.append({**record, "annotations": entries})
    return summarize_boxes(records, NAMES, describe_view(cfg or configure()))


def make_found(
    *,
    side: float = 30,
    reached: float = 0.9,
    tiny_reached: float | None = None,
    stray: float = 0.0,
    limit: int = 20,
    confusion: np.ndarray | None = None,
    lost: int | None = None,
) -> Found:
    """Make what was found of 400 objects on 100 images."""
    draw = np.random.RandomState(1)
    sides, classes = draw.uniform(0.8, 1.2, 400) * side, np.arange(400) % 3
    share = np.full(400, reached)
    if tiny_reached is not None:
        sides[:200] = 10
        share[:200] = tiny_reached
    hits = (draw.uniform(size=400) < share) & (classes != lost)
    nearest = np.where(draw.uniform(size=1000) < stray, 0.0, 0.7)
    return Found(
        sides=sides,
        classes=classes,
        reached=np.where(hits, 0.8, 0.0),
        touched=np.where(hits, 0.8, 0.3),
        scores=draw.uniform(size=1000),
        nearest=nearest,
        objects_of_image=np.full(100, 4),
        detections_of_image=np.full(100, min(limit, 10)),
        confusion=np.diag([100, 100, 100]) if confusion is None else confusion,
    )


TRAIN, TEST = make_set(), make_set(images=100, prefix="test")
LOSSES = dict(zip(range(19, 800, 20), np.linspace(2.2, 0.6, 40).tolist()))
SOUND = Measurements(
    cfg=configure(),
    class_names=NAMES,
    ap50=88.0,
    category_ap=(60.0, 62.0, 64.0),
    costs={"classification": 2.0, "localization": 3.0, "duplicate": 0.1, "missed": 4.0},
    series={"total_loss": LOSSES, "bbox/AP": {399: 55.0, 799: 62.0}},
    train=TRAIN,
    test=TEST,
    found=make_found(),
    appearance=[Difference("brightness", 0.5, 0.52, 0.1)],
)
BAD = replace(SOUND, ap50=25.0)
FLAT = dict.fromkeys(range(19, 800, 20), 2.3)


def change_cfg(measured: Measurements, **changes: Any) -> Measurements:
    """Change settings of the configuration, and the statistics that depend on them."""
    return replace(measured, cfg=configure(**changes))


def test_a_sound_run_has_no_cause() -> None:
    assert list_causes(SOUND) == []


def test_nothing_is_found_where_nothing_is_known() -> None:
    assert list_causes(Measurements()) == []


CASES: dict[str, tuple[Measurements, str, str, str]] = {
    "exchanged names": (
        replace(
            BAD,
            renaming=Renaming((("bolt", "nut"), ("nut", "bolt")), ((90, 95), (80, 85)), 12.0, 61.0),
        ),
        "Class names are exchanged: bolt, nut",
        "90 of 95 bolt are found as nut; 80 of 85 nut are found as bolt. With the names exchanged "
        "AP would be 61.0 and not 12.0.",
        "category ids",
    ),
    "shifted boxes": (
        replace(BAD, displacement=Displacement("pixels", (8.1, -5.9), (1.0, 1.0), 90, 12.0, 60.0)),
        "do not mean the same place",
        "detections lie 8.1 pixels to the right and 5.9 above of the annotated boxes",
        "show-data",
    ),
    "corners": (
        replace(BAD, train=make_set(corners=True)),
        "Boxes of the training set seem to be corners",
        "and 100.0% of all do so",
        "[x1, y1, x2 - x1, y2 - y1]",
    ),
    "boxes of smaller images": (
        replace(BAD, train=make_set(within=0.8)),
        "Boxes of the training set seem to be of smaller images",
        "They end within 79% of the images' width and 79% of their height; those",
        "multiply the training boxes",
    ),
    "missing boxes": (
        replace(BAD, train=make_set(objects=2)),
        "seem to have no box",
        "2.0 boxes on average, one of the test set 4.0: 50% fewer",
        "Annotate every object",
    ),
    "unlabeled objects": (
        replace(BAD, found=make_found(stray=0.4)),
        "where the test set has no box",
        "Of the 200 detections of the highest scores",
        "FILTER_EMPTY_ANNOTATIONS",
    ),
    "two classes at once": (
        replace(BAD, train=make_set(doubled=0.3)),
        "as two classes at once",
        "pairs of boxes of the training set lie on each other",
        "one class for each object",
    ),
    "shared images": (
        replace(SOUND, shared=[("test/1.jpg", "train/7.jpg")] * 40),
        "test images were trained on",
        "40 of 100 test images (40%)",
        "evaluate again",
    ),
    "copies": (
        replace(SOUND, copies=[("train/8.jpg", "train/7.jpg")] * 100),
        "there several times",
        "100 of 400 training images (25%)",
        "Remove the copies",
    ),
    "a class never in training": (
        replace(BAD, train=make_set(classes=(0.5, 0.5, 0)), category_ap=(40.0, 40.0, 0.0)),
        "Never in training: washer",
        "no box of 1 of the 3 classes",
        "Annotate washer",
    ),
    "a rare class": (
        replace(BAD, train=make_set(classes=(0.49, 0.5, 0.01)), category_ap=(40.0, 40.0, 3.0)),
        "Rare in training: washer",
        "AP of the rare ones is 3.0, of the others 40.0",
        "RepeatFactorTrainingSampler",
    ),
    "other images": (
        replace(BAD, appearance=[Difference("brightness", 0.5, 0.1, 0.1)]),
        "look unlike",
        "brightness 0.50 and 0.10. These are 4.0 standard deviations",
        "Add images",
    ),
    "other shares": (
        replace(BAD, train=make_set(classes=(0.8, 0.1, 0.1))),
        "other shares",
        "bolt is 78% of the boxes in training and 34%",
        "Draw both sets",
    ),
    "another size in tests": (
        change_cfg(BAD, INPUT__MIN_SIZE_TRAIN="(96,)"),
        "another size in tests",
        "an object has 15 pixels a side in training and 30 in tests",
        "INPUT.MIN_SIZE_TEST 96",
    ),
    "images too large": (
        replace(
            BAD,
            train=make_set(size=2048, side=80),
            test=make_set(size=2048, side=80, images=100),
            found=make_found(side=8, reached=0.1),
        ),
        "much larger than the size",
        "Images of 2048 x 2048 pixels are shrunk to 192 x 192. 100% of the test objects",
        "INPUT.MIN_SIZE_TEST 608",
    ),
    "tiny objects": (
        replace(
            BAD,
            train=make_set(side=10, size=192),
            test=make_set(side=10, size=192, images=100),
            found=make_found(tiny_reached=0.1),
        ),
        "Objects are tiny",
        "of these are found, and 9",
        "MODEL.RPN.IN_FEATURES",
    ),
    "wrong anchors": (
        (
            lambda cfg: replace(
                BAD, cfg=cfg, train=make_set(cfg=cfg), test=make_set(cfg=cfg, images=100)
            )
        )(configure(MODEL__ANCHOR_GENERATOR__SIZES="[[128],[256],[512]]")),
        "Anchors do not fit",
        "100% of the boxes overlap no anchor by an IoU of 0.3",
        "MODEL.ANCHOR_GENERATOR.SIZES '[[32],[64],[128]]'",
    ),
    "rate too high": (
        replace(change_cfg(BAD, SOLVER__BASE_LR=0.4), series={"total_loss": FLAT}),
        "learning rate is too high",
        "SOLVER.BASE_LR 0.4 is 80 times the usual one for 4 images",
        "SOLVER.BASE_LR 0.005",
    ),
    "divergence": (
        replace(BAD, series={"total_loss": {19: 2.2, 39: float("nan")}}),
        "diverged",
        "no number at iteration 39",
        "SOLVER.BASE_LR",
    ),
    "rate too low": (
        change_cfg(BAD, SOLVER__BASE_LR=0.0001),
        "learning rate is too low",
        "0.02 times the usual one",
        "SOLVER.BASE_LR 0.005",
    ),
    "rate of Adam too low": (
        change_cfg(BAD, SOLVER__OPTIMIZER="Adam", SOLVER__BASE_LR=1e-6),
        "learning rate is too low",
        "0.01 times the usual one",
        "SOLVER.BASE_LR 0.0001",
    ),
    "too few iterations": (
        replace(change_cfg(BAD, SOLVER__MAX_ITER=50), series={"total_loss": {19: 2.2, 49: 1.9}}),
        "Too few iterations",
        "are 0.5 epochs of 400 images, where 81 would be usual; the loss went from 2.20 to 1.90",
        "--schedule auto",
    ),
    "frozen at random": (
        change_cfg(BAD, MODEL__WEIGHTS="", MODEL__BACKBONE__FREEZE_AT=5),
        "frozen at random",
        "MODEL.BACKBONE.FREEZE_AT is 5",
        "MODEL.BACKBONE.FREEZE_AT 0",
    ),
    "batch norm of one image": (
        change_cfg(BAD, MODEL__RESNETS__NORM="BN", SOLVER__IMS_PER_BATCH=1, SOLVER__BASE_LR=0.002),
        "Batch norms",
        "a step has 1 image:",
        "FrozenBN",
    ),
    "swapped channels": (
        change_cfg(BAD, INPUT__FORMAT="BGR"),
        "wrong order",
        "ImageNet's mean in the order RGB",
        "INPUT.FORMAT RGB",
    ),
    "overridden settings": (
        replace(BAD, warnings=["INPUT.FORMAT BGR holds, and changes the detector's numbers."]),
        "Settings differ from those",
        "INPUT.FORMAT BGR",
        "Leave the override out",
    ),
    "overfitting": (
        replace(BAD, series={"total_loss": LOSSES, "bbox/AP": {199: 30.0, 399: 20.0}}),
        "became worse",
        "AP was 30.0 at iteration 199 and is 20.0 at the end",
        "TEST.BEST_METRIC",
    ),
    "validation loss": (
        replace(
            BAD,
            series={"total_loss": LOSSES, "validation/total_loss": {99: 1.5, 199: 1.0, 299: 1.4}},
        ),
        "became worse",
        "was 1.00 at iteration 199 and is 1.40 at the end",
        "TEST.PATIENCE",
    ),
    "no flips": (
        change_cfg(SOUND, INPUT__RANDOM_FLIP="none"),
        "never flipped",
        "400 training images",
        "INPUT.RANDOM_FLIP horizontal",
    ),
    "nothing found": (
        replace(BAD, found=make_found(reached=0)),
        "Hardly any object is found",
        "1,000 detections on 100 images overlap 0 of 400 objects by 0.5",
        "inspect",
    ),
    "score threshold": (
        replace(
            change_cfg(BAD, MODEL__ROI_HEADS__SCORE_THRESH_TEST=0.7), found=make_found(reached=0.4)
        ),
        "score threshold",
        "SCORE_THRESH_TEST is 0.7",
        "SCORE_THRESH_TEST 0.05",
    ),
    "few detections": (
        replace(change_cfg(BAD, TEST__DETECTIONS_PER_IMAGE=3), found=make_found(limit=3)),
        "Too few detections",
        "100 of 100 images reach it, and images have up to 4 objects: 25% of all",
        "TEST.DETECTIONS_PER_IMAGE 100",
    ),
    "few proposals": (
        change_cfg(BAD, MODEL__RPN__POST_NMS_TOPK_TEST=5),
        "Too few proposals",
        "less than twice the objects of 100 of 100 images",
        "POST_NMS_TOPK_TEST 1000",
    ),
    "few proposals for very many objects": (
        replace(
            change_cfg(BAD, MODEL__RPN__POST_NMS_TOPK_TEST=1000),
            found=replace(make_found(), objects_of_image=np.full(100, 600)),
        ),
        "Too few proposals",
        "MODEL.RPN.POST_NMS_TOPK_TEST is 1000, less than twice the objects of 100 of 100 images",
        "POST_NMS_TOPK_TEST 1200",
    ),
    "repeated detections": (
        replace(change_cfg(BAD, MODEL__ROI_HEADS__NMS_THRESH_TEST=0.7), costs={"duplicate": 20.0}),
        "several times",
        "cost 20.0 points",
        "NMS_THRESH_TEST 0.5",
    ),
    "repeated detections at the usual threshold": (
        replace(BAD, costs={"duplicate": 20.0}),
        "several times",
        "cost 20.0 points of AP50 (MODEL.ROI_HEADS.NMS_THRESH_TEST 0.5)",
        "NMS_THRESH_TEST 0.4 or lower",
    ),
    "a class never found": (
        replace(SOUND, found=make_found(lost=1)),
        "Never found: nut",
        "None of 133 objects",
        "show-data",
    ),
    "confused classes": (
        replace(BAD, found=make_found(confusion=np.array([[50, 40, 0], [0, 90, 0], [0, 0, 90]]))),
        "bolt is taken for nut",
        "Of 90 objects of bolt that a detection fits, 40 (44%) are called nut",
        "join the two classes",
    ),
    "poor masks": (
        replace(SOUND, mask_ap50=61.5),
        "Masks fit worse than boxes",
        "AP50 is 88.0 of boxes and 61.5 of masks",
        "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION, now 14",
    ),
    "the main error": (
        replace(BAD, costs={"missed": 30.0, "both": 1.0}),
        "Objects are missed",
        "30.0 points higher",
        "INPUT.MIN_SIZE_TEST",
    ),
}


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("INPUT.STRETCH", (256, 320), "INPUT.STRETCH"),
        ("INPUT.SCALE_JITTER", (0.5, 2.0), "INPUT.SCALE_JITTER_SIZE"),
    ],
)
def test_advice_names_the_key_of_sizes_that_holds(key: str, value: Any, named: str) -> None:
    """The values of MIN_SIZE_TRAIN, and of all sizes where images are stretched, change nothing."""
    for name in ("the main error", "tiny objects", "images too large"):
        measured = CASES[name][0]
        assert measured.cfg is not None
        cfg = measured.cfg.clone()
        cfg.defrost()
        add_own_keys(cfg)
        cfg.merge_from_list([key, value])
        (cause,) = [
            each for each in list_causes(replace(measured, cfg=cfg)) if CASES[name][1] in each.title
        ]
        assert named in cause.advice and "MIN_SIZE_TRAIN" not in cause.advice
        assert ("MIN_SIZE_TEST" in cause.advice) == (key == "INPUT.SCALE_JITTER")


@pytest.mark.parametrize("name", CASES)
def test_a_fault_is_named_with_its_number_and_a_remedy(name: str) -> None:
    measured, title, number, remedy = CASES[name]
    causes = [cause for cause in list_causes(measured) if title in cause.title]
    assert len(causes) == 1, [cause.title for cause in list_causes(measured)]
    assert number in causes[0].evidence
    assert remedy in causes[0].advice
    assert 0 < causes[0].weight <= 100


def test_every_rule_has_a_case_and_the_costliest_comes_first() -> None:
    fired = {rule for rule in RULES for measured, *_ in CASES.values() if rule(measured)}
    assert fired == set(RULES)
    for measured, *_ in CASES.values():
        weights = [cause.weight for cause in list_causes(measured)]
        assert weights == sorted(weights, reverse=True)


def find_settings(advice: str) -> list[tuple[str, str]]:
    """Find the settings that an advice names, KEY VALUE."""
    found = re.findall(r"([A-Z]+(?:\.[A-Z_]+)+) ([^\s;:,]+)", advice)
    return [(key, value.rstrip(".")) for key, value in found]


def test_no_remedy_is_a_value_that_is_set() -> None:
    for measured, *_ in CASES.values():
        for cause in list_causes(measured):
            for key, value in find_settings(cause.advice):
                assert str(measured.get(key)) != value, cause


def test_what_was_advised_and_is_set_is_not_advised_again() -> None:
    """Sizes and anchors are left out: what is measured of the sets follows them in a run."""
    tried = set()
    for measured, *_ in CASES.values():
        for cause in list_causes(measured):
            cfg, done = (measured.cfg or configure()).clone(), set()
            add_own_keys(cfg)
            for key, value in find_settings(cause.advice):
                is_word = value.islower() and value != "horizontal"
                if not is_word and not key.startswith(("INPUT.M", "MODEL.ANCHOR")):
                    with suppress(ValueError):  # it is no value of this key
                        cfg.merge_from_list([key, value])
                        done.add((key, value))
            for again in list_causes(replace(measured, cfg=cfg)):
                assert not done & {*find_settings(again.advice)}, again
            tried |= {key for key, _ in done}
    assert len(tried) > 10 and "DATALOADER.FILTER_EMPTY_ANNOTATIONS" in tried


def test_what_a_short_training_and_a_detector_that_goes_on_are_not_blamed_for() -> None:
    """Losses that did not fall in two lines tell nothing of the rate, nor those of a detector."""
    short = replace(change_cfg(BAD, SOLVER__MAX_ITER=40), series={"total_loss": {19: 2.2, 39: 2.3}})
    assert [cause.title for cause in list_causes(short)] == ["Too few iterations"]
    assert list_causes(replace(short, began_as_detector=True)) == []
    assert list_causes(replace(BAD, series={"total_loss": FLAT}, began_as_detector=True)) == []
    assert len(list_causes(replace(BAD, series={"total_loss": FLAT}))) == 2


def test_control_characters_of_names_are_escaped() -> None:
    renaming = Renaming((("a\x1b[2J", "b"), ("b", "a\x1b[2J")), ((9, 9), (9, 9)), 1.0, 60.0)
    confusion = np.array([[50, 40, 0], [0, 90, 0], [0, 0, 90]])
    names = ("bolt\x1b[2J", "nut", "washer")
    for measured in (
        replace(BAD, renaming=renaming),
        replace(BAD, class_names=names, found=make_found(confusion=confusion)),
        replace(BAD, class_names=names, found=make_found(lost=0)),
    ):
        assert list_causes(measured)
        for cause in list_causes(measured):
            assert "\x1b" not in cause.title + cause.evidence + cause.advice
