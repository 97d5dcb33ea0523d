"""The page of a set: what is found in it, and what it shows where images are missing."""

from __future__ import annotations

import base64
import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fvcore.common.config import CfgNode

from resnext_det.config import load_config
from resnext_det.data.coco import load_coco, register_coco
from resnext_det.detection.datasets import describe_view, load_datasets, summarize_set
from resnext_det.detection.portable.build import build_detector
from resnext_det.report.data_findings import Finding, find_copies, find_faults
from resnext_det.report.data_page import write_data_page
from resnext_det.report.data_pictures import choose_images, draw_samples
from tests.detection.helpers import C4_CHANGES, DC5_CHANGES, VAL_IMAGES, write_config
from tests.report.helpers import Page, check_page

Sets = dict[str, tuple[Path, Path]]


def read_page(path: Path) -> Page:
    return check_page(path.read_text(encoding="utf-8"))


def make_set(folder: Path, name: str, boxes: list[list[Any]], classes: list[str]) -> None:
    """Register a set without images: an image of 200 x 160 for each list of (class, box)."""
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": 200, "height": 160}
            for i in range(len(boxes))
        ],
        "annotations": [
            {"image_id": i, "category_id": kind, "bbox": box, "iscrowd": 0}
            for i, own in enumerate(boxes)
            for kind, box in own
        ],
        "categories": [{"id": i, "name": text} for i, text in enumerate(classes)],
    }
    for number, annotation in enumerate(content["annotations"], 1):
        annotation["id"] = number
    (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "none").mkdir(exist_ok=True)
    register_coco(name, folder / f"{name}.json", folder / "none")


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    return load_config(write_config(tmp_path), ["OUTPUT_DIR", str(tmp_path / "out")])


@pytest.mark.parametrize("changes", [[], C4_CHANGES, DC5_CHANGES], ids=["FPN", "C4", "DC5"])
def test_the_strides_of_anchors_are_those_of_the_detector(
    changes: list[Any], tmp_path: Path
) -> None:
    cfg = load_config(write_config(tmp_path), changes)
    model, anchors = build_detector(cfg), describe_view(cfg).anchors
    assert anchors is not None and model.proposal_generator is not None
    assert anchors.strides == model.proposal_generator.anchor_generator.strides
    assert anchors.padding == (model.size_divisibility or 1)


def test_anchors_without_inner_lists_are_those_of_every_level(cfg: CfgNode) -> None:
    """detectron2 takes them so; the portable engine refuses them."""
    cfg.merge_from_list(["MODEL.ANCHOR_GENERATOR.SIZES", [16, 32]])
    anchors = describe_view(cfg).anchors
    assert anchors is not None and anchors.sizes == [[16, 32]]


def test_the_page_shows_a_sound_set(registered: None, cfg: CfgNode) -> None:
    page = write_data_page(cfg, num_images=4, told=["a < b"])
    assert page.path == Path(cfg.OUTPUT_DIR, "data.html")
    assert [found for found in page.findings if found.weight == "error"] == []
    shown = read_page(page.path)
    assert shown.tags["img"] == 4 + 2
    assert shown.tags["svg"] == 1 + 4 + 2
    addresses = [*shown.sources, *shown.links]
    assert all(re.match(r"data:image/jpeg;base64,|#", address) for address in addresses)
    text = page.path.read_text(encoding="utf-8")
    assert "a &lt; b" in text and f"{VAL_IMAGES} test images with" in text
    train = summarize_set(cfg, load_coco("tiny_train"))
    assert f"{train.num_objects} objects of 6 classes" in text


def test_missing_images_are_said_and_the_rest_is_shown(
    sets: Sets, alone: None, cfg: CfgNode, tmp_path: Path
) -> None:
    for name, (file, images) in sets.items():
        shutil.copytree(images, tmp_path / name)
        register_coco(name, file, tmp_path / name)
    gone = sorted((tmp_path / "tiny_train").iterdir())[2:]
    for path in [*gone, *(tmp_path / "tiny_val").iterdir()]:
        path.unlink()
    page = write_data_page(cfg, tmp_path / "page.html", num_images=3)
    errors = [found.text for found in page.findings if found.weight == "error"]
    assert len(errors) == 2 and all("images do not exist" in text for text in errors)
    assert "2 errors" in page.summary
    assert read_page(tmp_path / "page.html").tags["img"] == 2
    assert "None of those looked for is there" in page.path.read_text(encoding="utf-8")


SQUARE = [20.0, 20.0, 80.0, 20.0, 80.0, 60.0, 20.0, 60.0]
OF_ANOTHER_SIZE = {"size": [200, 160], "counts": [0, 32000]}
BROKEN_MASKS = {
    "four numbers": ([SQUARE[:4]], "warning", "2 annotations have polygons of under 3 points"),
    "an odd count": ([SQUARE[:7]], "warning", "2 annotations have polygons of under 3 points"),
    "outside": ([[x + 300 for x in SQUARE]], "warning", "2 of 3 masks that were looked at are not"),
    "missing": (None, "error", "2 of 3 objects have no segmentation, on which MODEL.MASK_ON"),
    "another size": (
        OF_ANOTHER_SIZE,
        "error",
        "(the masks of these annotations are broken too: 3)",
    ),
    "too far": ([[*SQUARE[:7], 1e9]], "error", "has a polygon with the number 1000000000.0"),
}


@pytest.mark.parametrize("kind", BROKEN_MASKS)
def test_broken_masks_are_listed_on_the_page_and_refused_by_a_training(
    alone: None, cfg: CfgNode, tmp_path: Path, kind: str
) -> None:
    mask, weight, words = BROKEN_MASKS[kind]
    make_set(tmp_path, "masked", [[[0, [20, 20, 60, 40]]] * 3], ["a"])
    file = tmp_path / "masked.json"
    content = json.loads(file.read_text())
    for entry, own in zip(content["annotations"], [[SQUARE], mask, mask], strict=True):
        entry["segmentation"] = own
    file.write_text(json.dumps(content))
    cv2.imwrite(str(tmp_path / "none" / "0.png"), np.zeros((160, 200, 3), np.uint8))
    cfg.merge_from_list(["DATASETS.TRAIN", ("masked",), "DATASETS.TEST", ()])
    cfg.merge_from_list(["MODEL.MASK_ON", True])
    page = write_data_page(cfg, tmp_path / "page.html")
    found = [each.weight for each in page.findings if words in each.text]
    assert found == [weight], page.findings
    assert words in read_page(page.path).text and "1 training images with " in page.summary
    if weight == "error":
        with pytest.raises(ValueError, match=re.escape(words)):
            load_datasets(cfg, "TRAIN")


def test_missing_proposals_are_listed_on_the_page(
    alone: None, cfg: CfgNode, tmp_path: Path
) -> None:
    make_set(tmp_path, "given", [[[0, [20, 20, 60, 40]]]], ["a"])
    cfg.merge_from_list(["DATASETS.TRAIN", ("given",), "DATASETS.TEST", ()])
    none = tmp_path / "none.pkl"
    cfg.merge_from_list(
        ["MODEL.LOAD_PROPOSALS", True, "DATASETS.PROPOSAL_FILES_TRAIN", (str(none),)]
    )
    page = write_data_page(cfg, tmp_path / "page.html")
    errors = [found.text for found in page.findings if found.weight == "error"]
    assert any(text.startswith(f"proposals {none} are not there") for text in errors)
    assert "1 training images with 1 objects" in page.summary


def test_a_set_without_objects_is_shown_beside_another(
    alone: None, cfg: CfgNode, tmp_path: Path
) -> None:
    make_set(tmp_path, "empty", [[]], ["a"])
    make_set(tmp_path, "other", [[[0, [5, 5, 60, 40]]]], ["a"])
    cfg.merge_from_list(["DATASETS.TRAIN", ("empty",), "DATASETS.TEST", ("other",)])
    page = write_data_page(cfg, tmp_path / "page.html")
    assert "1 training images with 0 objects of 1 classes" in page.summary
    read_page(page.path)


def find(cfg: CfgNode, train: str | None, test: str | None = None) -> list[Finding]:
    train_set, test_set = (
        summarize_set(cfg, load_coco(name)) if name else None for name in (train, test)
    )
    return list(find_faults(cfg, train_set, test_set))


def check(findings: list[Finding], *expected: tuple[str, str]) -> None:
    """Check weights and beginnings of sentences, each of which is there once."""
    for weight, words in expected:
        matching = [found for found in findings if words in found.text]
        assert [found.weight for found in matching] == [weight], findings


@pytest.mark.parametrize("augmented", [True, False])
@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_masks_are_shown_where_they_are_trained_and_tested(
    mask_format: str, augmented: bool, registered: None, cfg: CfgNode
) -> None:
    (dataset,) = load_datasets(cfg, "TRAIN")
    statistics = summarize_set(cfg, dataset)
    draw = partial(draw_samples, cfg, statistics, indices=[0], augmented=augmented)
    (plain,) = draw(dataset.records)
    cfg.merge_from_list(["MODEL.MASK_ON", True, "INPUT.MASK_FORMAT", mask_format])
    (dataset,) = load_datasets(cfg, "TRAIN")
    (masked,) = draw(dataset.records)
    pixels = [read_picture(each) for each in (plain, masked)]
    assert pixels[0].shape == pixels[1].shape
    changed = (np.abs(pixels[0] - pixels[1]).max(axis=2) > 30).mean()
    assert 0.01 < changed < 0.6
    lacking = list(dataset.records)
    del lacking[-1]["annotations"][0]["segmentation"]
    if not augmented:  # a training refuses such a set
        assert draw(lacking) == [plain]


def read_picture(markup: str) -> np.ndarray:
    """Read a picture of a page: BGR, int64 (H, W, 3)."""
    (address,) = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", markup)
    data = np.frombuffer(base64.b64decode(address), np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert picture is not None
    return picture.astype(np.int64)


def test_a_sound_set_has_no_faults(alone: None, cfg: CfgNode, tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    for name in ("sound", "other"):
        boxes = [
            [
                [k % 3, [x * 50.0, y * 40.0, *random.uniform([35, 30], [48, 39]).tolist()]]
                for k, (x, y) in enumerate([(random.randint(4), 0), (random.randint(4), 2)])
            ]
            for _ in range(60)
        ]
        make_set(tmp_path, name, boxes, ["a", "b"])
    cfg.merge_from_list(["INPUT.MIN_SIZE_TEST", 160, "INPUT.MAX_SIZE_TEST", 300])
    cfg.merge_from_list(["INPUT.MIN_SIZE_TRAIN", (160,), "INPUT.MAX_SIZE_TRAIN", 300])
    cfg.merge_from_list(["MODEL.ANCHOR_GENERATOR.SIZES", [[17], [34], [68]]])
    assert find(cfg, "sound", "other") == []


def test_faults_of_boxes_are_found(alone: None, cfg: CfgNode, tmp_path: Path) -> None:
    box = [10.0, 10.0, 60.0, 40.0]
    twice = [[[0, box], [0, [10.0, 10.0, 61.0, 40.0]], [1, [10.0, 10.0, 60.0, 41.0]]]] * 30
    make_set(tmp_path, "odd", [*twice, [[2, box]]], ["left shoe", "right shoe", "rare"])
    tiny = [[[0, [5.0 * k, 5.0, 3.0, 12.0]] for k in range(30)] for _ in range(3)]
    make_set(tmp_path, "tiny", tiny, ["left shoe", "right shoe", "rare"])
    cfg.merge_from_list(["TEST.DETECTIONS_PER_IMAGE", 20])
    check(
        find(cfg, "odd", "tiny"),
        ("warning", "30 pairs of training boxes of the same class"),
        ("warning", "60 pairs of training boxes of different classes"),
        ("warning", "1 of 3 classes have fewer than 10 training objects: rare (1)"),
        ("warning", "a flip exchanges; write INPUT.RANDOM_FLIP none"),
        (
            "warning",
            "so that 33.3% of the objects cannot be found; write TEST.DETECTIONS_PER_IMAGE 30",
        ),
    )


def test_faults_that_a_report_names_are_found_before_the_training(
    alone: None, cfg: CfgNode, tmp_path: Path
) -> None:
    names = ["left shoe", "right shoe"]
    large = [
        [[int(k == 2), [10 + 62.0 * k, 10.0, 60.0, 40.0]] for k in range(3)] for _ in range(40)
    ]
    make_set(tmp_path, "large", large, names)
    tiny = [[[0, [5.0 * k, 5.0, 3.0, 12.0]] for k in range(30)] for _ in range(4)]
    make_set(tmp_path, "tiny", tiny, names)
    check(
        find(cfg, "large", "tiny"),
        ("warning", "size in tests than in training: By the median an object has 17 pixels a side"),
        ("warning", "left shoe is 67% of the boxes in training and 100% in the test"),
        (
            "warning",
            "are shrunk to 80 x 64. 100% of the test objects have less than 16 pixels a side",
        ),
        ("warning", "of the training set has 3.0 boxes on average, one of the test set 30.0: 90%"),
    )
    check(find(cfg, "tiny"), ("warning", "100% of the training objects have less than 16 pixels"))
    cfg.merge_from_list(["MODEL.ANCHOR_GENERATOR.SIZES", [[100], [200], [400]]])
    check(
        find(cfg, "large"),
        ("warning", "Anchors do not fit the boxes: 100% of the boxes overlap no anchor by an IoU"),
        ("warning", "Train with MODEL.ANCHOR_GENERATOR.SIZES '[[25],[50],[100]]': 100% of the"),
    )


def test_boxes_without_an_area_are_told_and_advice_stays_finite(
    alone: None, cfg: CfgNode, tmp_path: Path
) -> None:
    """Integers are truncated after resizing: of these boxes nothing is left."""
    make_set(
        tmp_path, "gone", [[[0, [5 * k, 5, 1, 1]] for k in range(30)] for _ in range(4)], ["a"]
    )
    check(
        find(cfg, "gone"),
        ("warning", "120 of 120 training boxes (100.0%) have no area left"),
        ("warning", "MIN_SIZE_TRAIN (160,) INPUT.MIN_SIZE_TEST 160, and INPUT.MAX_SIZE_TRAIN"),
    )


def test_copies_of_images_are_found(tmp_path: Path) -> None:
    for name, content in {"a": b"1", "b": b"2", "c": b"1", "d": b"2", "e": b"3"}.items():
        (tmp_path / name).write_bytes(content)
    a, b, c, d, e = (str(tmp_path / name) for name in "abcde")
    check(
        list(find_copies([a, b, c], [d, e])),
        ("warning", f"1 of 2 test images have the same content as training images, the first {d}"),
        ("warning", f"1 of 3 training images are copies of others, the first {c} of {a}"),
    )
    assert list(find_copies([a, b], [e])) == []


def test_every_class_is_among_the_chosen_images(registered: None, cfg: CfgNode) -> None:
    found = summarize_set(cfg, load_coco("tiny_train"))
    chosen = choose_images(found, 6)
    assert len(chosen) == 6 and chosen == sorted(set(chosen)) == choose_images(found, 6)
    seen = set(found.classes[np.isin(found.owners, chosen)])
    assert seen == set(found.classes)
    assert len(choose_images(found, 100)) == found.num_images and choose_images(found, 0) == []
