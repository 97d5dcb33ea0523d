"""The datasets of a configuration: with masks where the model has them, and only there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from resnext_det.config import get_cfg
from resnext_det.data import coco
from resnext_det.data.contents import describe_records
from resnext_det.detection.datasets import load_datasets

TRIANGLE = [[1, 2, 9.5, 2, 9.5, 7]]
ENCODING = {"size": [10, 20], "counts": [30, 20, 150]}


def write_set(folder: Path, *masks: object) -> None:
    """Write a set of an image with an object for each mask, and register it as "mine"."""
    boxed = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 8.5, 5], "area": 20, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 10, "width": 20}],
        "annotations": [{"id": i, **boxed, "segmentation": m} for i, m in enumerate(masks, 1)],
        "categories": [{"id": 1, "name": "thing"}],
    }
    folder.mkdir(exist_ok=True)
    (folder / "mine.json").write_text(json.dumps(content))
    coco.register_coco("mine", folder / "mine.json", folder)


@pytest.fixture(autouse=True)
def own_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco, "_registered", {})


def test_masks_are_read_where_the_model_has_them(tmp_path: Path) -> None:
    write_set(tmp_path, TRIANGLE, ENCODING)
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("mine",)
    (without,) = load_datasets(cfg, "TRAIN")
    assert all("segmentation" not in each for each in without.records[0]["annotations"])
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, "bitmask"
    (dataset,) = load_datasets(cfg, "TRAIN")
    polygon, encoding = (each["segmentation"] for each in dataset.records[0]["annotations"])
    assert (polygon, encoding["size"]) == (TRIANGLE, [10, 20])
    described = [describe_records(each.records, tmp_path) for each in (without, dataset)]
    assert set(described[1]) - set(described[0]) == {"masks"}


def test_masks_that_cannot_be_trained_on_are_refused_before(tmp_path: Path) -> None:
    write_set(tmp_path, TRIANGLE, ENCODING, None)
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("mine",)
    cfg.MODEL.MASK_ON = True
    with pytest.raises(ValueError) as error:
        load_datasets(cfg, "TRAIN")
    missing, encoded = str(error.value).splitlines()
    assert missing.startswith(f"dataset 'mine' ({tmp_path / 'mine.json'}): 1 of 3 objects have no")
    assert "run-length" in encoded and encoded.endswith("write INPUT.MASK_FORMAT bitmask")
    assert len(load_datasets(cfg, "TEST")) == 1  # which an evaluation may still read


def test_an_evaluation_needs_no_masks_that_a_training_measures_on(tmp_path: Path) -> None:
    write_set(tmp_path, TRIANGLE, ENCODING, None)
    cfg = make_test_config(LOSS_PERIOD=3)
    with pytest.raises(ValueError, match=r"write INPUT\.MASK_FORMAT bitmask"):
        load_datasets(cfg, "TEST", needed=False)
    assert len(load_datasets(cfg, "TEST", in_training=False)) == 1


@pytest.mark.parametrize("metric", ["segm/AP", "segm@300/AP", "mine/segm/AP"])
def test_the_best_of_masks_is_not_followed_on_a_set_without(tmp_path: Path, metric: str) -> None:
    write_set(tmp_path, TRIANGLE, None)
    with pytest.raises(ValueError, match=f"'{metric}' .*1 of 2 annotations of dataset 'mine' "):
        load_datasets(make_test_config(BEST_METRIC=metric), "TEST")
    for other in ("bbox/AP", "other/segm/AP"):
        assert load_datasets(make_test_config(BEST_METRIC=other), "TEST")
    write_set(tmp_path, TRIANGLE, ENCODING)
    assert load_datasets(make_test_config(BEST_METRIC=metric), "TEST")


@pytest.mark.parametrize("key", ["CROP", "SCALE_JITTER"])
def test_crops_of_masks_without_shapely_are_refused_with_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    write_set(tmp_path, TRIANGLE)
    cfg = make_test_config()
    cfg.DATASETS.TRAIN = ("mine",)
    if key == "CROP":
        cfg.INPUT.CROP.ENABLED = True
    else:
        cfg.INPUT.SCALE_JITTER = (0.1, 2.0)
    with pytest.raises(ValueError, match="by shapely, which is not installed"):
        load_datasets(cfg, "TRAIN")
    assert load_datasets(cfg, "TEST")  # which are not cropped


def make_test_config(**of_test: object) -> CfgNode:
    cfg = get_cfg()
    cfg.DATASETS.TEST, cfg.MODEL.MASK_ON = ("mine",), True
    for key, value in of_test.items():
        cfg.TEST[key] = value
    return cfg
