"""The datasets of a configuration: with masks where the model has them, and only there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
